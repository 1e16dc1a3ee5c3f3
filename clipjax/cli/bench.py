"""Measures: a train step and a tokenizer against a rival's, losses, host time around a step.

clipjax bench step --preset ViT-B-16 --dtype bfloat16 --batch_size 256,512 --remat names
clipjax bench step --vs open_clip --json -
clipjax bench tokenizer --vs open_clip --json -
clipjax bench dispatch --preset ViT-B-32
clipjax bench loss --batch_size 4096 --devices 8
clipjax bench load --preset ViT-L-14 --json -
clipjax bench evaluate --vs clip_benchmark --json -
clipjax bench neurons world
clipjax bench neurons scan --json -
"""

import argparse
import os
import sys
from typing import Any, get_args

from clipjax.cli import bench_neurons
from clipjax.cli.parser import Parser, simulate_devices
from clipjax.config import ComputeConfig, UsageError
from clipjax.config.fields import AttentionImplementation, Remat


def configure(parser: Parser) -> None:
    """Adds the benchmarks and their flags."""
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="WHAT", required=True)

    step = benchmarks.add_parser(
        "step",
        help="time a whole train step: alone, or taking turns with a rival's",
        description="Times whole train steps (forward, loss, backward, clipping, AdamW) on the "
        "devices that JAX finds, and prints a table: ms, samples/s, TFLOP/s of a device and MFU, "
        "from the FLOPs of the model (recomputation does not count) and the data sheet's peak in "
        "bfloat16. With --vs, the same model and batch in another library on one device: two "
        "processes take turns, one step a turn, and who begins changes from round to round; the "
        "ratio is the median over the rounds, with a 95 % bootstrap interval. Needs pip install "
        "'clipjax[parity]'.",
    )
    step.add_argument(
        "--vs",
        choices=["none", "open_clip"],
        default="none",
        help="the rival (default: %(default)s)",
    )
    _add_preset(step)
    step.add_argument(
        "--batch_size",
        type=_counts,
        default=[16],
        metavar="N[,N...]",
        help="pairs of a step, over all devices (default: 16)",
    )
    _add_count(step, "--rounds", 9, "timed rounds of each")
    step.add_argument(
        "--threads",
        type=_count,
        metavar="N",
        help="with --vs, CPUs that either may use (default: 2, beside a GPU all)",
    )
    step.add_argument(
        "--device", choices=["cpu", "gpu"], help="(default: what JAX finds, a GPU with --vs)"
    )
    for flag, values, meaning in (
        ("dtype", ["float32", "bfloat16"], "of activations and products"),
        ("remat", list(get_args(Remat)), "what the backward pass finds saved"),
        ("attention", list(get_args(AttentionImplementation)), "what computes attention"),
        ("reduce_dtype", ["float32", "bfloat16"], "in which devices add up gradients"),
    ):
        default = getattr(ComputeConfig(), flag)
        told = default or "that of --dtype"
        step.add_argument(
            f"--{flag}", choices=values, default=default, help=f"{meaning} (default: {told})"
        )
    step.add_argument("--scan_layers", action="store_true", help="one compiled block for all")

    tokenizer = benchmarks.add_parser(
        "tokenizer",
        help="time CLIP's tokenizer, taking turns with a rival's, and compare the ids",
        description="Tokenizes captions that are made on the spot: natural ones (English words, "
        "ten on average) and hard ones (entities, accents, emoji, other scripts, mojibake). Two "
        "processes take turns with new captions in every round; the ratio is the rival's CPU time "
        "over ours, on natural captions, median over the rounds. Then the ids of both are "
        "compared. Needs pip install 'clipjax[parity]'.",
    )
    _add_rival(tokenizer)
    _add_count(tokenizer, "--rounds", 5, "timed rounds of each")
    _add_count(tokenizer, "--captions", 5000, "captions of each kind in a round")

    load = benchmarks.add_parser(
        "load",
        help="time reading weights, taking turns with a plain reader, and its peak memory",
        description="Writes random weights of a model as safetensors (open_clip's names) and reads "
        "them in fresh processes that take turns: ours onto the device, and "
        "safetensors.numpy.load_file with one transposed copy of each matrix. The ratio is the "
        "median over the rounds; the peak is that of anonymous memory over the size of the file.",
    )
    load.add_argument(
        "--preset", default="ViT-L-14", metavar="NAME", help="model (default: %(default)s)"
    )
    load.add_argument(
        "--dir", default=None, metavar="DIR", help="for the file (default: the temporary folder)"
    )
    _add_count(load, "--rounds", 3, "timed loads of each")

    evaluate = benchmarks.add_parser(
        "evaluate",
        help="time evaluation, taking turns with a rival's, and compare what both compute",
        description="Against CLIP_benchmark: photographs to batches alone, and to logits; against "
        "open_clip: 80 prompts of each of 50 classes to class embeddings. Two processes with the "
        "same weights take turns; the ratio is the rival's CPU time over ours, median over the "
        "rounds. Pixels and embeddings of both are compared. Needs pip install 'clipjax[parity]'.",
    )
    evaluate.add_argument(
        "--vs",
        choices=["clip_benchmark", "open_clip"],
        default="clip_benchmark",
        help="the rival (default: %(default)s)",
    )
    _add_preset(evaluate)
    evaluate.add_argument(
        "--set",
        choices=["longest512", "shortest512", "square256"],
        default="longest512",
        help="of the photographs, see clipjax data photos (default: %(default)s)",
    )
    _add_count(evaluate, "--samples", 512, "photographs")
    _add_count(evaluate, "--rounds", 5, "timed turns of each")
    _add_count(evaluate, "--threads", 1, "CPUs that each may use")
    _add_count(evaluate, "--classes", 50, "with open_clip, classes of 80 prompts, at most 50")

    loss = benchmarks.add_parser(
        "loss",
        help="time and memory of the contrastive losses in every form",
        description="Value and gradient of the softmax and sigmoid losses: one matrix of logits as "
        "XLA splits it (plain), open_clip's local loss, and ours in blocks (chunked, ring). The "
        "forms take turns; a ratio is the median over the rounds.",
    )
    _add_count(loss, "--batch_size", 4096, "pairs, over all devices")
    _add_count(loss, "--dim", 512, "channels of an embedding")
    _add_count(loss, "--block", 512, "columns of logits at a time")
    _add_count(loss, "--rounds", 9, "timed calls of each")
    loss.add_argument("--devices", type=_count, metavar="N", help="simulate N devices on the CPU")
    loss.add_argument(
        "--memory_only", action="store_true", help="compile, tell the memory, run nothing"
    )

    dispatch = benchmarks.add_parser(
        "dispatch",
        help="time what the host does around the compiled step",
        description="Times the call of a compiled step that computes nothing but takes and "
        "returns what the real one does: the state's arrays (donated, shardings pinned), a batch, "
        "the metrics; layers unrolled, every array shrunk to one number.",
    )
    _add_preset(dispatch)
    _add_count(dispatch, "--steps", 60, "timed calls")

    bench_neurons.configure(
        benchmarks.add_parser(
            "neurons",
            help="what the multimodal-neuron lab finds, and how fast",
            description=bench_neurons.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints and returns the figures.

    Raises:
        UserError: if a package is missing or a process ends early.
    """
    if args.benchmark == "neurons":
        return bench_neurons.run(args)
    if args.benchmark == "dispatch":
        from clipjax.cli.bench_dispatch import dispatch_figures

        return dispatch_figures(args.preset, steps=args.steps)
    if args.benchmark == "load":
        from clipjax.cli.bench_load import load_figures

        return load_figures(args.preset, rounds=args.rounds, folder=args.dir)
    if args.benchmark == "loss":
        if args.devices:
            simulate_devices(args.devices)
        from clipjax.cli.bench_loss import loss_figures

        return loss_figures(
            batch_size=args.batch_size,
            dim=args.dim,
            block=args.block,
            rounds=args.rounds,
            memory_only=args.memory_only,
        )
    if args.benchmark == "evaluate":
        from clipjax.cli.bench_evaluate import evaluate_figures

        return evaluate_figures(
            rival=args.vs,
            preset=args.preset,
            kind=args.set,
            samples=args.samples,
            rounds=args.rounds,
            threads=args.threads,
            classes=args.classes,
        )
    if args.benchmark == "tokenizer":
        from clipjax.cli.bench_tokenizer import tokenizer_figures

        return tokenizer_figures(rival=args.vs, rounds=args.rounds, count=args.captions)
    return _step(args)


def _step(args: argparse.Namespace) -> dict[str, Any]:
    fields = ("dtype", "remat", "attention", "reduce_dtype", "scan_layers")
    compute = {name: getattr(args, name) for name in fields}
    try:
        ComputeConfig(**compute)
    except ValueError as error:
        raise UsageError(f"clipjax bench step: {error}") from error
    if args.vs == "none":
        if args.threads:
            raise UsageError("--threads: belongs to --vs; alone, a step takes all CPUs.")
        if args.device:
            os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[args.device]
        from clipjax.cli.bench_alone import alone_figures

        return alone_figures(
            args.preset, batch_sizes=args.batch_size, rounds=args.rounds, compute=compute
        )
    if len(args.batch_size) > 1:
        raise UsageError("--batch_size: with --vs, one batch size at a time.")
    from clipjax.cli.bench_step import step_figures

    return step_figures(
        args.preset,
        rival=args.vs,
        batch_size=args.batch_size[0],
        rounds=args.rounds,
        threads=args.threads,
        compute=compute,
        device=args.device,
    )


def _add_rival(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vs",
        choices=["open_clip"],
        default="open_clip",
        help="the rival (default: %(default)s)",
    )


def _add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", default="ViT-B-32", metavar="NAME", help="model (default: %(default)s)"
    )


def _add_count(parser: argparse.ArgumentParser, flag: str, default: int, meaning: str) -> None:
    parser.add_argument(
        flag, type=_count, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
    )


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["bench", *sys.argv[1:]])
