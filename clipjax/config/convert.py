"""Dataclass configs to and from ml_collections and JSON; every mistake names its field.

A field that would be a keyword of Python ends in an underscore, which flags and JSON leave out:
`from_` is `--config.init.from`, and "from" in a config.json.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict as config_dict_lib

from clipjax.config.errors import UsageError, did_you_mean


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """Returns `config` as a ConfigDict with the same nesting; every field is present."""
    return ml_collections.ConfigDict(
        {
            name: _to_value(getattr(config, name), hint)
            for name, hint in _hints(type(config)).items()
        }
    )


def to_json_dict(config: Any) -> dict[str, Any]:
    """Returns `config` as nested plain dicts that `json` can write."""
    return dataclasses.asdict(
        config, dict_factory=lambda items: {name.rstrip("_"): value for name, value in items}
    )


def from_config_dict(config_class: type, values: Any, path: str = "config") -> Any:
    """Builds a config dataclass from a ConfigDict or from the dict of a JSON file.

    Args:
        config_class: the dataclass; its annotations give fields, nesting and types.
        values: mapping of values; missing fields take their defaults.
        path: dotted name of `values` itself, for messages.

    Raises:
        UsageError: on an unknown field, a value of the wrong type, or one the dataclass rejects.
    """
    _check_section(values, path)
    hints = _hints(config_class)
    fields = {name.rstrip("_"): name for name in hints}
    built = {}
    for name in values:
        field = fields.get(name, name)
        if field not in hints:
            raise UsageError(unknown_field(path, name, list(hints)))
        built[field] = _from_value(hints[field], values[name], f"{path}.{name}")
    try:
        return config_class(**built)
    except ValueError as error:
        raise UsageError(f"{path}: {error}.") from error


def _check_section(values: Any, path: str) -> None:
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise UsageError(f"{path}: expected a section with fields, found {values!r}.")


def unknown_field(path: str, name: str, known: list[str]) -> str:
    """Returns the message for a field that does not exist."""
    known = [field.rstrip("_") for field in known]
    return (
        f"{path}.{name}: no such field.{did_you_mean(name, known)} "
        f"Fields here: {', '.join(sorted(known))}."
    )


@functools.cache
def _hints(config_class: type) -> dict[str, Any]:
    return typing.get_type_hints(config_class)


def _to_value(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_config_dict(value)
    if isinstance(value, Mapping):
        return ml_collections.ConfigDict({k: to_config_dict(v) for k, v in value.items()})
    optional = [arm for arm in typing.get_args(hint) if arm in (int, float, str)]
    if type(None) in typing.get_args(hint) and optional:
        # A placeholder keeps the type of an empty field, so that a flag can fill it.
        field = config_dict_lib.placeholder(optional[0])
        if value is None:
            return field
    return value


def _from_value(hint: Any, value: Any, path: str) -> Any:
    arms = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        classes = [arm for arm in arms if dataclasses.is_dataclass(arm)]
        if classes and (value is not None or type(None) not in arms):
            return _from_kind(classes, value, path)
        if value is None:
            return None
        hint = next(arm for arm in arms if arm is not type(None))
        arms = typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_config_dict(typing.cast("type", hint), value, path)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        if value not in arms:
            raise UsageError(
                f"{path}={value!r} is not one of {', '.join(map(repr, arms))}."
                f"{did_you_mean(str(value), map(str, arms))}"
            )
        return value
    if origin is tuple:
        return _from_tuple(arms, value, path)
    if origin is not None and issubclass(origin, Mapping):
        _check_section(value, path)
        return {key: _from_value(arms[1], value[key], f"{path}.{key}") for key in value}
    return _from_scalar(hint, value, path)


def _from_kind(classes: list[Any], value: Any, path: str) -> Any:
    if len(classes) == 1:
        return from_config_dict(classes[0], value, path)
    _check_section(value, path)
    by_kind = {_hints(c)["kind"].__args__[0]: c for c in classes}
    kind = value["kind"] if "kind" in value else next(iter(by_kind))
    if not isinstance(kind, str) or kind not in by_kind:
        raise UsageError(f"{path}.kind={kind!r} is not one of {', '.join(map(repr, by_kind))}.")
    return from_config_dict(by_kind[kind], value, path)


def _from_tuple(arms: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise UsageError(f"{path}={value!r}: expected a tuple such as (1, 2).")
    hints = [arms[0]] * len(value) if arms[-1] is Ellipsis else list(arms)
    if len(hints) != len(value):
        raise UsageError(f"{path}={value!r}: expected {len(hints)} values, found {len(value)}.")
    return tuple(
        _from_value(hint, item, f"{path}[{i}]")
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _from_scalar(hint: type, value: Any, path: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UsageError(
            f"{path}={value!r}: expected {hint.__name__}, found {type(value).__name__}."
        )
    return value
