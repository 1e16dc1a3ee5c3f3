"""The model and the stimuli of a scan, opened again to be run once more."""

import sys
from collections.abc import Mapping
from typing import NamedTuple

from clipjax.config import UserError
from clipjax.inference.load import Model, load
from clipjax.interpret.facets import Facet
from clipjax.interpret.scan_files import Scan
from clipjax.interpret.stimuli import open_stimuli


class Reopened(NamedTuple):
    """What a scan was made of.

    Attributes:
        model: that was scanned.
        facets: that it was shown, by name.
    """

    model: Model
    facets: Mapping[str, Facet]


def reopen(
    scan: Scan,
    *,
    model: str = "",
    stimuli: str = "",
    root: str = ".",
    caption: str = "txt",
    concept_column: str = "",
) -> Reopened:
    """Opens the model and the stimuli of a scan.

    Args:
        scan: that says what they were.
        model: where the model is now, or another model to be looked at; as recorded by default.
        stimuli: where they are now; as recorded by default.
        root: folder that a relative address of shards starts from.
        caption: of samples from shards.
        concept_column: of samples from shards.

    Raises:
        UserError: if either cannot be opened, or the stimuli are not those of the scan.
    """
    record = scan.record
    step = record.step or None
    opened = load(model or record.model, step=None if model else step, all_devices=True)
    if opened.identity != record.identity:
        if not model:
            raise UserError(
                f"{record.model}: is not the model that {scan.path} was made of: it has changed. "
                "Scan again, or name a model with --model."
            )
        print(f"note: {model} is not the model that was scanned", file=sys.stderr)
    where = stimuli or record.stimuli
    found = open_stimuli(
        where,
        opened.config,
        tokenizer=opened.tokenizer,
        facets=scan.facets,
        concepts=scan.concepts,
        concept_column=concept_column,
        caption=caption,
        root=root,
    )
    for name in scan.facets:
        rows, known = found.facets[name].rows, scan.rows(name)
        if rows.stimuli != known.stimuli or (rows.labels != known.labels).any():
            raise UserError(
                f"{where}: the facet {name} holds other stimuli or labels than when {scan.path} "
                "was made. Give --stimuli, --root, --caption and --concept_column as then, or scan "
                "again."
            )
    return Reopened(opened, found.facets)
