"""The fields of a `config.json` of transformers, with its defaults, read with checks."""

from collections.abc import Mapping
from typing import Any

from clipjax.config import UserError
from clipjax.config.fields import Activation

# Several names there are one function here: "gelu_new" and "gelu_pytorch_tanh" are the tanh form.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
THEIR_ACTIVATION: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "relu": "relu",
}


class Section:
    """One section of a JSON file; what is missing has the value that transformers gives it.

    Args:
        place: file and section, for messages.
        values: what the file holds.
        defaults: of transformers.
    """

    def __init__(self, place: str, values: Any, defaults: Mapping[str, Any]):
        if values is not None and not isinstance(values, Mapping):
            raise UserError(f"{place} is {values!r:.60}, expected an object with fields.")
        self.place = place
        self._values: Mapping[str, Any] = {} if values is None else values
        self._defaults = defaults

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """Returns the value of a field."""
        return self._values.get(name, self._defaults.get(name))

    def integer(self, name: str) -> int:
        """Returns the value of a field that is a whole number.

        Raises:
            UserError: if it is something else.
        """
        value = self.get(name)
        if type(value) is not int:
            raise self.wrong(name, "a whole number")
        return value

    def number(self, name: str) -> float:
        """Returns the value of a field that is a number.

        Raises:
            UserError: if it is something else.
        """
        value = self.get(name)
        if type(value) not in (int, float):
            raise self.wrong(name, "a number")
        return float(value)

    def side(self, name: str) -> int:
        """Returns a size that is the same in both directions, one number or a pair there.

        Raises:
            UserError: if it is something else.
        """
        value = self.get(name)
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if type(value) is not int:
            raise self.wrong(name, "a whole number (images and patches are square here)")
        return value

    def colours(self, name: str) -> tuple[float, float, float]:
        """Returns a number for each channel.

        Raises:
            UserError: if the field holds something else.
        """
        value = self.get(name)
        if type(value) in (int, float):
            value = [value] * 3
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise self.wrong(name, "three numbers")
        if not all(type(part) in (int, float) for part in value):
            raise self.wrong(name, "three numbers")
        return float(value[0]), float(value[1]), float(value[2])

    def activation(self) -> Activation:
        """Returns what `hidden_act` is here.

        Raises:
            UserError: if the function is not known here.
        """
        value = self.get("hidden_act")
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.wrong("hidden_act", f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def must_be(self, name: str, value: Any) -> None:
        """Raises UserError unless a field has the only value that is supported."""
        if self.get(name) != value:
            raise self.wrong(name, repr(value))

    def wrong(self, name: str, expected: str) -> UserError:
        """Returns the error for a field."""
        origin = "" if name in self._values else ", the default of transformers"
        return UserError(
            f"{self.place}: {name} is {self.get(name)!r:.80}{origin}, expected {expected}. "
            "A model with another value cannot be computed here; check the file."
        )
