"""The emoji that come with the package, as stimuli."""

from collections.abc import Sequence

import numpy as np

from clipjax.config import DualEncoderConfig
from clipjax.data.concepts import Concept
from clipjax.data.emoji_world import CONTROL, FACETS, EmojiWorld, load_emoji_world
from clipjax.data.resize import EvaluationTransform
from clipjax.data.tokenizers import Tokenizer
from clipjax.interpret.facets import Facet
from clipjax.interpret.stimuli import EMOJI_WORLD, Stimuli, stimuli_of, wanted_facets
from clipjax.interpret.stimulus_facets import PictureFacet, Shown, TextFacet, labels_of


def open_world(
    config: DualEncoderConfig,
    tokenizer: Tokenizer | None = None,
    facets: Sequence[str] | None = None,
    concepts: Sequence[Concept] | None = None,
) -> Stimuli:
    """Returns the emoji world for a model; all views of a word are one stimulus.

    Args:
        config: of the model.
        tokenizer: of the model, to count tokens.
        facets: those that are wanted; all by default.
        concepts: instead of its own.
    """
    world = load_emoji_world()
    given = world.concepts if concepts is None else concepts
    made: list[Facet] = []
    for name in wanted_facets(EMOJI_WORLD, (*FACETS, CONTROL), facets):
        if name in ("word", CONTROL):
            made.append(_words(world, name, config, given))
        elif name == "caption":
            made.append(_captions(world, tokenizer, given))
        else:
            made.append(_pictures(world, name, config, given))
    return stimuli_of(EMOJI_WORLD, made, given)


def _pictures(
    world: EmojiWorld, name: str, config: DualEncoderConfig, concepts: Sequence[Concept]
) -> PictureFacet:
    pixels = world.photo if name == "photo" else world.edge_pictures
    shown = Shown(
        name=name,
        stimuli=world.stimuli,
        texts=world.captions,
        owner=np.arange(len(pixels)),
        labels=labels_of(concepts, name, world.stimuli, world.captions),
    )
    return _facet(shown, pixels, config)


def _words(
    world: EmojiWorld, name: str, config: DualEncoderConfig, concepts: Sequence[Concept]
) -> PictureFacet:
    pixels = world.word_pictures(scrambled=name == CONTROL)
    count, views = pixels.shape[:2]
    stimuli = tuple(f"word:{concept.id}" for concept in world.concepts)
    written = [concept.name for concept in world.concepts]
    said = world.scrambled_words if name == CONTROL else written
    shown = Shown(
        name=name,
        is_control=name == CONTROL,
        stimuli=stimuli,
        texts=[(text,) for text in said],
        owner=np.repeat(np.arange(count), views),
        labels=labels_of(concepts, name, stimuli, [(text,) for text in written]),
    )
    return _facet(shown, pixels.reshape(-1, *pixels.shape[2:]), config)


def _captions(
    world: EmojiWorld, tokenizer: Tokenizer | None, concepts: Sequence[Concept]
) -> TextFacet:
    views = [len(texts) for texts in world.captions]
    shown = Shown(
        name="caption",
        stimuli=world.stimuli,
        texts=world.captions,
        owner=np.repeat(np.arange(len(views)), views),
        labels=labels_of(concepts, "caption", world.stimuli, world.captions),
    )
    texts = [text for texts in world.captions for text in texts]
    return TextFacet(shown, texts, tokenizer)


def _facet(shown: Shown, pixels: np.ndarray, config: DualEncoderConfig) -> PictureFacet:
    return PictureFacet(
        shown, pixels.__getitem__, EvaluationTransform.of(config), config.image.image_size
    )
