"""The model and the stimuli of a scan, opened again."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from clipjax.config import DualEncoderConfig, UserError
from clipjax.config.convert import from_config_dict
from clipjax.data.tokenizers import Tokenizer
from clipjax.inference.load import Model, load
from clipjax.interpret.facets import Facet, FacetRows
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whereabouts:
    """Where the stimuli of a scan are now and how they are read; None is as in the scan.

    Attributes:
        stimuli: see `open_stimuli`, as the rest.
        root: folder that a relative address starts from.
        caption: of samples from shards.
        concept_column: of samples from shards.
    """

    stimuli: str | None = None
    root: str | None = None
    caption: str | None = None
    concept_column: str | None = None


def reopen(scan: Scan, *, model: str = "", whereabouts: Whereabouts | None = None) -> Reopened:
    """Opens the model and the stimuli of a scan.

    Args:
        scan: that says what they were.
        model: where the model is now, or another model to be looked at; as recorded by default.
        whereabouts: of the stimuli, where that has changed.

    Raises:
        UserError: if either cannot be opened, or the stimuli are not those of the scan.
    """
    record = scan.record
    step = record.step or None
    if not (model or record.model):
        raise UserError(f"{scan.path} does not say which model was scanned: name it with --model.")
    try:
        opened = load(model or record.model, step=None if model else step, all_devices=True)
    except UserError as error:
        if model:
            raise
        raise UserError(
            f"{error} That is the model of {scan.path}: say where it is now with --model."
        ) from error
    if opened.identity != record.identity:
        if not model:
            raise UserError(
                f"{record.model}: is not the model that {scan.path} was made of: it has changed. "
                "Scan again, or name a model with --model."
            )
        print(f"note: {model} is not the model that was scanned", file=sys.stderr)
    return Reopened(opened, reopen_facets(scan, opened.config, whereabouts, opened.tokenizer))


def reopen_facets(
    scan: Scan,
    config: DualEncoderConfig,
    whereabouts: Whereabouts | None = None,
    tokenizer: Tokenizer | None = None,
) -> Mapping[str, Facet]:
    """Opens the stimuli of a scan, for the model of the scan or another one.

    Args:
        scan: that says what they were.
        config: of the model.
        whereabouts: where that has changed.
        tokenizer: of the model.

    Raises:
        UserError: if they cannot be opened, or are not those of the scan. Pictures are known by
            their confounds, where the model sees them at the same size.
    """
    asked = dataclasses.asdict(whereabouts or Whereabouts())
    given = {name: value for name, value in asked.items() if value is not None}
    where = given.pop("stimuli", scan.record.stimuli)
    reading = {**scan.record.reading, **given}
    try:
        found = open_stimuli(
            where,
            config,
            tokenizer=tokenizer,
            facets=scan.facets,
            concepts=scan.concepts,
            **reading,
        )
    except UserError as error:
        raise UserError(
            f"{error} The stimuli of {scan.path} are sought in {where!r} of the folder "
            f"{reading.get('root', '.')!r}: say where they are now with --stimuli and --root."
        ) from error
    as_seen = config.image == from_config_dict(DualEncoderConfig, scan.record.config).image
    for name in scan.facets:
        if not _same(found.facets[name].rows, scan.rows(name), as_seen=as_seen):
            raise UserError(
                f"{where}: the facet {name} holds other stimuli or labels than when {scan.path} "
                "was made. Say where the stimuli of then are with --stimuli and --root, and how "
                "they were read with --caption and --concept_column, or scan again."
            )
    return found.facets


def _same(now: FacetRows, scanned: FacetRows, *, as_seen: bool) -> bool:
    words = now.stimuli == scanned.stimuli and now.texts == scanned.texts
    if not words or (now.labels != scanned.labels).any():
        return False
    if scanned.tower == "text" or not as_seen:  # the length of texts is that of the tokenizer
        return True
    same_shape = now.confounds.shape == scanned.confounds.shape
    return same_shape and np.allclose(now.confounds, scanned.confounds)
