"""One section of another codebase's config, of which every field must be understood."""

from collections.abc import Mapping
from typing import Any, TypeVar

from clipjax.config import UserError, did_you_mean

T = TypeVar("T")


class Section:
    """A dict of settings that remembers which of them were looked at.

    What nobody has asked for is a setting that we do not know: ignoring it would build another
    model than the one that was trained.

    Attributes:
        where: dotted name of the section, for messages.
    """

    def __init__(self, values: Any, where: str):
        if not isinstance(values, Mapping):
            raise UserError(f"{where} must be an object of settings, got {values!r}.")
        self._values: Mapping[str, Any] = values
        self._known: set[str] = set()
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def peek(self, name: str) -> Any:
        """Returns a setting, None where it is absent, without having understood it."""
        return self._values.get(name)

    def take(self, name: str, kind: type[T], default: T) -> T:
        """Returns a setting of a type, or the default where it is absent.

        Raises:
            UserError: if it is of another type.
        """
        self._known.add(name)
        value: Any = self._values.get(name, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(
                f"{self.where}.{name}={value!r} must be {kind.__name__}, not "
                f"{type(value).__name__}."
            )
        return value

    def take_or_none(self, name: str, kind: type[T]) -> T | None:
        """Returns a setting of a type; None where it is absent or null."""
        self._known.add(name)
        value = self._values.get(name)
        return None if value is None else self.take(name, kind, value)

    def choose(self, name: str, choices: Mapping[Any, T], default: Any) -> T:
        """Returns what one of several values means.

        Raises:
            UserError: if the setting is none of them.
        """
        self._known.add(name)
        value = self._values.get(name, default)
        for choice, meaning in choices.items():
            # 0 and False are equal, but not the same setting.
            if type(choice) is type(value) and choice == value:
                return meaning
        known = ", ".join(map(repr, choices))
        raise UserError(f"{self.where}.{name}={value!r} is not supported; supported: {known}.")

    def side(self, name: str, default: int) -> int:
        """Returns the side of a square, which may stand there twice."""
        self._known.add(name)
        value = self._values.get(name, default)
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{self.where}.{name}={value!r} must be the side of a square.")
        return value

    def ignore(self, *names: str) -> None:
        """Passes over settings that do not change what the model computes."""
        self._known.update(names)

    def only(self, **allowed: tuple[Any, ...]) -> None:
        """Accepts settings with these values; the first one is the default.

        Raises:
            UserError: if one of them has another value.
        """
        for name, values in allowed.items():
            self.choose(name, {value: None for value in values}, values[0])

    def done(self) -> None:
        """Raises UserError if there is a setting that nobody has asked for."""
        unknown = [name for name in self._values if name not in self._known]
        if unknown:
            hint = did_you_mean(unknown[0], self._known)
            raise UserError(
                f"{self.where}.{unknown[0]}={self._values[unknown[0]]!r}: a setting of open_clip "
                f"that is not supported for this kind of tower.{hint}"
            )
