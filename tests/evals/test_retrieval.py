import math

import numpy as np
import pytest

from clipjax.evals.retrieval import Retrieval

KS = (1, 5, 10)


class Pictures:
    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def fill(self, index, out):
        out[...] = index % 256


class Table:
    """Hand-made vectors: one a picture, one a text."""

    def __init__(self, pictures, texts):
        self.pictures, self.of_text = np.asarray(pictures, np.float32), texts

    def images(self, images):
        assert len(images) == len(self.pictures)
        return self.pictures

    def texts(self, texts):
        assert len(set(texts)) == len(texts)
        return np.stack([np.asarray(self.of_text[text], np.float32) for text in texts])


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def random_case(pictures=300, captions=40, candidates=25, dim=6, seed=0):
    """Captions that several pictures share; candidates of which some are captions too."""
    rng = np.random.default_rng(seed)
    own = [f"caption {i}" for i in range(captions)]
    further = [f"candidate {i}" for i in range(candidates)] + own[:3]
    texts = {text: unit(rng.normal(size=dim)) for text in [*own, *further]}
    chosen = [own[i] for i in rng.integers(0, captions, pictures)]
    table = Table(unit(rng.normal(size=(pictures, dim))), texts)
    task = Retrieval(images=Pictures(pictures), captions=chosen, candidates=further, resamples=100)
    return task, table


def brute_force(task, table):
    """Recall by its definition, float64: sort, look whether a right one is among the first k."""
    images = table.pictures.astype(np.float64)
    texts = sorted({*task.captions, *task.candidates})
    embeds = np.stack([np.asarray(table.of_text[t], np.float32) for t in texts]).astype(np.float64)
    similarity = images @ embeds.T
    out = {}
    for k in KS:
        to_text = [
            caption in [texts[j] for j in np.argsort(-row)[:k]]
            for caption, row in zip(task.captions, similarity, strict=True)
        ]
        to_image = [
            any(task.captions[i] == text for i in np.argsort(-column)[:k])
            for text, column in zip(texts, similarity.T, strict=True)
            if text in task.captions
        ]
        out[f"image_to_text_recall@{k}"] = np.mean(to_text)
        out[f"text_to_image_recall@{k}"] = np.mean(to_image)
    return out


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("candidates", [0, 25])
def test_recalls_are_those_of_the_definition(seed, candidates):
    task, table = random_case(candidates=candidates, seed=seed)
    results = task.run(table)
    expected = brute_force(task, table)
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        assert results[name].value == pytest.approx(value, abs=1e-12), name


def test_samples_are_pictures_one_way_and_distinct_captions_the_other():
    task, table = random_case()
    results = task.run(table)
    assert results["image_to_text_recall@1"].samples == 300
    assert results["text_to_image_recall@1"].samples == len(set(task.captions))


def test_pictures_with_equal_captions_match_each_other():
    texts = {"a cat": (1, 0), "a dog": (0, 1)}
    task = Retrieval(images=Pictures(3), captions=["a cat", "a dog", "a cat"], resamples=50)
    results = task.run(Table(unit([[1, 0], [0, 1], [2, 1]]), texts))
    assert all(results[f"{way}_recall@1"].value == 1 for way in ("image_to_text", "text_to_image"))


def test_candidates_make_it_harder_and_are_not_asked_for_pictures():
    texts = {"a cat": (1, 0), "a dog": (0, 1), "a big cat": unit((2, 1))}
    pictures = unit([[2, 1], [0, 1]])
    captions = ["a cat", "a dog"]
    alone = Retrieval(images=Pictures(2), captions=captions).run(Table(pictures, texts))
    among = Retrieval(images=Pictures(2), captions=captions, candidates=["a big cat"]).run(
        Table(pictures, texts)
    )
    assert alone["image_to_text_recall@1"].value == 1.0
    assert among["image_to_text_recall@1"].value == 0.5
    assert among["text_to_image_recall@1"] == alone["text_to_image_recall@1"]
    assert among["image_to_text_recall@1"].chance == pytest.approx(1 / 3)


def test_repeated_candidates_and_captions_count_once():
    task, table = random_case()
    repeated = Retrieval(
        images=task.images,
        captions=task.captions,
        candidates=[*task.candidates, *task.candidates, *task.captions],
        resamples=100,
    )
    assert repeated.run(table) == task.run(table)


def test_chance_is_the_probability_of_a_random_ranking():
    """Drawing k of n without return misses all m right ones with C(n - m, k) / C(n, k)."""
    task, table = random_case(pictures=60, captions=9, candidates=4)
    results = task.run(table)
    matches = [task.captions.count(text) for text in dict.fromkeys(task.captions)]
    texts = len({*task.captions, *task.candidates})
    for k in KS:
        expected = np.mean([1 - math.comb(60 - m, k) / math.comb(60, k) for m in matches])
        assert results[f"text_to_image_recall@{k}"].chance == pytest.approx(expected, rel=1e-12)
        assert results[f"image_to_text_recall@{k}"].chance == pytest.approx(min(1, k / texts))


def test_random_embeddings_are_at_chance():
    """4,000 pictures whose captions are independent of them: five deviations of the binomial."""
    task, table = random_case(pictures=4000, captions=40, candidates=60)
    results = task.run(table)
    for k in KS:
        p = k / 100
        assert results[f"image_to_text_recall@{k}"].chance == pytest.approx(p)
        difference = results[f"image_to_text_recall@{k}"].value - p
        assert abs(difference) < 5 * np.sqrt(p * (1 - p) / 4000)


def test_random_embeddings_are_at_chance_from_text_to_image():
    """600 captions of one picture each; ranks of captions are nearly independent."""
    rng = np.random.default_rng(1)
    captions = [f"caption {i}" for i in range(600)]
    table = Table(
        unit(rng.normal(size=(600, 64))), {c: unit(rng.normal(size=64)) for c in captions}
    )
    results = Retrieval(images=Pictures(600), captions=captions, resamples=100).run(table)
    for k in KS:
        p = k / 600
        found = results[f"text_to_image_recall@{k}"]
        assert found.chance == pytest.approx(p)
        assert abs(found.value - p) < 5 * np.sqrt(p * (1 - p) / 600)


def test_perfect_embeddings_score_one():
    captions = [f"caption {i % 12}" for i in range(30)]
    texts = {f"caption {i}": np.eye(12)[i] for i in range(12)}
    pictures = np.stack([texts[caption] for caption in captions])
    results = Retrieval(images=Pictures(30), captions=captions).run(Table(pictures, texts))
    assert all((found.value, found.low, found.high) == (1, 1, 1) for found in results.values())


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_collapsed_and_diverged_models_score_zero(value):
    task, table = random_case(candidates=0)
    point = np.full(4, value)
    results = task.run(Table(np.tile(point, (300, 1)), dict.fromkeys(table.of_text, point)))
    assert {found.value for found in results.values()} == {0.0}


def test_intervals_contain_the_values():
    task, table = random_case()
    for found in task.run(table).values():
        assert 0 <= found.low <= found.value <= found.high <= 1
