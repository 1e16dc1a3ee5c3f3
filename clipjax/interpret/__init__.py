"""Layer 4: the neuron lab: which units of a model answer to which concepts, shown and proved.

>>> from clipjax import interpret
>>> model = clipjax.load("runs/emoji")                                        # doctest: +SKIP
>>> stimuli = interpret.open_stimuli("emoji-world", model.config)             # doctest: +SKIP
>>> scan = interpret.scan(model, stimuli, out="scans/emoji")                  # doctest: +SKIP
>>> findings = interpret.detect(scan, interpret.DetectSettings())             # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipjax.interpret.causal import causal_drop, steering_curve
    from clipjax.interpret.detect import detect
    from clipjax.interpret.detect_settings import DetectSettings
    from clipjax.interpret.findings import Findings
    from clipjax.interpret.planted_finds import selftest
    from clipjax.interpret.report import write_report
    from clipjax.interpret.scan_files import Scan
    from clipjax.interpret.scanning import scan
    from clipjax.interpret.stimuli import Stimuli, open_stimuli
    from clipjax.interpret.typographic import run_typographic
    from clipjax.interpret.visualise import VisualiseConfig, visualise
    from clipjax.interpret.written_models import ablate, steer

_WHERE = {
    "DetectSettings": "detect_settings",
    "Findings": "findings",
    "Scan": "scan_files",
    "Stimuli": "stimuli",
    "VisualiseConfig": "visualise",
    "ablate": "written_models",
    "causal_drop": "causal",
    "detect": "detect",
    "open_stimuli": "stimuli",
    "run_typographic": "typographic",
    "scan": "scanning",
    "selftest": "planted_finds",
    "steer": "written_models",
    "steering_curve": "causal",
    "visualise": "visualise",
    "write_report": "report",
}

__all__ = [
    "DetectSettings",
    "Findings",
    "Scan",
    "Stimuli",
    "VisualiseConfig",
    "ablate",
    "causal_drop",
    "detect",
    "open_stimuli",
    "run_typographic",
    "scan",
    "selftest",
    "steer",
    "steering_curve",
    "visualise",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # JAX takes a second to import: only those who use it wait for it.
    if name in _WHERE:
        return getattr(importlib.import_module(f"clipjax.interpret.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'clipjax.interpret' has no attribute {name!r}")
