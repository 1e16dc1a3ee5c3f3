"""Stimuli to show a model: the same things in several facets, and the concepts they belong to."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from clipjax.config import DualEncoderConfig, UserError, did_you_mean
from clipjax.data.concepts import Concept, load_concepts
from clipjax.data.tokenizers import Tokenizer
from clipjax.data.writers import DONE
from clipjax.interpret.facets import Facet, FacetRows

EMOJI_WORLD = "emoji-world"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stimuli:
    """What a scan shows a model.

    Attributes:
        name: where it came from, as the user named it.
        facets: by name; rows with one id are one thing.
        concepts: in the order of the labels.
        digest: another one for other stimuli, texts or labels.
        notes: what people should know, one line each.
        reading: what else `open_stimuli` was told of where and how to read: root, caption,
            concept_column. With the name it opens them once more.
    """

    name: str
    facets: Mapping[str, Facet]
    concepts: Sequence[Concept]
    digest: str
    notes: Sequence[str] = ()
    reading: Mapping[str, str] = dataclasses.field(default_factory=dict)


def open_stimuli(
    where: str | os.PathLike[str],
    config: DualEncoderConfig,
    *,
    tokenizer: Tokenizer | None = None,
    facets: Sequence[str] | None = None,
    concepts: str | os.PathLike[str] | Sequence[Concept] | None = None,
    concept_column: str = "",
    caption: str = "txt",
    root: str = ".",
) -> Stimuli:
    """Opens stimuli for a model.

    Args:
        where: "emoji-world", which comes with the package; a folder of `clipjax data emoji
            --facets`; or pictures with captions, as `config.data.shards` names them.
        config: of the model, which says how it sees pictures.
        tokenizer: of the model, to count tokens of texts; words are counted without it.
        facets: those that are wanted; all that there are by default.
        concepts: a file of them, or a list; by default those that come with the stimuli, or words
            of many captions.
        concept_column: "json.FIELD" or "cls": what says the concepts of a sample, where samples
            come from shards.
        caption: of samples from shards, as `config.data.caption` has it.
        root: folder that a relative address of shards starts from.

    Raises:
        UserError: if there are none, a facet is unknown, a picture does not decode, or no concept
            is in two facets.
    """
    given = load_concepts(concepts) if isinstance(concepts, str | os.PathLike) else concepts
    name = os.fspath(where)
    if name == EMOJI_WORLD:
        from clipjax.interpret.stimuli_world import open_world

        found = open_world(config, tokenizer, facets, given)
    elif (Path(root) / name / DONE).is_file():
        from clipjax.interpret.stimuli_folder import open_folder

        found = open_folder(Path(root) / name, config, tokenizer, facets, given)
    else:
        from clipjax.interpret.stimuli_shards import Reading, open_shards

        shards = Reading(name, root, caption, concept_column)
        found = open_shards(shards, config, tokenizer, facets, given)
    reading = {"root": root, "caption": caption, "concept_column": concept_column}
    return _checked(dataclasses.replace(found, name=name, reading=reading))


def stimuli_of(
    name: str, facets: Sequence[Facet], concepts: Sequence[Concept], notes: Sequence[str] = ()
) -> Stimuli:
    """Returns stimuli of facets that are at hand.

    Args:
        name: of the stimuli.
        facets: in their order.
        concepts: in the order of the labels.
        notes: what people should know.

    Raises:
        UserError: if no concept is in two facets.
    """
    by_name = {facet.rows.name: facet for facet in facets}
    return _checked(
        Stimuli(
            name=name,
            facets=by_name,
            concepts=concepts,
            digest=_digest([facet.rows for facet in facets], concepts),
            notes=tuple(notes),
        )
    )


def wanted_facets(
    where: str, there: Sequence[str], wanted: Sequence[str] | None
) -> tuple[str, ...]:
    """Returns the facets that are wanted, in the order in which they are there.

    Raises:
        UserError: if one is not there, with the nearest name.
    """
    for name in wanted or ():
        if name not in there:
            raise UserError(
                f"{where}: no facet {name!r}.{did_you_mean(name, there)} There are "
                f"{', '.join(there)}."
            )
    return tuple(name for name in there if wanted is None or name in wanted)


def _checked(stimuli: Stimuli) -> Stimuli:
    """Returns the stimuli with a note on concepts without positives; refuses what shares none."""
    rows = [facet.rows for facet in stimuli.facets.values()]
    if not rows:
        raise UserError(f"{stimuli.name}: no facet that this model can be shown.")
    tested = [one for one in rows if not one.is_control]
    shown = np.array([one.labels.any(axis=0) for one in tested]).reshape(len(tested), -1)
    if len(tested) > 1 and not (shown.sum(axis=0) >= 2).any():
        counts = ", ".join(f"{r.name} {int(s.sum())}" for r, s in zip(tested, shown, strict=True))
        raise UserError(
            f"{stimuli.name}: no concept has stimuli in two facets (concepts with any: {counts} of "
            f"{len(stimuli.concepts)}). Facets must share ids of stimuli or words of concepts: "
            "look at the positives, or at the words, of --concepts."
        )
    nowhere = np.flatnonzero(~shown.any(axis=0)).tolist()
    missing = [stimuli.concepts[place].name for place in nowhere]
    if not missing:
        return stimuli
    some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    line = f"{len(missing)} of {len(stimuli.concepts)} concepts have no stimulus: {some}"
    return dataclasses.replace(stimuli, notes=tuple(dict.fromkeys((*stimuli.notes, line))))


def _digest(rows: Sequence[FacetRows], concepts: Sequence[Concept]) -> str:
    hashed = hashlib.sha256()
    for concept in concepts:
        hashed.update(json.dumps([concept.id, concept.name, concept.words]).encode())
    for one in rows:
        words = [one.name, one.tower, one.is_control, one.samples, one.stimuli, one.texts]
        hashed.update(json.dumps(words).encode())
        hashed.update(np.packbits(one.labels).tobytes())
        # Of pictures only these are looked at; they tell other pictures from those of before.
        hashed.update(np.ascontiguousarray(one.confounds, np.float64).tobytes())
    return hashed.hexdigest()
