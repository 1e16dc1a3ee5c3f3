"""Scores embeddings: what a linear classifier or the nearest neighbours read from them.

clipjax probe --train embeddings/train --test embeddings/test
clipjax probe --train a.npy --train_labels a_labels.npy --test b.npy --test_labels b_labels.npy
clipjax probe --train embeddings/train --test embeddings/test --kind few_shot --shots 1,2,4,8,16

A set is a folder of `clipjax embed` whose samples have a .cls file, or a .npy file of features and
one of labels. A linear probe chooses its C among 97 from 1e-6 to 1e6 on --val, or on a fifth of
--train, and then learns from both. Images that did not decode count as wrong.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import Parser
from clipjax.config import UsageError, UserError

if TYPE_CHECKING:
    from clipjax.evals.labelled_features import LabelledFeatures

_SETS = {
    "train": "the images to learn from",
    "test": "the images to score",
    "val": "the images to choose C by",
}
# Flags that only some kinds read, with the value that they have where they are not given.
_DEFAULTS = {
    "val": (None, ("linear", "few_shot")),
    "val_labels": (None, ("linear", "few_shot")),
    "c": (None, ("linear", "few_shot")),
    "score": ("acc1", ("linear",)),
    "seed": (0, ("linear",)),
    "max_iterations": (1000, ("linear",)),
    "k": (20, ("knn",)),
    "temperature": (0.07, ("knn",)),
    "resamples": (2000, ("linear", "knn")),
    "shots": ("1,2,4,8,16", ("few_shot",)),
    "seeds": (3, ("few_shot",)),
    "method": ("linear", ("few_shot",)),
    "devices": (False, ("linear", "few_shot")),
}


def configure(parser: Parser) -> None:
    """Adds the flags."""
    for name, what in _SETS.items():
        parser.add_argument(
            f"--{name}",
            required=name != "val",
            metavar="DIR|FILE.npy",
            help=f"{what}: a folder of `clipjax embed`, or their features",
        )
        parser.add_argument(
            f"--{name}_labels",
            metavar="FILE.npy",
            help="their classes, whole numbers (default: labels.npy of the folder)",
        )
    parser.add_argument(
        "--kind",
        choices=["linear", "knn", "few_shot"],
        default="linear",
        help="logistic regression, a vote of the nearest, or a few images a class (linear)",
    )
    parser.add_argument(
        "--c", type=float, metavar="C", help="linear: no search (few_shot without --val: 1)"
    )
    parser.add_argument(
        "--score",
        choices=["acc1", "mean_per_class_recall"],
        help="linear: which score chooses C (acc1)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="linear: of the split where there is no --val (0)"
    )
    parser.add_argument(
        "--max_iterations", type=int, metavar="N", help="linear: of L-BFGS for one C (1000)"
    )
    parser.add_argument("--k", type=int, metavar="N", help="knn: how many vote (20)")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="knn: votes have the weight exp(cosine / T); 0 for votes of one (0.07)",
    )
    parser.add_argument("--shots", metavar="N,N", help="few_shot: images a class (1,2,4,8,16)")
    parser.add_argument("--seeds", type=int, metavar="N", help="few_shot: draws of them (3)")
    parser.add_argument(
        "--method",
        choices=["linear", "mean"],
        help="few_shot: linear probes, or the nearest mean of a class (linear)",
    )
    parser.add_argument(
        "--devices",
        action="store_true",
        default=None,
        help="fit on all devices, in float32 (default: on the host, in float64)",
    )
    parser.add_argument(
        "--resamples", type=int, metavar="N", help="linear, knn: behind each interval (2000)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Scores; returns what it prints."""
    _take_defaults(args)
    _check(args)
    shots = _shots(args.shots)
    if args.val is None and args.val_labels is not None:
        raise UsageError("--val_labels without --val: name the features that they belong to.")
    train, test = _read(args, "train"), _read(args, "test")
    val = _read(args, "val") if args.val is not None else None
    sets = {name: one for name, one in (("train", train), ("val", val), ("test", test)) if one}
    for name, one in sets.items():
        lost = len(one) - int(one.usable.sum())
        if lost:
            _say(f"{one.where}: {lost:,} of {len(one):,} images did not decode ({name}).")
    figures: dict[str, Any] = {
        "kind": args.kind,
        **{f"{name}_images": len(one) for name, one in sets.items()},
        "dim": train.features.shape[1],
    }
    if args.kind == "linear":
        return figures | _linear(args, train, val, test)
    if args.kind == "knn":
        return figures | _neighbours(args, train, test)
    return figures | _few_shot(args, train, val, test, shots)


def _linear(
    args: argparse.Namespace,
    train: "LabelledFeatures",
    val: "LabelledFeatures | None",
    test: "LabelledFeatures",
) -> dict[str, Any]:
    from clipjax.evals import linear_probe as probe

    scores = {"acc1": probe.accuracy, "mean_per_class_recall": probe.mean_per_class_recall}
    found = probe.linear_probe(
        train,
        val,
        test,
        c=args.c,
        make_objective=_make_objective(args),
        score=scores[args.score],
        seed=args.seed,
        max_iterations=args.max_iterations,
        say=_say,
    )
    figures = _scored(f"linear, C={found.c:.3g}", found.predicted, test, args.resamples)
    return {"c": found.c, "sweep": [list(row) for row in found.table], **figures}


def _neighbours(
    args: argparse.Namespace,
    train: "LabelledFeatures",
    test: "LabelledFeatures",
) -> dict[str, Any]:
    from clipjax.evals.neighbours import nearest_neighbours

    temperature = args.temperature or None
    predicted = nearest_neighbours(train, test, k=args.k, temperature=temperature)
    figures = _scored(f"{args.k} neighbours", predicted, test, args.resamples)
    return {"k": args.k, "temperature": temperature, **figures}


def _few_shot(
    args: argparse.Namespace,
    train: "LabelledFeatures",
    val: "LabelledFeatures | None",
    test: "LabelledFeatures",
    shots: list[int],
) -> dict[str, Any]:
    from clipjax.evals.few_shot import few_shot

    found = few_shot(
        train,
        test,
        shots=shots,
        seeds=range(args.seeds),
        method=args.method,
        c=1.0 if args.c is None else args.c,
        val=val,
        make_objective=_make_objective(args),
        say=_say,
    )
    print("images a class  accuracy  spread  95 % interval  draws")
    rows = []
    for result in found:
        low, high = result.interval
        several = len(result.accuracies) > 1
        print(
            f"{result.shots:14d}  {result.mean:8.4f}  "
            f"{f'{result.spread:.4f}' if several else '-':>6}  "
            f"{f'{low:.4f}-{high:.4f}' if several else '-':>13}  "
            + " ".join(f"{accuracy:.4f}" for accuracy in result.accuracies)
        )
        rows.append(
            {
                "shots": result.shots,
                "mean": result.mean,
                "spread": result.spread if several else None,
                "interval": [low, high] if several else None,
                "accuracies": list(result.accuracies),
                "c": list(result.chosen_c),
            }
        )
    print(
        f"Means over {args.seeds} draws of the training images; spread is their standard "
        "deviation, and the interval is of the mean, by Student's t."
    )
    return {"method": args.method, "few_shot": rows}


def _scored(name: str, predicted: Any, test: "LabelledFeatures", resamples: int) -> dict[str, Any]:
    from clipjax.evals.probe_scores import probe_scores
    from clipjax.evals.report import table, to_json

    results = {name: probe_scores(predicted, test.labels, resamples=resamples)}
    print(table(results))
    return {"metrics": to_json(results)[name]}


def _take_defaults(args: argparse.Namespace) -> None:
    """Gives flags their values; raises UsageError for one that this kind does not read."""
    for name, (default, kinds) in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif args.kind not in kinds:
            raise UsageError(
                f"--{name} is for --kind={' and --kind='.join(kinds)}, not for --kind={args.kind}. "
                "Leave it out."
            )


def _check(args: argparse.Namespace) -> None:
    if args.c is not None and not 0 < args.c < float("inf"):
        raise UsageError(f"--c={args.c}: expected a positive number.")
    if not 0 <= args.temperature < float("inf"):
        raise UsageError(f"--temperature={args.temperature}: expected a positive number, or 0.")
    for name, least in (("max_iterations", 1), ("seeds", 1), ("k", 1), ("resamples", 100)):
        if getattr(args, name) < least:
            raise UsageError(f"--{name}={getattr(args, name)}: expected {least} or more.")
    if args.seed < 0:
        raise UsageError(f"--seed={args.seed}: expected 0 or more.")


def _shots(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--shots={text}: expected numbers from 1 on, such as 1,2,4,8,16.")
    return sorted({int(part) for part in parts})


def _read(args: argparse.Namespace, name: str) -> "LabelledFeatures":
    from clipjax.evals.labelled_features import read_labelled

    features, labels = getattr(args, name), getattr(args, f"{name}_labels")
    if os.path.isdir(features):
        folder, features = features, os.path.join(features, "image_features.npy")
        labels = labels or os.path.join(folder, "labels.npy")
        if not os.path.isfile(features):
            raise UserError(
                f"--{name}={folder}: no image_features.npy there. Write it with `clipjax embed "
                "--images --format npy`."
            )
        if not os.path.isfile(labels):
            raise UserError(
                f"--{name}={folder}: no {os.path.basename(labels)}; `clipjax embed` writes it "
                f"where every sample has a .cls file. Or name the classes with --{name}_labels."
            )
    if labels is None:
        raise UsageError(f"--{name}={features}: name its classes with --{name}_labels.")
    return read_labelled(features, labels)


def _make_objective(args: argparse.Namespace) -> Any:
    if not args.devices:
        from clipjax.evals.logistic import numpy_objective

        return numpy_objective
    from clipjax.config import MeshConfig
    from clipjax.core.mesh import make_mesh
    from clipjax.inference.probe_objective import probe_objective

    return probe_objective(make_mesh(MeshConfig()))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["probe", *sys.argv[1:]])
