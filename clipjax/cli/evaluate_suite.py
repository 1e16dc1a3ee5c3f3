"""The part of `clipjax evaluate` that runs a suite of benchmarks with a model of any format."""

import argparse
import contextlib
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.cli.configs import cluster_from
from clipjax.cli.parser import Parser
from clipjax.config import MeshConfig, UsageError, UserError

_HOUR = 3600.0


def configure(parser: Parser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("suites of benchmarks")
    group.add_argument(
        "--model", metavar="MODEL", help="--workdir of a run, hf:ORG/NAME, folder, file or preset"
    )
    group.add_argument("--preset", metavar="NAME", help="which model a file of weights is")
    group.add_argument("--suite", metavar="NAME", help="a list, a file of names, or names with ,")
    group.add_argument("--list", action="store_true", help="print suites and tasks")
    group.add_argument(
        "--data",
        default="",
        metavar="ROOT",
        help="folder or URL with a folder a task, or with {dataset} in it; tfds: for TFDS",
    )
    group.add_argument("--out", metavar="DIR", help="results; work goes on where it stopped")
    group.add_argument(
        "--protocol",
        metavar="NAME",
        help="clip-benchmark (-amp) or datacomp-v1; the suite's by default",
    )
    group.add_argument("--classnames", default="", metavar="FILE", help="instead of the data's")
    group.add_argument("--templates", default="", metavar="FILE", help="instead of the data's")
    group.add_argument(
        "--probe",
        default="",
        metavar="A,B",
        help="learn from the split train of each classification task: linear, knn, few_shot",
    )
    group.add_argument("--split", default="test", metavar="NAME", help="(default: test)")
    group.add_argument(
        "--batch_size", type=int, default=256, metavar="N", help="of all devices (default: 256)"
    )
    group.add_argument("--fsdp", type=int, default=1, metavar="N", help="split parameters so often")
    group.add_argument("--resamples", type=int, default=2000, metavar="N", help="behind intervals")
    group.add_argument("--keep_features", action="store_true", help="leave embeddings in DIR")
    group.add_argument("--again", action="store_true", help="do what is done already once more")
    group.add_argument("--name", default="", metavar="NAME", help="of the model in results.csv")


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Evaluates; returns the results in process 0."""
    from clipjax.evals.suite_probe import check_probes
    from clipjax.evals.suites import check_protocol, read_suite

    if args.list:
        return _list()
    for flag in ("model", "suite", "out"):
        if not getattr(args, flag):
            raise UsageError(f"clipjax evaluate: --{flag} is missing; see --help.")
    if args.workdir:
        raise UsageError("--workdir is for the tasks of a run's config: write --model instead.")
    if args.config or args.overrides:
        raise UsageError("--config is for the tasks of a run's config; a suite takes none.")
    if args.batch_size < 1 or args.resamples < 1 or args.fsdp < 1:
        raise UsageError("--batch_size, --resamples and --fsdp must be positive.")
    args.probes = check_probes(args.probe)
    suite = read_suite(args.suite)
    if args.tasks:
        chosen = read_suite(args.tasks).benchmarks
        names = [one.name for one in suite.benchmarks]
        for one in chosen:
            if one.name not in names:
                raise UsageError(
                    f"--tasks={args.tasks}: {one.name!r} is not in the suite {suite.name!r}. There "
                    f"are: {', '.join(names)}."
                )
        suite = type(suite)(name=suite.name, benchmarks=chosen, protocol=suite.protocol)
    protocol = check_protocol(args.protocol, "--protocol") if args.protocol else suite.protocol
    from clipjax.core.distributed import joined

    with joined(cluster_from(args)) as lifeline:
        return _Evaluation(args, suite, protocol, lifeline).run()


def step_of(value: str | None, workdir: str) -> int | None:
    """Returns the step that --step names.

    Raises:
        UsageError: if it is neither a number nor "best".
    """
    if value is None or value.isdecimal():
        return None if value is None else int(value)
    if value != "best":
        raise UsageError(f"--step={value}: expected a number or best.")
    from clipjax.core.best_checkpoints import best_step

    return best_step(Path(workdir))


class _Evaluation:
    """One model over one suite; every process does the same, and process 0 writes."""

    def __init__(self, args: argparse.Namespace, suite: Any, protocol: str, lifeline: Any):
        import jax

        from clipjax.evals.evaluation_folder import check_same_model
        from clipjax.evals.prompts import PromptFiles
        from clipjax.evals.records import identity
        from clipjax.inference.load import load
        from clipjax.inference.suite_features import SuiteFeatures

        self._args, self._suite, self._protocol = args, suite, protocol
        self._lifeline, self._primary = lifeline, jax.process_index() == 0
        self._folder = Path(args.out)
        self._prompt_files = PromptFiles(args.classnames, args.templates)
        if self._primary:
            _make_folder(self._folder)
        lifeline.phase("load", _HOUR)
        self._model = load(
            args.model,
            step=step_of(args.step, args.model),
            preset=args.preset,
            all_devices=True,
            batch_size=args.batch_size,
            mesh=MeshConfig(fsdp=args.fsdp),
        )
        if self._primary and not args.again:
            check_same_model(self._folder, self._model.identity)
        config = self._model.config
        identify = functools.partial(
            identity,
            model=self._model.identity,
            protocol=protocol,
            image_size=config.image.image_size,
        )
        self._features = SuiteFeatures(
            self._folder / "features", config.embed_dim, identify, writes=self._primary
        )
        self._encode = self._model.encoder.bind(self._model.params, progress="embedding")
        self._reduced = self._encode
        if protocol != "clip-benchmark":
            reduced = self._model.in_16_bits()
            self._reduced = reduced.bind(self._model.params, progress="embedding")

    def run(self) -> dict[str, Any] | None:
        from clipjax.evals.places import MissingDataError

        records: dict[str, Any] = {}
        failed: dict[str, str] = {}
        status = 0
        tasks = {}
        for benchmark in self._suite.benchmarks:
            try:
                tasks[benchmark.name] = self._open(benchmark)
            except UserError as error:
                failed[benchmark.name] = str(error)
                status = status if isinstance(error, MissingDataError) else 1
                self._say(f"not run: {error}")
        for number, (name, task) in enumerate(tasks.items(), 1):
            self._lifeline.phase(f"evaluate {name}", _HOUR)
            try:
                records[name] = self._one(task, f"{number}/{len(tasks)}")
            except UserError as error:
                failed[name], status = str(error), 1
                self._say(f"failed: {error}")
            if self._primary:
                self._write(records, failed)
        results = self._write(records, failed) if self._primary else None
        if not records:
            status = 1
        self._args.exit_status = status
        if results is not None:
            if not self._args.keep_features:
                self._features.clean()
            self._finish(results)
        return results

    def _open(self, benchmark: Any) -> Any:
        from clipjax.evals.suite_task import SuiteTask

        return SuiteTask(
            benchmark=benchmark,
            dataset=self._dataset(benchmark, self._args.split),
            protocol=self._protocol,
            resamples=self._args.resamples,
        )

    def _dataset(self, benchmark: Any, split: str) -> Any:
        from clipjax.data.resize import EvaluationTransform
        from clipjax.evals.open_suite import open_benchmark

        return open_benchmark(
            benchmark,
            self._args.data,
            EvaluationTransform.of(self._model.config),
            split=split,
            only=len(self._suite.benchmarks) == 1,
            prompt_files=self._prompt_files,
        )

    def _one(self, task: Any, progress: str) -> dict[str, Any]:
        from clipjax.core.distributed import broadcast_int
        from clipjax.evals.records import identity, read_record

        data = task.dataset
        mark = identity(
            model=self._model.identity,
            data=data.sha256(),
            prompts=data.prompts.sha256() if data.prompts else None,
            protocol=self._protocol,
            resamples=self._args.resamples,
            image_size=self._model.config.image.image_size,
            probes=self._args.probes,
        )
        found = read_record(self._folder, data.name) if self._primary else None
        done = found is not None and found.get("identity") == mark and not self._args.again
        if broadcast_int(int(done)):
            self._say(f"{progress} {data.name}: done already.")
            return found or {}
        self._say(f"{progress} {data.name}: {len(data.keys):,} items ...")
        for note in data.notes:
            self._say(f"note: {data.name}: {note}")
        if self._primary and self._args.again:
            self._remove_features(data.name)
        evaluated = self._embed(task)
        record = {**evaluated.record, "identity": mark}
        if self._args.probes and data.kind == "classification":
            try:
                record["metrics"] |= self._probe(task, evaluated)
            except UserError as error:  # the zero-shot scores are there all the same
                record["notes"].append(f"not probed: {error}")
                record["identity"] = ""  # so that it is tried again
                self._say(f"warning: {data.name}: not probed: {error}")
        if self._primary:
            record = self._keep(task, record, evaluated)
        main = record["main_metric"]
        if main:
            score = evaluated.scores[main]
            self._say(
                f"{progress} {data.name}: {main} {score.value:.4f} ({score.low:.4f}-"
                f"{score.high:.4f}), {record['seconds']['embed']:.1f} s"
            )
        if record["bad_samples"]:
            self._say(
                f"warning: {data.name}: {record['bad_samples']:,} items do not decode and count "
                f"as wrong; the first: {record['bad_examples'][0]}"
            )
        return record

    def _embed(self, task: Any) -> Any:
        import numpy as np

        from clipjax.evals.records import file_name

        data, files = task.dataset, self._features
        with contextlib.ExitStack() as opened:
            prompts = None
            if data.prompts is not None and data.kind != "attributes":
                count = len(data.prompts.distinct())
                prompts = opened.enter_context(files.prompt_rows(count, data.prompts.sha256()))
            rows = opened.enter_context(self._rows(data))
            evaluated = task.evaluate(
                self._encode, reduced=self._reduced, rows=rows, prompt_rows=prompts
            )
        if self._primary and self._args.keep_features and evaluated.texts is not None:
            texts = files.path(f"{file_name(data.name)}.texts")
            np.save(texts, evaluated.texts, allow_pickle=False)
        return evaluated

    def _rows(self, data: Any, suffix: str = "") -> Any:
        from clipjax.evals.records import file_name

        return self._features.rows(
            f"{file_name(data.name)}{suffix}", len(data.items), data.sha256()
        )

    def _probe(self, task: Any, evaluated: Any) -> dict[str, Any]:
        import dataclasses

        from clipjax.evals.suite_probe import probe
        from clipjax.inference.probe_objective import probe_objective

        self._lifeline.phase(f"probe {task.dataset.name}", _HOUR)
        train = self._train(task)
        self._say(f"{train.name}: {len(train.keys):,} images to learn from ...")
        with self._rows(train, ".train") as rows:
            features = self._encode.images(train.items, rows, progress=f"embedding {train.name}")
        scores = probe(
            self._args.probes,
            train,
            features,
            task.dataset,
            evaluated.items,
            make_objective=probe_objective(self._model.encoder.mesh),
            resamples=self._args.resamples,
            say=self._say,
        )
        return {name: dataclasses.asdict(score) for name, score in scores.items()}

    def _train(self, task: Any) -> Any:
        """Returns the images to learn from."""
        data, train = task.dataset, self._dataset(task.benchmark, "train")
        if list(train.prompts.class_names) != list(data.prompts.class_names):
            raise UserError(
                f"{data.name}: the split train has {len(train.prompts.class_names):,} classes, "
                f"others than the {len(data.prompts.class_names):,} that are scored, so that a "
                "label means two things. Expected the same folders in both."
            )
        return train

    def _keep(self, task: Any, record: dict[str, Any], evaluated: Any) -> dict[str, Any]:
        from clipjax.evals.records import write_task
        from clipjax.evals.thumbnails import examples_of, pictures_of

        data = task.dataset
        record["examples"] = examples_of(data, evaluated.outcome)
        pictures = pictures_of(data, evaluated.outcome)
        kept = write_task(self._folder, record, evaluated.outcome, data.keys, pictures)
        if not self._args.keep_features:
            self._remove_features(data.name)
        return kept

    def _remove_features(self, task: str) -> None:
        from clipjax.evals.records import file_name

        for suffix in ("", ".train"):
            self._features.remove(f"{file_name(task)}{suffix}")

    def _write(self, records: Mapping[str, Any], failed: Mapping[str, str]) -> dict[str, Any]:
        from clipjax.evals.records import write_results
        from clipjax.models import num_params
        from clipjax.models.cost import pair_forward_flops

        config = self._model.config
        model = {
            "name": self._args.name or Path(self._args.model).name,
            "spec": self._args.model,
            "step": self._model.step,
            "parameters": num_params(config),
            "flops": pair_forward_flops(config),
            "identity": self._model.identity,
        }
        suite = self._suite
        return write_results(
            self._folder, model, suite.name, self._protocol, suite.benchmarks, records, failed
        )

    def _finish(self, results: dict[str, Any]) -> None:
        from clipjax.evals.html_report import write_report
        from clipjax.evals.report import results_table
        from clipjax.evals.results_csv import write_csv

        write_csv(self._folder / "results.csv", results)
        page = write_report(self._folder)
        print(results_table(results))
        self._say(f"{page}: the same with pictures and all metrics.")

    def _say(self, text: str) -> None:
        if self._primary:
            print(text, file=sys.stderr, flush=True)


def _list() -> dict[str, Any]:
    from clipjax.evals.suites import read_suite, suites

    listed = {name: [one.name for one in read_suite(name).benchmarks] for name in suites()}
    for name, tasks in listed.items():
        print(f"{name} ({len(tasks)} tasks)")
        for task in tasks:
            print(f"  {task}")
    return listed


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out={folder}: cannot be written ({error.strerror}).") from error
