"""The table of autoencoders: what each keeps, and whether both modalities share its latents."""

from collections.abc import Mapping
from typing import Any

from clipjax.cli.text_table import text_table, written

_HEAD = ("R2 image", "R2 text", "L0 image", "L0 text", "dead", "bimodal", "Jaccard", "xMS")
_GAPS = ("gap", "encoded", "cleaned")


def scores_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns summaries as text, a line each.

    Args:
        found: `SaeScores.summary` by name.
    """
    return text_table(
        ["autoencoder", *_HEAD, "bridge", *_GAPS],
        [[name, *_cells(one)] for name, one in found.items()],
    )


def _cells(one: Mapping[str, Any]) -> list[str]:
    return [
        *(written(one["r2"][m], ".3f") for m in ("image", "text")),
        *(written(one["l0"][m], ".2f") for m in ("image", "text")),
        written(one["dead_share"], ".1%"),
        written(one["bimodal_share"], ".2f"),
        written(one["paired_jaccard"], ".3f"),
        written(one["cross_modal_ratio"]["mean"], ".2f"),
        written(one["bridge_share"], ".2f"),
        *(written(one["gap"][g], ".3f") for g in ("embeddings", "encoded", "without_unimodal")),
    ]
