"""Concepts that neurons are searched for: mined from captions, read from files, looked up."""

import array
import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from clipjax.config.errors import UserError, did_you_mean
from clipjax.core.progress import Progress
from clipjax.data.captions import every_caption
from clipjax.data.concept_families import bits_of, merge_sets
from clipjax.data.decode import BadSampleError
from clipjax.data.stats import evenly_spread
from clipjax.data.words import STOP_WORDS, slug, words_of

ENDINGS = (".json", ".yaml", ".yml")
_FIELDS = ("id", "name", "words", "positives")
_TOP = ("concepts", "facets", "controls")


@dataclasses.dataclass(frozen=True)
class Concept:
    """Something that a stimulus may show or say.

    Args:
        id: unique in a list, e.g. "cat".
        name: what reports print.
        words: words or phrases, any of which stands for it in a caption.
        positives: ids of the stimuli that have it, by facet; empty where captions decide.
    """

    id: str
    name: str
    words: tuple[str, ...]
    positives: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@runtime_checkable
class HasCaptions(Protocol):
    """A source whose captions can be read without its pictures."""

    def __len__(self) -> int:
        """Returns the number of samples."""
        ...

    def texts(self, index: int, /) -> Mapping[str, bytes]:
        """Returns the files of a sample without the image."""
        ...


def mine_concepts(
    texts: Iterable[str],
    *,
    least: int = 20,
    most_share: float = 0.5,
    limit: int = 1000,
    stop_words: Collection[str] = STOP_WORDS,
) -> list[Concept]:
    """Returns the words that are in enough captions, as concepts, the most frequent first.

    No part of speech is looked at: verbs and adjectives are concepts like nouns. Words that are
    nearly always together are one. Languages written without blanks are not taken apart.

    Args:
        texts: one a sample: its captions, in one text if there are several.
        least: captions that a word must be in, each counted once.
        most_share: words in a larger share of all captions tell nothing apart.
        limit: at most so many words are kept, before families are merged.
        stop_words: left out, in lower case.

    Raises:
        ValueError: for numbers that cannot be.
    """
    if least < 1 or limit < 1 or not 0 < most_share <= 1:
        raise ValueError(f"least={least}, limit={limit}, most_share={most_share}: cannot be")
    postings: dict[str, array.array[int]] = defaultdict(lambda: array.array("L"))
    count = 0
    for text in texts:
        for word in dict.fromkeys(words_of(text)):
            postings[word].append(count)
        count += 1
    kept = [
        (word, found)
        for word, found in postings.items()
        if least <= len(found) <= most_share * count and word not in stop_words and _is_word(word)
    ]
    kept.sort(key=lambda pair: (-len(pair[1]), pair[0]))
    sets = {word: bits_of(found, count) for word, found in kept[:limit]}
    return named_concepts(words for words, _ in merge_sets(sets, least))


def load_concepts(path: str | os.PathLike[str]) -> list[Concept]:
    """Returns the concepts of a file.

    It holds a list, or a mapping with the list under "concepts". Each has "id" and may have "name"
    (else the id), "words" (else the name), and "positives": stimulus ids by facet.

    Raises:
        UserError: if the file cannot be read, or a concept has an unknown field, lacks its id, or
            has what another one has already.
    """
    path = Path(path)
    content = _parse(path)
    if isinstance(content, dict):
        for key in content:
            if key not in _TOP:
                raise UserError(
                    f"{path}: no such field {key!r}.{did_you_mean(str(key), _TOP)} Wanted a list "
                    'of concepts, or {"concepts": [...]}.'
                )
        content = content.get("concepts")
    if not isinstance(content, list) or not content:
        raise UserError(
            f"{path}: holds {_kind(content)}, wanted a list of concepts such as "
            '[{"id": "cat", "name": "cat", "words": ["cat", "kitten"]}].'
        )
    concepts = [_concept(f"{path}: concept {n}", one) for n, one in enumerate(content, 1)]
    _check_distinct(path, concepts)
    return concepts


def save_concepts(
    path: str | os.PathLike[str],
    concepts: Sequence[Concept],
    *,
    facets: Sequence[str] = (),
    controls: Sequence[str] = (),
) -> None:
    """Writes a JSON file that `load_concepts` reads; one line a concept.

    Args:
        path: of the file.
        concepts: in the order of the file.
        facets: names of the facets that stimuli come in.
        controls: those of them in which no concept ought to be found.
    """
    rows = [json.dumps(_as_fields(one), ensure_ascii=False) for one in concepts]
    lines = ",\n".join(f"  {row}" for row in rows)
    head = "".join(
        f' "{name}": {json.dumps(list(values))},\n'
        for name, values in (("facets", facets), ("controls", controls))
        if values
    )
    Path(path).write_text(f'{{\n{head} "concepts": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def read_captions(
    source: HasCaptions, *, caption: str = "txt", samples: int = 100_000
) -> Iterator[str]:
    """Yields the captions of each sample as one text, "" where there are none.

    Args:
        source: e.g. TarShards; its pictures are not read.
        caption: "txt", "json.FIELD" or several, as `data.caption` has it.
        samples: at most so many, evenly spread.
    """
    indices = evenly_spread(len(source), samples)
    with Progress("reading captions", len(indices), quiet_seconds=2.0) as progress:
        for index in indices:
            try:
                yield "\n".join(every_caption(source.texts(index), caption))
            except BadSampleError:
                yield ""
            progress.advance()


def named_concepts(families: Iterable[Sequence[str]]) -> list[Concept]:
    """Returns a concept of each family of words, named after the first, with ids that differ."""
    concepts: list[Concept] = []
    taken: set[str] = set()
    for words in families:
        identity, number = slug(words[0]), 2
        while identity in taken:
            identity, number = f"{slug(words[0])}-{number}", number + 1
        taken.add(identity)
        concepts.append(Concept(identity, words[0], tuple(words)))
    return concepts


def rarest_concept(labels: Bool[np.ndarray, "stimuli concepts"]) -> Int[np.ndarray, " stimuli"]:
    """Returns of each stimulus the concept that it has and the fewest have.

    >>> rarest_concept(np.array([[1, 0], [1, 1], [1, 0]], bool)).tolist()
    [0, 1, 0]
    """
    return np.where(labels, labels.sum(axis=0), len(labels) + 1).argmin(axis=1)


class ConceptIndex:
    """Finds the concepts of a caption: those of which a word or phrase is in it.

    >>> cat, ice = Concept("c", "cat", ("cat", "tom")), Concept("i", "ice", ("ice cream",))
    >>> index = ConceptIndex([cat, ice])
    >>> index.of("Big cat's ICE-cream"), index.of("a catalogue")
    ((0, 1), ())
    """

    def __init__(self, concepts: Sequence[Concept]):
        self._of_phrase: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for number, concept in enumerate(concepts):
            for word in concept.words:
                if phrase := tuple(words_of(word)):
                    self._of_phrase[phrase].add(number)
        self._lengths = sorted({len(phrase) for phrase in self._of_phrase})

    def of(self, text: str) -> tuple[int, ...]:
        """Returns the places of the concepts of a text in the list, ascending."""
        words, found = words_of(text), set()
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                found |= self._of_phrase.get(tuple(words[start : start + length]), set())
        return tuple(sorted(found))


def _is_word(token: str) -> bool:
    return len(token) > 1 and any(mark.isalpha() for mark in token)


def _as_fields(concept: Concept) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": concept.id,
        "name": concept.name,
        "words": list(concept.words),
    }
    if concept.positives:
        fields["positives"] = {facet: list(ids) for facet, ids in concept.positives.items()}
    return fields


def _parse(path: Path) -> Any:
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: ends in {path.suffix!r}, wanted {', '.join(ENDINGS)}.")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_without_repeats)
        return _parse_yaml(text)
    except (OSError, ValueError, RecursionError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read as concepts ({said}). Mend the file.") from error


def _without_repeats(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the field {key!r} is there twice")
        found[key] = value
    return found


def _parse_yaml(text: str) -> Any:
    import yaml  # here, not above: flax brings it, JSON needs none

    class Loader(yaml.SafeLoader):
        """Refuses a field that is there twice, of which YAML would keep the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            pairs = [(self.construct_object(key, True), value) for key, value in node.value]
            _without_repeats(pairs)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 (a safe loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _concept(where: str, fields: Any) -> Concept:
    if not isinstance(fields, dict):
        raise UserError(f"{where}: is {_kind(fields)}, wanted a mapping with id, name and words.")
    for name in fields:
        if name not in _FIELDS:
            raise UserError(
                f"{where}: no such field {name!r}.{did_you_mean(str(name), _FIELDS)} There are "
                f"{', '.join(_FIELDS)}."
            )
    if "id" not in fields:
        raise UserError(f"{where}: has no id. Give it one that no other concept has.")
    identity = _text(where, "id", fields["id"])
    where = f"{where} ({identity})"
    name = _text(where, "name", fields.get("name", identity))
    words = _texts(where, "words", fields.get("words", [name]))
    if not words:
        raise UserError(f"{where}: has no words. Name one, or leave the field out.")
    lowered = [word.lower() for word in words]
    for word in words:
        if lowered.count(word.lower()) > 1:
            raise UserError(f"{where}: has the word {word!r} twice. Remove one.")
    positives = fields.get("positives", {})
    if not isinstance(positives, Mapping):
        raise UserError(f"{where}: positives is {_kind(positives)}, wanted stimulus ids by facet.")
    by_facet = {
        _text(where, "a facet of positives", facet): _texts(where, f"positives.{facet}", ids)
        for facet, ids in positives.items()
    }
    return Concept(identity, name, words, by_facet)


def _texts(where: str, field: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise UserError(f"{where}: {field} is {_kind(values)}, wanted a list of texts.")
    return tuple(_text(where, f"one of {field}", value) for value in values)


def _text(where: str, field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{where}: {field} is {_kind(value)}, wanted a text. YAML takes no, on and 12 for "
            "other things: put them in quotes."
        )
    return value.strip()


def _check_distinct(path: Path, concepts: Sequence[Concept]) -> None:
    for field in ("id", "name", "words"):
        first: dict[Any, str] = {}
        for number, concept in enumerate(concepts, 1):
            value = getattr(concept, field)
            key = frozenset(w.lower() for w in value) if field == "words" else value.lower()
            if key in first:
                shown = ", ".join(value) if field == "words" else value
                raise UserError(
                    f"{path}: concept {number} has the {field} {shown!r} of {first[key]}. "
                    "Remove one of them, or rename it."
                )
            first[key] = f"concept {number}"


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, list | dict | tuple):
        return f"{'a list' if isinstance(value, list) else 'a mapping'} of {len(value)}"
    return repr(value)
