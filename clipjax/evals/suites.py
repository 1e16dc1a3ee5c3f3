"""Lists of benchmarks by name, and the means over them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from clipjax.config import UsageError, did_you_mean
from clipjax.config.benchmarks import AGGREGATES, ALIASES, BENCHMARKS, Benchmark
from clipjax.evals.embedded import QUICK
from clipjax.evals.estimate import Estimate

PROTOCOLS = ("clip-benchmark", "clip-benchmark-amp", "datacomp-v1")
"""clip-benchmark: everything in the precision of the model, as CLIP_benchmark with --no_amp; -amp:
everything in 16 bits, as it does by default. datacomp-v1: class embeddings, retrieval and
association in 16 bits, pictures of classification in 32, as DataComp's evaluator."""

_FOLDERS = (
    Path("configs/evals"),
    Path(__file__).parents[2] / "configs" / "evals",
    Path(__file__).parent / "lists",
)
_KINDS = {  # by the part of a name before the language or subset
    "flickr30k_200": ("Flickr30k-200", "mean_recall@1"),
    "xtd200": ("XTD200", "mean_recall@1"),
    "multilingual_mscoco_captions": ("Multilingual MSCOCO", "mean_recall@1"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """Benchmarks that are run together.

    Attributes:
        name: of the list.
        benchmarks: in order.
        protocol: one of PROTOCOLS.
    """

    name: str
    benchmarks: Sequence[Benchmark]
    protocol: str = PROTOCOLS[0]


def read_suite(spec: str) -> Suite:
    """Returns the suite of a name, a file, or names of tasks with commas between them.

    A file holds one task a line; `#` begins a comment, `protocol: NAME` names the protocol.

    Raises:
        UsageError: if there is no such suite or task.
    """
    path = _find(spec)
    if path is None:
        names = [name.strip() for name in spec.split(",") if name.strip()]
        return Suite(name=spec, benchmarks=[benchmark_of(name, list(suites())) for name in names])
    names, protocol = [], PROTOCOLS[0]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        text = line.partition("#")[0].strip()
        if text.startswith("protocol:"):
            protocol = check_protocol(text.partition(":")[2].strip(), f"{path}:{number + 1}")
        elif text:
            names.append(text)
    if not names:
        raise UsageError(f"--suite={spec}: {path} names no task.")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UsageError(f"--suite={spec}: {path} names {repeated[0]!r} twice.")
    benchmarks = [benchmark_of(name) for name in names]
    return Suite(name=path.stem, benchmarks=benchmarks, protocol=protocol)


def check_protocol(name: str, where: str) -> str:
    """Returns the protocol.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UsageError(
            f"{where}: no protocol {name!r}.{did_you_mean(name, PROTOCOLS)} There are: "
            f"{', '.join(PROTOCOLS)}."
        )
    return name


def benchmark_of(name: str, others: Sequence[str] = ()) -> Benchmark:
    """Returns the benchmark of a name.

    >>> benchmark_of("wds/vtab/dtd").title, benchmark_of("folder:pets/mine").main_metric
    ('Describable Textures', 'acc1')

    Args:
        name: as CLIP_benchmark or DataComp write it, or `folder:NAME` for any folder in
            CLIP_benchmark's layout.
        others: further names that the nearest is looked for among.

    Raises:
        UsageError: if there is none of that name.
    """
    name = name.removeprefix("wds/")
    if name.startswith("folder:"):
        own = name.removeprefix("folder:")
        return Benchmark(name=own, title=own, kind=None)
    found = BENCHMARKS.get(ALIASES.get(name, name)) or QUICK.get(name)
    if found is not None:
        return found
    family, _, part = name.partition("/")
    if part and family in _KINDS:
        title, metric = _KINDS[family]
        return Benchmark(
            name=name,
            title=f"{title} {part}",
            kind="retrieval",
            main_metric=metric,
            folders=(family,),
            get=f"CLIP_benchmark's annotations {family}-{part}.json and the images beside them",
        )
    if name in others:
        raise UsageError(f"--suite: {name!r} is a list of tasks: name it alone, or tasks of it.")
    known = [*BENCHMARKS, *ALIASES, *QUICK, *others]
    raise UsageError(
        f"--suite: no suite or task {name!r}.{did_you_mean(name, known)} `clipjax evaluate --list` "
        "prints them; a folder of your own in CLIP_benchmark's layout is written folder:NAME."
    )


def suites() -> Mapping[str, Path]:
    """Returns the lists by name."""
    found: dict[str, Path] = {}
    for folder in reversed(_FOLDERS):
        found |= {path.stem: path for path in sorted(folder.glob("*.txt"))}
    return dict(sorted(found.items()))


def aggregates(
    benchmarks: Sequence[Benchmark], scores: Mapping[str, Estimate]
) -> dict[str, Estimate]:
    """Returns the mean of all main scores, and those of the groups that are there as a whole.

    The interval takes the errors of the tasks as independent and normal; it says how sure the mean
    is for these tasks, not how it would come out for others.

    Args:
        benchmarks: of the suite.
        scores: the main metric by task; a mean is left out where one of its tasks is missing.
    """
    means = {"Average": [one for one in benchmarks if one.main_metric]}
    for tag, title in AGGREGATES.items():
        tagged = [one for one in BENCHMARKS.values() if tag in one.tags]
        if {one.name for one in tagged} <= {one.name for one in benchmarks}:
            means[title] = tagged
    out = {}
    for title, of in means.items():
        if of and all(one.name in scores for one in of):
            parts = [scores[one.name] for one in of]
            value = float(np.mean([part.value for part in parts]))
            # Half the width of an interval is 1.96 standard errors.
            half = float(np.sqrt(np.sum([((p.high - p.low) / 2) ** 2 for p in parts])) / len(parts))
            out[title] = Estimate(
                value=value,
                low=max(value - half, 0.0),
                high=min(value + half, 1.0),
                chance=float(np.mean([part.chance for part in parts])),
                samples=sum(part.samples for part in parts),
            )
    return out


def _find(spec: str) -> Path | None:
    path = Path(spec)
    if path.suffix == ".txt":
        if not path.is_file():
            raise UsageError(f"--suite={spec}: no such file.")
        return path
    return suites().get(spec)
