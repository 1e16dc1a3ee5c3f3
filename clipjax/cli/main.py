"""The console command `clipjax COMMAND`.

Nothing heavy is imported before a command is chosen, so that help is instant.
"""

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from clipjax.cli.parser import Parser, check_writable, reject_unknown_flags
from clipjax.config.errors import UserError

# name: (module, what it does, whether it reads --config and --config.FIELD=VALUE)
COMMANDS = {
    "train": ("clipjax.cli.train", "train a dual encoder, or go on where a run stopped", True),
    "evaluate": ("clipjax.cli.evaluate", "score a trained model on zero-shot tasks", True),
    "compare": ("clipjax.cli.compare", "tell whether one of two evaluated models is better", False),
    "embed": ("clipjax.cli.embed", "write the embeddings of shards into files", False),
    "probe": ("clipjax.cli.probe", "score embeddings by linear probes and neighbours", False),
    "plan": ("clipjax.cli.plan", "say what a run would need of a machine that is not there", True),
    "inspect": ("clipjax.cli.inspect", "show what a run is, without running it", True),
    "models": ("clipjax.cli.models", "list the published models that have a preset", False),
    "data": ("clipjax.cli.data", "make, check, describe and measure shards; show batches", True),
    "neurons": ("clipjax.cli.neurons", "find and prove units that mean one thing", True),
    "sae": ("clipjax.cli.sae", "sparse autoencoders: train, judge, name what they find", False),
    "convert": ("clipjax.cli.convert", "write a model in the files of another codebase", False),
    "push": ("clipjax.cli.push", "send a folder of weights to the Hugging Face Hub", False),
    "doctor": ("clipjax.cli.doctor", "check this machine, and that a model can learn", True),
    "bench": ("clipjax.cli.bench", "measure speed, interleaved with a rival", False),
}

EXIT_STATUSES = """\
exit statuses:
  0   done
  1   failed; one line on standard error says what, where and what to do
  2   usage: the command line or the config cannot be used
  3   a control of the neuron lab failed: its counts prove nothing
  75  saved, run me again (preempted, or another process died or hung)
  130 interrupted from the keyboard; a run goes on from its last checkpoint
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and ends the process with its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            status = _run(argv)
        finally:
            sys.stdout.flush()  # a reader that is gone is found out here, not after main()
        sys.exit(status)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "a file of this command"
        print(
            f"error: {where}: {error.strerror}. Make room and run the same command again.",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _run(argv: list[str]) -> int:
    parser = _top_parser()
    if not argv or argv[0] in ("-h", "--help", "--version"):
        parser.parse_args(argv or ["--help"])
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        parser.parse_args([name])  # raises with the nearest name
    module_name, _, takes_config = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = Parser(
        prog=f"clipjax {name}",
        description=module.__doc__,
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if hasattr(module, "COMMANDS"):  # imports only the part that is asked for
        module.configure(parser, rest[0] if rest else None)
    else:
        module.configure(parser)
    for leaf in parser.leaves():
        leaf.add_argument(
            "--json", metavar="PATH", help="write the figures as one JSON object; - for stdout"
        )
    overrides = [arg for arg in rest if takes_config and arg.startswith("--config.")]
    rest = [arg for arg in rest if arg not in overrides]
    reject_unknown_flags(parser, rest)
    args = parser.parse_args(rest)
    if takes_config:
        args.overrides = overrides
    to_stdout = args.json == "-"
    if args.json is not None and not to_stdout:
        check_writable("--json", args.json)
    with contextlib.redirect_stdout(sys.stderr) if to_stdout else contextlib.nullcontext():
        figures = module.run(args)
    if args.json is not None and figures is not None:
        _write_json(args.json, figures)
    return int(getattr(args, "exit_status", 0))


def _top_parser() -> Parser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {row[1]}" for name, row in COMMANDS.items())
    parser = Parser(
        prog="clipjax",
        description="Contrastive multimodal pretraining in JAX.",
        epilog=f"commands:\n{commands}\n\nclipjax COMMAND --help says more.\n\n{EXIT_STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from clipjax import __version__

    parser.add_argument("--version", action="version", version=f"clipjax {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
    return parser


def _write_json(path: str, figures: Any) -> None:
    from clipjax.core.metrics import strict_json

    text = strict_json(figures)
    if path == "-":
        print(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise UserError(f"--json={path}: cannot be written ({error.strerror}).") from error


if __name__ == "__main__":
    main()
