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
    from clipjax.interpret.detect_settings import DetectSettings
    from clipjax.interpret.detection import detect
    from clipjax.interpret.dissect import iou_names, wpmi_names
    from clipjax.interpret.feature_pictures import VisualiseConfig, visualise
    from clipjax.interpret.findings import Findings
    from clipjax.interpret.head_texts import head_spans
    from clipjax.interpret.planted_finds import selftest
    from clipjax.interpret.population import facet_dissimilarities
    from clipjax.interpret.reopened import reopen
    from clipjax.interpret.report import write_report
    from clipjax.interpret.sae.evaluation import evaluate_sae
    from clipjax.interpret.sae.features import open_features
    from clipjax.interpret.sae.files import load_sae, save_sae
    from clipjax.interpret.sae.naming import name_atoms
    from clipjax.interpret.sae.options import SaeOptions
    from clipjax.interpret.sae.training import train_sae
    from clipjax.interpret.scan_files import Scan
    from clipjax.interpret.scan_matches import match_scans
    from clipjax.interpret.scanning import scan
    from clipjax.interpret.stimuli import Stimuli, open_stimuli
    from clipjax.interpret.typographic import run_typographic
    from clipjax.interpret.written_models import ablate, steer

_WHERE = {
    "DetectSettings": "detect_settings",
    "Findings": "findings",
    "SaeOptions": "sae.options",
    "Scan": "scan_files",
    "Stimuli": "stimuli",
    "VisualiseConfig": "feature_pictures",
    "ablate": "written_models",
    "causal_drop": "causal",
    "detect": "detection",
    "evaluate_sae": "sae.evaluation",
    "facet_dissimilarities": "population",
    "head_spans": "head_texts",
    "iou_names": "dissect",
    "load_sae": "sae.files",
    "match_scans": "scan_matches",
    "name_atoms": "sae.naming",
    "open_features": "sae.features",
    "open_stimuli": "stimuli",
    "reopen": "reopened",
    "run_typographic": "typographic",
    "save_sae": "sae.files",
    "scan": "scanning",
    "selftest": "planted_finds",
    "steer": "written_models",
    "steering_curve": "causal",
    "train_sae": "sae.training",
    "visualise": "feature_pictures",
    "wpmi_names": "dissect",
    "write_report": "report",
}

__all__ = [
    "DetectSettings",
    "Findings",
    "SaeOptions",
    "Scan",
    "Stimuli",
    "VisualiseConfig",
    "ablate",
    "causal_drop",
    "detect",
    "evaluate_sae",
    "facet_dissimilarities",
    "head_spans",
    "iou_names",
    "load_sae",
    "match_scans",
    "name_atoms",
    "open_features",
    "open_stimuli",
    "reopen",
    "run_typographic",
    "save_sae",
    "scan",
    "selftest",
    "steer",
    "steering_curve",
    "train_sae",
    "visualise",
    "wpmi_names",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # JAX takes a second to import: only those who use it wait for it.
    if name in _WHERE:
        return getattr(importlib.import_module(f"clipjax.interpret.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'clipjax.interpret' has no attribute {name!r}")
