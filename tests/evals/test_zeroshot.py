import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from clipjax.evals.zeroshot import ZeroShotClassification


class Pictures:
    """Pictures that only their number tells apart."""

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
        return np.stack([np.asarray(self.of_text[text], np.float32) for text in texts])


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def random_case(classes=12, count=400, templates=("{c}", "a {c}", "the {c}!"), seed=0):
    rng = np.random.default_rng(seed)
    names = [f"class {i}" for i in range(classes)]
    texts = {t.replace("{c}", n): unit(rng.normal(size=6)) for n in names for t in templates}
    labels = rng.integers(0, classes, count)
    table = Table(unit(rng.normal(size=(count, 6))), texts)
    task = ZeroShotClassification(
        images=Pictures(count), labels=labels, class_names=names, templates=templates, resamples=100
    )
    return task, table, labels


@pytest.mark.parametrize("seed", range(3))
def test_top_1_and_top_5_are_those_of_scikit_learn(seed):
    task, table, labels = random_case(seed=seed)
    scores = table.pictures.astype(np.float64) @ task.class_embeds(table).astype(np.float64).T
    results = task.run(table)
    for k in (1, 5):
        expected = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(12))
        assert results[f"top{k}"].value == pytest.approx(expected, abs=1e-12)
        assert results[f"top{k}"].samples == 400


def test_a_class_is_the_normalised_mean_of_its_prompts():
    """Prompts (1, 0) and (0, 1) give (1, 1) / sqrt 2; the mean of the logits would do as well, but
    (0.6, 0.8) and (1, 0) give (1.6, 0.8) / sqrt 3.2, which is shorter before it is normalised.
    """
    texts = {"a x": (1, 0), "x!": (0, 1), "a y": (0.6, 0.8), "y!": (1, 0)}
    task = ZeroShotClassification(
        images=Pictures(1),
        labels=np.array([0]),
        class_names=["x", "y"],
        templates=["a {c}", "{c}!"],
    )
    embeds = task.class_embeds(Table([[1, 0]], texts))
    expected = [np.array([1, 1]) / np.sqrt(2), np.array([1.6, 0.8]) / np.sqrt(3.2)]
    np.testing.assert_allclose(embeds, expected, rtol=1e-6)


def test_hand_made_vectors():
    """Three of four pictures lie nearest to their class."""
    texts = {"cat": (1, 0, 0), "dog": (0, 1, 0), "cow": (0, 0, 1)}
    pictures = unit([[3, 1, 0], [1, 3, 0], [0, 1, 2], [0, 2, 1]])
    task = ZeroShotClassification(
        images=Pictures(4),
        labels=np.array([0, 1, 2, 2]),
        class_names=["cat", "dog", "cow"],
        templates=["{c}"],
    )
    results = task.run(Table(pictures, texts))
    assert results["top1"].value == 0.75
    assert set(results) == {"top1"}


def test_every_place_of_a_template_takes_the_name_and_other_braces_stay():
    seen = []

    class Recorder(Table):
        def texts(self, texts):
            seen.extend(texts)
            return np.ones((len(texts), 2), np.float32)

    task = ZeroShotClassification(
        images=Pictures(1), labels=np.array([0]), class_names=["a{b}"], templates=["{c} {x} {c}"]
    )
    task.class_embeds(Recorder([[1, 0]], {}))
    assert seen == ["a{b} {x} a{b}"]


def test_a_collapsed_model_scores_zero():
    task, table, _ = random_case()
    point = unit(np.arange(1.0, 7.0))
    collapsed = Table(np.tile(point, (400, 1)), dict.fromkeys(table.of_text, point))
    results = task.run(collapsed)
    assert [results[name].value for name in ("top1", "top5")] == [0.0, 0.0]


def test_a_class_of_which_a_sparse_head_says_nothing_is_never_named():
    task = ZeroShotClassification(
        images=Pictures(2), labels=np.array([0, 1]), class_names=["a", "b"], templates=["{c}"]
    )
    table = Table([[1, 0], [0.6, 0.8]], {"a": [0.8, 0.6], "b": [0, 0]})
    np.testing.assert_array_equal(task.class_embeds(table)[1], [0, 0])
    assert task.run(table)["top1"].value == 0.5


def test_equal_classes_are_told_apart_by_nobody():
    """Two class names with the same embedding: neither counts as found."""
    texts = {"cat": (1, 0), "feline": (1, 0), "dog": (0, 1)}
    task = ZeroShotClassification(
        images=Pictures(3),
        labels=np.array([0, 1, 2]),
        class_names=["cat", "feline", "dog"],
        templates=["{c}"],
    )
    results = task.run(Table([[1, 0], [1, 0], [0, 1]], texts))
    assert results["top1"].value == pytest.approx(1 / 3)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_model_of_nan_scores_zero():
    task, table, _ = random_case()
    nan = Table(np.full((400, 6), np.nan), dict.fromkeys(table.of_text, np.full(6, np.nan)))
    assert task.run(nan)["top5"].value == 0.0


@pytest.mark.parametrize(
    ("counts", "top1", "top5"),
    [
        ([10] * 10, 0.1, 0.5),
        ([55, 5, 5, 5, 5, 5, 5, 5, 5, 5], 0.55, 0.75),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 9], 1.0, 1.0),
    ],
)
def test_chance_is_that_of_always_naming_the_commonest_classes(counts, top1, top5):
    labels = np.repeat(np.arange(10), counts)
    names = [str(i) for i in range(10)]
    texts = {name: unit(np.arange(10) + i) for i, name in enumerate(names)}
    task = ZeroShotClassification(
        images=Pictures(len(labels)), labels=labels, class_names=names, templates=["{c}"]
    )
    results = task.run(Table(unit(np.ones((len(labels), 10))), texts))
    assert results["top1"].chance == pytest.approx(top1)
    assert results["top5"].chance == pytest.approx(top5)


def test_random_embeddings_are_at_chance():
    """12 classes, 4,000 pictures: within five standard deviations of the binomial."""
    task, table, _ = random_case(count=4000)
    results = task.run(table)
    for k in (1, 5):
        p = k / 12
        assert abs(results[f"top{k}"].value - p) < 5 * np.sqrt(p * (1 - p) / 4000)


def test_perfect_embeddings_score_one():
    names = [f"class {i}" for i in range(8)]
    axes = np.eye(8)
    labels = np.arange(40) % 8
    task = ZeroShotClassification(
        images=Pictures(40), labels=labels, class_names=names, templates=["{c}"]
    )
    results = task.run(Table(axes[labels], dict(zip(names, axes, strict=True))))
    assert (results["top1"].value, results["top1"].low) == (1.0, 1.0)
