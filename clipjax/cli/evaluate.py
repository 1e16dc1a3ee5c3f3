"""Scores a trained model on zero-shot tasks, with 95 % intervals and chance beside every number.

The benchmarks of the field, with any model that can be loaded; what is done is not done again:

clipjax evaluate --model runs/a --suite quick --out eval/a
clipjax evaluate --model hf:org/name --suite datacomp --data /data/datacomp --out eval/b
clipjax evaluate --model runs/a --suite imagenet1k,vtab/dtd --data 'https://host/wds_{dataset}' ...
clipjax evaluate --list

The tasks of a run's own config:

clipjax evaluate --workdir runs/quickstart
clipjax evaluate --workdir runs/quickstart --tasks concept --json -
clipjax evaluate --workdir runs/a --config configs/b.py --config.data.root=data/b
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from clipjax.cli import evaluate_suite
from clipjax.cli.configs import (
    add_cluster_flags,
    add_config_flag,
    apply_overrides,
    cluster_from,
    load_config,
)
from clipjax.cli.evaluate_suite import step_of
from clipjax.cli.parser import Parser
from clipjax.config import TrainConfig, UsageError, UserError, did_you_mean, to_config_dict


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("--workdir", metavar="DIR", help="of a run, for the tasks of its config")
    parser.add_argument(
        "--step",
        metavar="N",
        help="checkpoint, or best for that with the highest checkpoint.best_metric; the newest by "
        "default",
    )
    parser.add_argument("--tasks", metavar="A,B", help="only these tasks")
    parser.add_argument(
        "--picture",
        metavar="FILE.png",
        help="draw pictures of a retrieval task with what they found",
    )
    evaluate_suite.configure(parser)
    add_config_flag(parser, required=False)
    add_cluster_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Evaluates; returns scores by task and metric in process 0."""
    if args.list or args.model or args.suite:
        return evaluate_suite.run(args)
    if not args.workdir:
        raise UsageError(
            "clipjax evaluate: expected --model MODEL --suite SUITE --out DIR, or --workdir DIR "
            "for the tasks of a run."
        )
    if args.picture and Path(args.picture).suffix.lower() != ".png":
        raise UsageError(f"--picture={args.picture}: expected a name that ends in .png.")
    other = load_config(args.config, args.overrides) if args.config else None
    from clipjax.core.distributed import joined

    with joined(cluster_from(args)) as lifeline:
        import jax

        from clipjax.evals.report import table, to_json
        from clipjax.evals.retrieval import Retrieval
        from clipjax.evals.tasks import make_tasks
        from clipjax.inference.load import load
        from clipjax.interchange.run_directory import checkpoint_config, pick_checkpoint

        def say(text: str) -> None:
            if jax.process_index() == 0:
                print(text, file=sys.stderr, flush=True)

        reader, step = pick_checkpoint(args.workdir, step_of(args.step, args.workdir))
        saved = checkpoint_config(reader, step)
        config = other or apply_overrides(to_config_dict(saved), args.overrides)
        config = _only(config, args.tasks)
        tasks = make_tasks(config.evals, config.data, saved.model, say=say)
        if args.picture and not any(isinstance(task, Retrieval) for task in tasks.values()):
            raise UsageError("--picture needs a retrieval task among those that are evaluated.")
        model = load(args.workdir, step=step, all_devices=True, batch_size=config.evals.batch_size)
        encode = model.encoder.bind(model.params)
        results = {}
        for name, task in tasks.items():
            lifeline.phase(f"evaluate {name}", config.watchdog.evaluate_seconds, step)
            say(f"evaluating {name} ...")
            results[name] = task.run(encode)
        figures = {"workdir": str(args.workdir), "step": step, "tasks": to_json(results)}
        if args.picture:
            from clipjax.evals.picture import draw_retrieval

            task = next(task for task in tasks.values() if isinstance(task, Retrieval))
            sheet = draw_retrieval(task, encode, model.config.image.image_size)
            if jax.process_index() == 0:
                _write_picture(sheet, args.picture)
        if jax.process_index() != 0:
            return None
        print(table(results))
        _keep(Path(args.workdir) / f"evaluation-{step:08d}.json", figures)
        return figures


def _keep(path: Path, figures: dict[str, Any]) -> None:
    from clipjax.core.checkpoint import write_atomically
    from clipjax.core.metrics import strict_json

    try:
        write_atomically(path, strict_json(figures, indent=1).encode())
    except OSError as error:  # somebody else's run may be read-only
        print(f"warning: {path} cannot be written ({error.strerror}).", file=sys.stderr)


def _write_picture(sheet: Any, path: str) -> None:
    try:
        sheet.save(path)
    except OSError as error:
        raise UserError(f"--picture={path}: cannot be written ({error.strerror}).") from error


def _only(config: TrainConfig, names: str | None) -> TrainConfig:
    tasks = config.evals.tasks
    if names is not None:
        chosen = [name.strip() for name in names.split(",") if name.strip()]
        for name in chosen:
            if name not in tasks:
                raise UsageError(
                    f"--tasks={names}: no task {name!r}.{did_you_mean(name, tasks)} "
                    f"There are: {', '.join(tasks)}."
                )
        if not chosen:
            raise UsageError(f"--tasks={names}: names no task. There are: {', '.join(tasks)}.")
        tasks = {name: tasks[name] for name in chosen}
    if not tasks:
        raise UsageError(
            "config.evals.tasks is empty: nothing to evaluate. Name tasks in a --config."
        )
    return dataclasses.replace(config, evals=dataclasses.replace(config.evals, tasks=tasks))


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["evaluate", *sys.argv[1:]])
