"""Folders of `clipjax data emoji --facets`, as stimuli."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from clipjax.config import DualEncoderConfig, UserError
from clipjax.data.concepts import Concept
from clipjax.data.resize import EvaluationTransform
from clipjax.data.stimulus_files import StimulusFolder, StimulusSample
from clipjax.data.tokenizers import Tokenizer
from clipjax.interpret.facets import Facet
from clipjax.interpret.stimuli import Stimuli, stimuli_of, wanted_facets
from clipjax.interpret.stimulus_facets import PictureFacet, Shown, TextFacet, labels_of


def open_folder(
    path: Path,
    config: DualEncoderConfig,
    tokenizer: Tokenizer | None = None,
    facets: Sequence[str] | None = None,
    concepts: Sequence[Concept] | None = None,
) -> Stimuli:
    """Returns the stimuli of a folder for a model; views, locales too, are of one stimulus.

    Args:
        path: of the folder.
        config: of the model.
        tokenizer: of the model, to count tokens.
        facets: those that are wanted; all by default.
        concepts: instead of its own.

    Raises:
        UserError: if it is not whole, or a facet is unknown.
    """
    folder = StimulusFolder(path)
    given = folder.concepts if concepts is None else concepts
    made: list[Facet] = []
    notes: list[str] = []
    for name in wanted_facets(str(path), list(folder.counts), facets):
        samples = _by_stimulus(folder.read(name))
        kinds = {sample.kind for sample in samples}
        if kinds == {"wav"}:
            notes.append(f"{name} is left out: this model has no tower for sound")
            continue
        if len(kinds) != 1:
            raise UserError(f"{path / name}: holds {', '.join(sorted(kinds))}, wanted one kind.")
        is_control = name in folder.controls
        made.append(_facet(name, is_control, samples, given, config, tokenizer))
    return stimuli_of(str(path), made, given, notes)


def _facet(
    name: str,
    is_control: bool,
    samples: Sequence[StimulusSample],
    concepts: Sequence[Concept],
    config: DualEncoderConfig,
    tokenizer: Tokenizer | None,
) -> Facet:
    stimuli = tuple(dict.fromkeys(sample.stimulus for sample in samples))
    number = {stimulus: row for row, stimulus in enumerate(stimuli)}
    texts: list[list[str]] = [[] for _ in stimuli]
    for sample in samples:
        if sample.text not in texts[number[sample.stimulus]]:
            texts[number[sample.stimulus]].append(sample.text)
    shown = Shown(
        name=name,
        is_control=is_control,
        stimuli=stimuli,
        texts=texts,
        owner=np.array([number[sample.stimulus] for sample in samples]),
        labels=labels_of(concepts, name, stimuli, texts),
    )
    contents = [sample.content for sample in samples]
    if samples[0].kind == "txt":
        return TextFacet(shown, [content.decode() for content in contents], tokenizer)
    transform = EvaluationTransform.of(config)
    return PictureFacet(shown, contents.__getitem__, transform, config.image.image_size)


def _by_stimulus(samples: Iterable[StimulusSample]) -> list[StimulusSample]:
    """Returns the samples with those of one stimulus side by side, in the order of the first."""
    groups: dict[str, list[StimulusSample]] = {}
    for sample in samples:
        groups.setdefault(sample.stimulus, []).append(sample)
    return [sample for group in groups.values() for sample in group]
