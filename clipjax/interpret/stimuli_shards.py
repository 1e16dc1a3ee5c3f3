"""Pictures with captions, from shards or any other source of training data, as stimuli."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.config import DataConfig, DualEncoderConfig, UserError
from clipjax.core.progress import Progress
from clipjax.data.captions import caption_members, every_caption
from clipjax.data.concepts import Concept, mine_concepts
from clipjax.data.decode import BadSampleError
from clipjax.data.emoji_fonts import FONT_ROOTS
from clipjax.data.opening import Sources, open_address
from clipjax.data.resize import EvaluationTransform
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.tokenizers import Tokenizer
from clipjax.data.word_pictures import WordPainter
from clipjax.data.words import slug
from clipjax.interpret.facets import Facet
from clipjax.interpret.stimuli import Stimuli, stimuli_of, wanted_facets
from clipjax.interpret.stimulus_facets import PictureFacet, Shown, TextFacet, labels_of

FACETS = ("photo", "caption", "word")

_VIEWS = 4  # pictures of a word
_LEAST, _FEWEST = 20, 5  # captions that a mined word is in: of many samples, and of few
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Reading:
    """How samples are read.

    Attributes:
        address: see `DataConfig.shards`.
        root: folder that a relative address starts from.
        caption: see `DataConfig.caption`.
        concept_column: "json.FIELD" or "cls": what says the concepts of a sample; "" for captions.
    """

    address: str
    root: str = "."
    caption: str = "txt"
    concept_column: str = ""


def open_shards(
    reading: Reading,
    config: DualEncoderConfig,
    tokenizer: Tokenizer | None = None,
    facets: Sequence[str] | None = None,
    concepts: Sequence[Concept] | None = None,
) -> Stimuli:
    """Returns a sample as a stimulus, with its picture and its captions, and words of concepts.

    All captions are read now, and all pictures decoded once to measure what could confound.

    Args:
        reading: of the samples.
        config: of the model.
        tokenizer: of the model, to count tokens.
        facets: those that are wanted; all by default, words only where there is a font.
        concepts: that are looked for; by default what the column says, or else words of captions.

    Raises:
        UserError: if there are no samples, one cannot be read, or no concept is found.
    """
    source = _opened(reading)
    wanted = wanted_facets(reading.address, FACETS, facets)
    stimuli, captions, said = _read(source, reading)
    found = _concepts(captions, said) if concepts is None else list(concepts)
    if not found:
        raise UserError(
            f"{reading.address}: no concept: no word is in {_FEWEST} captions and in at most half "
            "of them. Name concepts with --concepts, or a column that has them with "
            "--concept_column."
        )
    shards = _shard_of(source)
    notes: list[str] = []
    made: list[Facet] = []
    for name in wanted:
        if name == "word":
            made += _word_facet(found, config, notes)
            continue
        views = [1] * len(stimuli) if name == "photo" else [len(texts) for texts in captions]
        shown = Shown(
            name=name,
            stimuli=stimuli,
            texts=captions,
            owner=np.repeat(np.arange(len(stimuli)), views),
            labels=_labels(found, name, stimuli, captions, said),
            extra={} if shards is None else {"shard": shards},
        )
        if name == "photo":
            made.append(_photos(shown, source, config))
        else:
            texts = [text for of_row in captions for text in of_row]
            made.append(TextFacet(shown, texts, tokenizer))
    return stimuli_of(reading.address, made, found, notes)


def _opened(reading: Reading) -> Sources:
    column = reading.concept_column.partition(".")[0]
    try:
        data = DataConfig(root=reading.root, shards=reading.address, caption=reading.caption)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    needs = dict.fromkeys((*caption_members(reading.caption), *filter(None, [column])))
    return Sources({"": open_address(reading.address, data, tuple(needs))})


def _read(
    source: Sources, reading: Reading
) -> tuple[tuple[str, ...], list[list[str]], list[list[str]] | None]:
    """Returns id, captions, and what the column says of each sample."""
    keys: list[str] = []
    captions: list[list[str]] = []
    said: list[list[str]] = []
    with Progress("reading captions", len(source), quiet_seconds=2.0) as progress:
        for index in range(len(source)):
            key = source.key(index)
            try:
                members = source.texts(index)
            except BadSampleError as error:
                raise UserError(f"{key}: cannot be read ({error}).") from error
            texts = list(dict.fromkeys(every_caption(members, reading.caption)))
            if not texts:
                raise UserError(
                    f"{key}: has no caption in {reading.caption}. Name where it is with --caption."
                )
            keys.append(key)
            captions.append(texts)
            if reading.concept_column:
                said.append(_said(members, reading.concept_column, key))
            progress.advance()
    bare = tuple(key.rpartition(": ")[2] for key in keys)
    stimuli = bare if len(set(bare)) == len(bare) else tuple(keys)
    return stimuli, captions, said if reading.concept_column else None


def _said(members: Mapping[str, bytes], column: str, key: str) -> list[str]:
    """Returns the concepts that a column names for a sample."""
    kind, _, field = column.partition(".")
    try:
        found = json.loads(members[kind])[field] if field else members[kind].decode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"--concept_column {column}: {key} has none ({type(error).__name__}: {error})."
        ) from error
    listed = found if isinstance(found, list) else [found]
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in listed):
        raise UserError(
            f"--concept_column {column}: {key} has {found!r:.60}, wanted a text or a list of texts."
        )
    return [text for one in listed if (text := str(one).strip())]


def _concepts(captions: Sequence[Sequence[str]], said: list[list[str]] | None) -> list[Concept]:
    if said is not None:
        names = dict.fromkeys(name for of_row in said for name in of_row)
        taken: dict[str, int] = {}
        concepts = []
        for name in sorted(names):
            number = taken[slug(name)] = taken.get(slug(name), 0) + 1
            identity = slug(name) if number == 1 else f"{slug(name)}-{number}"
            concepts.append(Concept(identity, name, (name,)))
        return concepts
    least = _LEAST if len(captions) >= 50 * _LEAST else _FEWEST
    return mine_concepts(("\n".join(texts) for texts in captions), least=least)


def _labels(
    concepts: Sequence[Concept],
    facet: str,
    stimuli: Sequence[str],
    captions: Sequence[Sequence[str]],
    said: list[list[str]] | None,
) -> np.ndarray:
    if said is None:
        return labels_of(concepts, facet, stimuli, captions)
    known: dict[str, int] = {}
    for number, concept in enumerate(concepts):
        for name in (concept.id, concept.name, *concept.words):
            known.setdefault(name.lower(), number)
    labels = np.zeros((len(stimuli), len(concepts)), bool)
    for row, names in enumerate(said):
        labels[row, [known[name.lower()] for name in names if name.lower() in known]] = True
    return labels


def _shard_of(source: Sources) -> np.ndarray | None:
    """Returns the number of the shard of each sample; None where there are no shards."""
    (only,) = source.parts.values()
    if not isinstance(only, TarShards) or len(only.shard_counts) < 2:
        return None
    return np.repeat(np.arange(len(only.shard_counts), dtype=np.float64), only.shard_counts)


def _photos(shown: Shown, source: Sources, config: DualEncoderConfig) -> PictureFacet:
    def read(sample: int) -> bytes:
        return source[sample]["image"]

    return PictureFacet(shown, read, EvaluationTransform.of(config), config.image.image_size)


def _word_facet(
    concepts: Sequence[Concept], config: DualEncoderConfig, notes: list[str]
) -> list[Facet]:
    """Returns pictures of the words of concepts, a stimulus each; none where there is no font."""
    side = config.image.image_size
    try:
        painter = WordPainter(FONT_ROOTS, side, _SEED)
    except UserError as error:
        notes.append(f"word is left out: {error}")
        return []
    words = list(dict.fromkeys(word for concept in concepts for word in concept.words))

    @functools.lru_cache(maxsize=4096)
    def read(sample: int) -> np.ndarray:
        word, view = words[sample // _VIEWS], sample % _VIEWS
        return np.asarray(painter.draw([word], f"{word}:{view}")[0])

    shown = Shown(
        name="word",
        stimuli=tuple(f"word:{word}" for word in words),
        texts=[(word,) for word in words],
        owner=np.repeat(np.arange(len(words)), _VIEWS),
        labels=np.array([[word in concept.words for concept in concepts] for word in words]),
    )
    return [PictureFacet(shown, read, EvaluationTransform.of(config), side)]
