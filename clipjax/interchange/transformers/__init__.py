"""transformers: AlignModel, CLIPModel, SiglipModel, Siglip2Model, the files around their weights.

A family is a module with `layout`, `read` and `write`, and one line in the table of `config`.
"""

from clipjax.config import DualEncoderConfig
from clipjax.interchange.layout import Layout
from clipjax.interchange.transformers.config import (
    FAMILIES,
    family_of,
    from_transformers,
    model_type_of,
    to_transformers,
)


def layout(config: DualEncoderConfig, *, model_type: str | None = None) -> Layout:
    """Returns where transformers keeps the parameters of a model.

    Args:
        config: of the model.
        model_type: of the family; by default what `model_type_of` says.

    Raises:
        UserError: if the family cannot hold the model.
    """
    return family_of(model_type or model_type_of(config)).layout(config)


__all__ = ["FAMILIES", "from_transformers", "layout", "model_type_of", "to_transformers"]
