"""Contrastive multimodal pretraining in JAX.

>>> import clipjax
>>> model = clipjax.load("runs/quickstart")          # doctest: +SKIP
>>> model.encode_image("cat.png") @ model.encode_text(["a cat", "a dog"]).T   # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clipjax.inference.load import Model, load
    from clipjax.models.listing import list_models

__all__ = ["Model", "__version__", "list_models", "load"]


def __getattr__(name: str) -> Any:
    # JAX takes a second to import: only those who load a model wait for it.
    if name in ("Model", "load"):
        from clipjax.inference import load as module

        return getattr(module, name)
    if name == "list_models":
        from clipjax.models.listing import list_models

        return list_models
    raise AttributeError(f"module 'clipjax' has no attribute {name!r}")
