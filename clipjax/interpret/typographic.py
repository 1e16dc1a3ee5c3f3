"""Whether a model reads: what a word that is written on a picture does to what it says of it.

Source: Goh et al. 2021, "Multimodal Neurons in Artificial Neural Networks",
https://distill.pub/2021/multimodal-neurons; Materzynska et al. 2022, "Disentangling visual and
written concepts in CLIP", https://arxiv.org/abs/2206.07835. Deviation: a wrong word is compared
with its own scrambled letters at the same place and not with a clean picture, since whatever is
written covers something.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from clipjax.config import UsageError
from clipjax.core.statistics import bootstrap_interval
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.prompts import Prompts
from clipjax.evals.protocol import Encoders
from clipjax.evals.zeroshot import class_embeds
from clipjax.interpret.typographic_pictures import (
    ARMS,
    ArmPictures,
    Scene,
    Trials,
    WordsAlone,
    draw_trials,
)

PROMPT = "{c}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A share of trials, or a difference of two shares.

    Attributes:
        value: the mean over stimuli of each one's trials.
        low: lower end of the 95 % interval of a bootstrap over stimuli, all arms drawn together.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Typographic:
    """What words on pictures do to a model.

    Attributes:
        accuracy: by arm, how often the answer is a class that the picture shows.
        says_word: by arm, how often the answer is the wrong word of the trial.
        hijack: `says_word` with the word less that with its scrambled letters.
        drop: `accuracy` with scrambled letters less that with the word.
        stroop: `accuracy` with the right word less that with the wrong one.
        covering: `accuracy` of clean pictures less that with scrambled letters.
        reading: how often the answer to a word alone is its class; drawn by words.
        stimuli: number of pictures.
        trials: words on pictures.
        classes: among which the model chooses.
    """

    accuracy: dict[str, Score]
    says_word: dict[str, Score]
    hijack: Score
    drop: Score
    stroop: Score
    covering: Score
    reading: Score
    stimuli: int
    trials: int
    classes: int

    def as_json(self) -> dict[str, Any]:
        """Returns the scores as plain values."""
        return dataclasses.asdict(self)


def run_typographic(
    encode: Encoders,
    scene: Scene,
    transform: EvaluationTransform,
    *,
    repeats: int = 4,
    views: int = 8,
    seed: int = 0,
    resamples: int = 2000,
    templates: tuple[str, ...] = (PROMPT,),
) -> Typographic:
    """Shows a model pictures with words in all four arms, and words alone.

    Args:
        encode: of the model, which names what it sees by the class whose text is nearest.
        scene: pictures and words.
        transform: how the model sees a picture.
        repeats: wrong words for each picture.
        views: pictures of each word alone.
        seed: of words, places and colours.
        resamples: behind each interval.
        templates: prompts, `{c}` standing for the name of a class.

    Raises:
        UsageError: for numbers that are not positive.
    """
    for name, number in (("repeats", repeats), ("views", views), ("resamples", resamples)):
        if number < 1:
            raise UsageError(f"{name}={number}: wanted 1 or more.")
    prompts = Prompts(class_names=scene.names, templates=templates, source="typographic")
    classes = class_embeds(encode, prompts)
    trials = draw_trials(scene, repeats=repeats, seed=seed)

    def answers(pictures: ArmPictures | WordsAlone) -> Int[np.ndarray, " pictures"]:
        return (encode.images(pictures) @ classes.T).argmax(axis=1)

    told = {arm: answers(ArmPictures(scene, trials, arm, transform, seed)) for arm in ARMS}
    read = answers(WordsAlone(scene, views, transform, seed))
    return score_trials(scene.labels, trials, told, read.reshape(-1, views), resamples=resamples)


def score_trials(
    labels: Bool[np.ndarray, "stimuli classes"],
    trials: Trials,
    told: dict[str, Int[np.ndarray, " trials"]],
    read: Int[np.ndarray, "classes views"],
    *,
    resamples: int = 2000,
) -> Typographic:
    """Returns the scores of answers.

    Args:
        labels: whether a picture shows a class.
        trials: as many for each picture as for any other, those of one side by side.
        told: by arm, the class that the model answered in each trial.
        read: its answers to words alone.
        resamples: behind each interval.
    """
    shape = (len(labels), -1)
    right = {
        arm: labels[trials.stimulus, told[arm]].reshape(shape).mean(axis=1, dtype=np.float64)
        for arm in ARMS
    }
    word = {
        arm: (told[arm] == trials.word).reshape(shape).mean(axis=1, dtype=np.float64)
        for arm in ARMS
    }

    def score(values: Float[np.ndarray, " stimuli"]) -> Score:
        low, high = bootstrap_interval(values, resamples=resamples)
        return Score(value=float(values.mean()), low=low, high=high)

    of_word = (read == np.arange(len(read))[:, None]).mean(axis=1, dtype=np.float64)
    return Typographic(
        accuracy={arm: score(right[arm]) for arm in ARMS},
        says_word={arm: score(word[arm]) for arm in ARMS},
        hijack=score(word["incongruent"] - word["scrambled"]),
        drop=score(right["scrambled"] - right["incongruent"]),
        stroop=score(right["congruent"] - right["incongruent"]),
        covering=score(right["clean"] - right["scrambled"]),
        reading=score(of_word),
        stimuli=len(labels),
        trials=len(trials),
        classes=labels.shape[1],
    )


def table(found: Typographic) -> str:
    """Returns the scores as lines of text.

    Args:
        found: of `run_typographic`.
    """
    lines = [
        f"{found.stimuli:,} pictures, {found.trials:,} words on them, {found.classes:,} classes "
        "(95 % intervals)",
        f"{'arm':<12}  {'says what it shows':<22}  {'says the wrong word':<22}",
    ]
    lines += [
        f"{arm:<12}  {_told(found.accuracy[arm]):<22}  {_told(found.says_word[arm]):<22}"
        for arm in ARMS
    ]
    meanings = {
        "hijack": "wrong word said: written - scrambled",
        "drop": "right: scrambled - wrong word",
        "stroop": "right: right word - wrong word",
        "covering": "right: clean - scrambled",
        "reading": "right: words alone",
    }
    lines += [
        f"{name:<12}  {_told(getattr(found, name)):<22}  {meaning}"
        for name, meaning in meanings.items()
    ]
    return "\n".join(line.rstrip() for line in lines)


def _told(score: Score) -> str:
    return f"{score.value:.3f} ({score.low:.3f}, {score.high:.3f})"
