"""Reads what `make_stimuli` wrote: the samples of a facet in order, and the concepts."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clipjax.config.errors import UserError, did_you_mean
from clipjax.data.concepts import Concept, load_concepts
from clipjax.data.stimuli import CONCEPTS
from clipjax.data.writers import DONE


class StimulusSample(NamedTuple):
    """One way to show or say a stimulus.

    Attributes:
        stimulus: its id, the same in all facets.
        kind: suffix of `content`: "png", "txt" or "wav".
        content: the file.
        text: what is shown or said, in words.
        concepts: ids of the concepts that the stimulus belongs to.
        split: "train", or "concept" if `make_emoji` holds it out.
        view: tells samples of one stimulus apart.
        locale: of a caption, else "en".
    """

    stimulus: str
    kind: str
    content: bytes
    text: str
    concepts: tuple[str, ...]
    split: str
    view: int
    locale: str


class StimulusFolder:
    """A folder of stimuli.

    Args:
        path: what `make_stimuli` was told to write.

    Attributes:
        counts: samples of each facet, by its name.
        controls: facets in which no concept ought to be found.
        concepts: what the stimuli belong to.

    Raises:
        UserError: if there is none, or it is not complete.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        done = self.path / DONE
        try:
            made = json.loads(done.read_text(encoding="utf-8"))
            self.counts: dict[str, int] = dict(made["facets"])
            top = json.loads((self.path / CONCEPTS).read_text(encoding="utf-8"))
            self.controls: tuple[str, ...] = tuple(top.get("controls", ()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{done}: not a complete folder of stimuli ({type(error).__name__}). Make one: "
                "clipjax data emoji --facets colour,drawing,word,caption."
            ) from error
        self.concepts: list[Concept] = load_concepts(self.path / CONCEPTS)

    def read(self, facet: str) -> Iterator[StimulusSample]:
        """Yields the samples of a facet in the order of its shards.

        Raises:
            UserError: if there is no such facet, or a shard is damaged.
        """
        if facet not in self.counts:
            raise UserError(
                f"{self.path}: no facet {facet!r}.{did_you_mean(facet, self.counts)} There are "
                f"{', '.join(self.counts)}."
            )
        found = 0
        for path in sorted((self.path / facet).glob("*.tar")):
            try:
                for key, members in _samples(path):
                    yield _sample(key, members)
                    found += 1
            except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: damaged ({error}). Make the stimuli again.") from error
        if found != self.counts[facet]:
            raise UserError(
                f"{self.path / facet}: holds {found:,} samples, wanted {self.counts[facet]:,} as "
                f"in {DONE}. Make the stimuli again."
            )


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields key and files of each sample; the files of one lie in a row."""
    key, members = "", {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            this, _, suffix = member.name.partition(".")
            if this != key and members:
                yield key, members
                members = {}
            file = tar.extractfile(member)
            if file is None:
                raise ValueError(f"{member.name}: no file")
            key, members[suffix] = this, file.read()
    if members:
        yield key, members


def _sample(key: str, members: dict[str, bytes]) -> StimulusSample:
    fields = json.loads(members["json"])
    kind = next((kind for kind in ("png", "wav") if kind in members), "txt")
    if fields["key"] != key:
        raise ValueError(f"{key}: its .json is of {fields['key']}")
    return StimulusSample(
        stimulus=fields["stimulus"],
        kind=kind,
        content=members[kind],
        text=members["txt"].decode(),
        concepts=tuple(fields["concepts"]),
        split=fields["split"],
        view=fields["view"],
        locale=fields.get("locale", "en"),
    )
