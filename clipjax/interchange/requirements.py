"""What a format cannot say of a model."""

import operator
from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, UserError


def require(config: DualEncoderConfig, form: str, wanted: Mapping[str, Any]) -> None:
    """Raises UserError unless the fields of a model have the values that a format implies.

    Args:
        config: of the model.
        form: name of the format, for the message.
        wanted: value by the dotted name of a field; a tuple means any of its items.
    """
    for name, value in wanted.items():
        found = operator.attrgetter(name)(config)
        values = value if isinstance(value, tuple) else (value,)
        if found not in values:
            raise UserError(
                f"{form} cannot hold this model: config.{name} is {found!r}, expected "
                f"{' or '.join(map(repr, values))}. Choose another format (--to) or convert a "
                "model with that value."
            )
