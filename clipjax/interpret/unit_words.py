"""What the exemplars of a unit say in words: a label, and words that silent stimuli lack."""

import collections
import functools
import math
from typing import Any

import numpy as np

from clipjax.data.words import STOP_WORDS, words_of
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.spaces import Space
from clipjax.interpret.statistics.explanation import contrastive_words, enrichment_p, soft_wpmi

UNLABELLED = "unlabelled"

_LEVEL = 0.05


class UnitWords:
    """Names units of one space by their exemplars.

    Args:
        space: whose units are named.
    """

    def __init__(self, space: Space):
        self._space = space

    def of(self, unit: int) -> dict[str, Any]:
        """Returns "label", a concept's name or "unlabelled", and "words", the best first.

        A label needs more of its exemplars in one facet than chance draws, corrected for the
        number of concepts and facets: an argmax over concepts would name noise too.
        """
        ends = {name: self.exemplars(name, unit) for name in self._space.facets}
        return {"label": self._label(ends), "words": self._words(ends)}

    def exemplars(self, facet: str, unit: int) -> tuple[list[int], list[int]]:
        """Returns rows with the largest activations and with the least, the most extreme first."""
        summary = self._space.summary(facet)
        column = unit % self._space.width
        top, bottom = (
            [int(row) for row in rows[column] if row >= 0]
            for rows in (summary.top_rows, summary.bottom_rows)
        )
        return (bottom, top) if unit >= self._space.width else (top, bottom)

    def _label(self, ends: dict[str, tuple[list[int], list[int]]]) -> str:
        scores, chance = [], []
        for facet, (top, _) in ends.items():
            labels = self._space.rows(facet).labels
            # Half of the stimuli at most: all of them say nothing of the unit.
            shown = labels[top[: max(1, len(labels) // 2)]]
            scores.append(soft_wpmi(shown, labels.mean(axis=0)))
            positives = labels.sum(axis=0)
            hits = shown.sum(axis=0)
            chance.append(
                [
                    enrichment_p(int(hit), len(shown), int(n), len(labels))
                    for hit, n in zip(hits, positives, strict=True)
                ]
            )
        best = int(np.argmax(np.mean(scores, axis=0)))
        tests = len(chance) * len(chance[0])
        if min(row[best] for row in chance) * tests > _LEVEL:
            return UNLABELLED
        return self._space.scan.concepts[best].name

    def _words(self, ends: dict[str, tuple[list[int], list[int]]]) -> list[str]:
        high, low, rarity = [], [], {}
        for facet, (top, bottom) in ends.items():
            texts = self._texts(facet)
            silent = set(bottom) - set(top)
            high += [texts[row] for row in top]
            low += [texts[row] for row in sorted(silent)]
            rarity |= self._rarity(facet)
        return contrastive_words(high, low, rarity)

    def _texts(self, facet: str) -> "_Words":
        return self._kept(facet)[0]

    def _rarity(self, facet: str) -> dict[str, float]:
        return self._kept(facet)[1]

    @functools.cached_property
    def _known(self) -> dict[str, tuple["_Words", dict[str, float]]]:
        return {}

    def _kept(self, facet: str) -> tuple["_Words", dict[str, float]]:
        if facet not in self._known:
            rows = self._space.rows(facet)
            self._known[facet] = _Words(rows), word_rarity(rows)
        return self._known[facet]


class _Words:
    """The words of each text of a facet, looked up when they are wanted."""

    def __init__(self, rows: FacetRows):
        self._texts = rows.texts

    def __getitem__(self, row: int) -> list[str]:
        return [word for word in words_of(self._texts[row]) if word not in STOP_WORDS]


def word_rarity(rows: FacetRows) -> dict[str, float]:
    """Returns log((texts + 1) / texts with the word) of each word of a facet's texts."""
    count = collections.Counter(word for text in rows.texts for word in set(words_of(text)))
    return {
        word: math.log((len(rows.texts) + 1) / number)
        for word, number in count.items()
        if word not in STOP_WORDS
    }
