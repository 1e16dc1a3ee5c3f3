"""Layer 4: the neuron lab: which units of a model answer to which concepts, shown and proved.

>>> from clipjax import interpret
>>> model = clipjax.load("runs/emoji")                                        # doctest: +SKIP
>>> stimuli = interpret.open_stimuli("emoji-world", model.config)             # doctest: +SKIP
>>> scan = interpret.scan(model, stimuli, out="scans/emoji")                  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipjax.interpret.scan_files import Scan
    from clipjax.interpret.scanning import scan
    from clipjax.interpret.stimuli import Stimuli, open_stimuli

_WHERE = {
    "Scan": "scan_files",
    "Stimuli": "stimuli",
    "open_stimuli": "stimuli",
    "scan": "scanning",
}

__all__ = ["Scan", "Stimuli", "open_stimuli", "scan"]


def __getattr__(name: str) -> Any:
    # JAX takes a second to import: only those who use it wait for it.
    if name in _WHERE:
        return getattr(importlib.import_module(f"clipjax.interpret.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'clipjax.interpret' has no attribute {name!r}")
