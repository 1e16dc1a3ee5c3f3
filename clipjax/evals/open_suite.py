"""From the names of benchmarks to tasks whose data were found and checked."""

from clipjax.config import DualEncoderConfig, EvalsConfig, RemoteConfig
from clipjax.config.benchmarks import Benchmark
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.dataset import Dataset
from clipjax.evals.embedded import QUICK, open_embedded
from clipjax.evals.open_dataset import open_dataset
from clipjax.evals.places import MissingDataError, find
from clipjax.evals.prompts import PromptFiles
from clipjax.evals.suite_task import SuiteTask
from clipjax.evals.suites import read_suite


def open_benchmark(
    benchmark: Benchmark,
    root: str,
    transform: EvaluationTransform,
    *,
    split: str = "test",
    only: bool = False,
    prompt_files: PromptFiles | None = None,
    remote: RemoteConfig | None = None,
) -> Dataset:
    """Returns the data set of a benchmark, of the package or below a folder or URL.

    Args:
        benchmark: which.
        root: see `places.find`.
        transform: of the model.
        split: e.g. "test".
        only: whether it is the only task, so that `root` may be its folder.
        prompt_files: class names and templates instead of those of the data.
        remote: how servers are asked.

    Raises:
        MissingDataError: if it is not there; what to get is said.
        UserError: if it cannot be used.
    """
    if benchmark.name in QUICK:
        if split != "test":
            raise MissingDataError(f"{benchmark.name}: has no split {split!r}; there is test.")
        return open_embedded(benchmark, transform, prompt_files)
    place = find(benchmark, root, split, only=only, remote=remote)
    return open_dataset(
        benchmark, place, transform, split=split, prompt_files=prompt_files, remote=remote
    )


def suite_tasks(
    evals: EvalsConfig, model: DualEncoderConfig, remote: RemoteConfig | None = None
) -> dict[str, SuiteTask]:
    """Returns the tasks of the suite of a run, by name; {} where it has none.

    Args:
        evals: names the suite and its data.
        model: how pictures are cut for it.
        remote: how servers are asked.

    Raises:
        UserError: if one of them cannot be opened: a run should not find that out later.
    """
    if not evals.suite:
        return {}
    suite = read_suite(evals.suite)
    transform = EvaluationTransform.of(model)
    only = len(suite.benchmarks) == 1
    return {
        one.name: SuiteTask(
            benchmark=one,
            dataset=open_benchmark(one, evals.suite_data, transform, only=only, remote=remote),
            resamples=evals.bootstrap_resamples,
        )
        for one in suite.benchmarks
    }
