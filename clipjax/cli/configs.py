"""A run's config from a file and `--config.FIELD=VALUE`; every mistake is one line."""

import argparse
import dataclasses
import difflib
import importlib.util
import json
import keyword
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from clipjax.config import (
    Cluster,
    TrainConfig,
    UsageError,
    did_you_mean,
    from_config_dict,
    to_config_dict,
)
from clipjax.config.convert import unknown_field


def add_config_flag(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds --config; `--config.FIELD=VALUE` is taken from what the parser does not know."""
    parser.add_argument(
        "--config",
        metavar="FILE[:ARGUMENT]",
        required=required,
        help="config file (Python with get_config, or a run's config.json); override any field "
        "with --config.FIELD=VALUE, e.g. --config.optim.peak_learning_rate=1e-3",
    )


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that join several processes."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--coordinator",
        default="",
        metavar="HOST:PORT",
        help="address of process 0, or auto to read the environment of Slurm, Open MPI, "
        "Kubernetes or a TPU pod",
    )
    group.add_argument("--num_processes", type=int, metavar="N", help="with HOST:PORT")
    group.add_argument("--process_id", type=int, metavar="I", help="with HOST:PORT")
    group.add_argument(
        "--bind",
        default="",
        metavar="ADDRESS",
        help="where process 0 listens, if not where the others call it; 0.0.0.0 for everywhere",
    )
    for name, what in (
        ("initialization_seconds", "within which all processes must have come"),
        ("heartbeat_seconds", "after which JAX takes a silent process for dead"),
        ("shutdown_seconds", "that a process which is done waits for the others"),
    ):
        default = getattr(Cluster, name)
        group.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default {default})"
        )


def cluster_from(args: argparse.Namespace) -> Cluster:
    """Returns what the flags of `add_cluster_flags` say."""
    fields = dataclasses.fields(Cluster)
    return Cluster(**{field.name: getattr(args, field.name) for field in fields})


def load_config(spec: str, overrides: Sequence[str]) -> TrainConfig:
    """Returns the resolved config.

    Args:
        spec: "FILE.py", "FILE.py:ARGUMENT" or "FILE.json".
        overrides: "--config.FIELD=VALUE", in order.

    Raises:
        UsageError: on a missing file, a file that raises, an unknown field or a wrong value.
    """
    return apply_overrides(_read(spec), overrides)


def apply_overrides(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> TrainConfig:
    """Returns the config with flags applied; types are ml_collections'."""
    from absl import flags
    from ml_collections import config_flags

    overrides = [_with_underscores(override) for override in overrides]
    for override in overrides:
        _check_override(config, override)
    # The parsers of absl know no None: a field that may be empty is emptied after them.
    last = {override.partition("=")[0]: override for override in overrides}
    emptied = [name for name, override in last.items() if override == f"{name}=None"]
    values = flags.FlagValues()
    argv = ["clipjax", *(override for override in overrides if not override.endswith("=None"))]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, ValueError, TypeError, SyntaxError, AttributeError, KeyError) as error:
        raise UsageError(_first_line(error)) from error
    for name in emptied:
        *sections, field = name.removeprefix("--config.").split(".")
        section: Any = config
        for name_of_section in sections:
            section = section[name_of_section]
        with section.ignore_type():
            section[field] = None
    return from_config_dict(TrainConfig, config)


def _with_underscores(override: str) -> str:
    """Returns the override with Python's name of a field whose own name is a keyword."""
    name, equals, value = override.partition("=")
    parts = [f"{part}_" if keyword.iskeyword(part) else part for part in name.split(".")]
    return ".".join(parts) + equals + value


def _check_override(config: Any, override: str) -> None:
    name, equals, value = override.removeprefix("--").partition("=")
    if not equals:
        raise UsageError(f"{override}: write --{name}=VALUE.")
    path = "config"
    for part in name.split(".")[1:]:
        if not isinstance(config, ml_collections.ConfigDict):
            raise UsageError(f"{path} is a value and has no field {part!r}.")
        if part not in config:
            raise UsageError(unknown_field(path, part, list(config)))
        path = f"{path}.{part}"
        # A placeholder reads as None.
        config = config[part]
    if isinstance(config, ml_collections.ConfigDict) and value != "None":
        fields = ", ".join(sorted(config))
        raise UsageError(
            f"{path}={value}: is a section, and setting it whole would silently drop the fields "
            f"that are not named. Set its fields one by one: {fields}."
        )


def _read(spec: str) -> ml_collections.ConfigDict:
    file, _, argument = spec.partition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"--config={spec}: no such file.{_nearest_file(path)}")
    if path.suffix == ".json":
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"--config={spec}: not JSON ({error}).") from error
        return to_config_dict(from_config_dict(TrainConfig, saved))
    module_spec = importlib.util.spec_from_file_location("clipjax_config", path)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"--config={spec}: expected a .py or .json file.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except UsageError:
        raise
    except Exception as error:
        where = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = f":{where[-1].lineno}" if where else ""
        raise UsageError(f"{path}{line}: {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UsageError(f"{path}: get_config() must return to_config_dict(TrainConfig(...)).")
    return config


def _nearest_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    near = sorted(str(p) for p in folder.glob("*.py"))
    close = difflib.get_close_matches(str(path), near, n=1, cutoff=0.4)
    return did_you_mean(str(path), close) if close else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
