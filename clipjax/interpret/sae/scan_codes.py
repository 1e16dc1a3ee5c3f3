"""The latents of an autoencoder as units of a scan, so that they are tested as all units are."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.keyed import mix
from clipjax.interpret.sae.features import Embeds
from clipjax.interpret.sae.model import Sae
from clipjax.interpret.scan_files import Scan, ScanRecord, write_scan
from clipjax.interpret.scan_folder import held_for_latents
from clipjax.interpret.spaces import EMBED
from clipjax.interpret.summaries import summarise


def space_path(name: str) -> str:
    """Returns the path of an autoencoder's latents, as units are named by.

    >>> space_path("group")
    'sae:group'
    """
    return f"sae:{name}"


def facet_embeds(scan: Scan, sae: Sae, facet: str) -> Embeds:
    """Returns the embeddings of a facet's stimuli, unit rows, float32.

    The mean over the views of a stimulus is brought back to unit length, as an autoencoder takes
    it.

    Raises:
        UserError: if the scan did not keep them as they are, or they do not fit the autoencoder.
    """
    if scan.record.store != "exact":
        raise UserError(
            f"{scan.path}: keeps activations as {scan.record.store}; an autoencoder needs them as "
            "they are. Scan again with --force --store exact."
        )
    embeds = np.array(scan.activations(facet, EMBED), np.float32)
    if embeds.shape[1] != sae.image_mean.size:
        raise UserError(
            f"{scan.path}: embeddings of {embeds.shape[1]} numbers; the autoencoder takes "
            f"{sae.image_mean.size}. Scan the model that it was trained on."
        )
    return embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), 1e-12)


def scan_codes(scan: Scan, sae: Sae, name: str, out: str | os.PathLike[str]) -> Scan:
    """Writes a scan whose units are the latents, and opens it.

    Every facet that runs the shared embedding is encoded, with the mean of its tower's modality.

    Args:
        scan: of the model whose embeddings the autoencoder was trained on.
        sae: the autoencoder.
        name: of the autoencoder; units are `sae:NAME:INDEX`.
        out: folder to write, new or of an earlier result.

    Raises:
        UserError: if the scan lacks the shared embedding, it does not fit the autoencoder, or `out`
            holds something else.
    """
    path = space_path(name)
    rows = {facet: scan.rows(facet) for facet in scan.facets_of(EMBED)}
    codes = {
        facet: sae.encode(facet_embeds(scan, sae, facet), one.tower) for facet, one in rows.items()
    }
    fields = {field.name: getattr(scan.record, field.name) for field in _FIELDS}
    record = ScanRecord(
        **{
            **fields,
            "identity": f"{scan.record.identity} {sae_identity(sae)}",
            "key": f"{scan.record.key} {sae_identity(sae)} {path}",
            "paths": {path: sae.options.latents},
            "facets": dict.fromkeys(rows, (path,)),
        }
    )
    summaries = {
        facet: summarise(found, bins=record.bins, exemplars=record.exemplars)
        for facet, found in codes.items()
    }
    about = {"key": record.key, "model": record.model, "stimuli": record.stimuli}
    with held_for_latents(Path(out), about):
        return write_scan(out, record, scan.concepts, rows, codes, summaries)


def sae_identity(sae: Sae) -> str:
    """Returns another text for other weights."""
    digest = np.uint64(sae.steps)
    for name in sorted(sae.weights):
        words = np.ascontiguousarray(sae.weights[name]).view(np.uint32).astype(np.uint64).ravel()
        places = np.arange(len(words), dtype=np.uint64)
        digest = mix(digest ^ np.bitwise_xor.reduce(mix(words ^ mix(places))))
    return f"{int(digest):016x}"


_FIELDS = dataclasses.fields(ScanRecord)
