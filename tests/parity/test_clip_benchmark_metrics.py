"""Scores against the functions of CLIP_benchmark 1.6.2, whose model here looks embeddings up.

With `ties` every similarity is a multiple of 1/4 without rounding, so that equals are equal in both
codebases and plenty. Where their order decides, theirs is that of `torch.topk` and `torch.sort`:
both scores must then lie within what orders can give, and be one number once equals are sorted by
their numbers there as here.
"""

import types
import warnings

import numpy as np
import pytest

from clipjax.evals.outcomes import classification, metrics_of, multilabel, retrieval, selection

pytestmark = pytest.mark.parity

CLOSE = 1e-6
KS = (1, 5, 10)


def unit_rows(seed, rows, ties):
    rng = np.random.default_rng(seed)
    if not ties:
        x = rng.normal(size=(rows, 16)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)
    x = np.zeros((rows, 16), np.float32)
    for row in x:
        row[rng.choice(16, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return x


class Loader(list):
    """Batches, and the classes that theirs asks the data set of a loader for."""

    dataset = types.SimpleNamespace(classes=[])


@pytest.fixture
def theirs(torch, monkeypatch):
    """Returns the module of a kind of task, and what it takes for a model and a tokenizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clip_benchmark.metrics import image_caption_selection as selecting
        from clip_benchmark.metrics import zeroshot_classification as classifying
        from clip_benchmark.metrics import zeroshot_retrieval as retrieving

    # From NumPy 2.4 on an array of one number is no number, which `accuracy` takes it for.
    def number(x):
        return float(getattr(x, "item", lambda: x)())

    monkeypatch.setattr(classifying, "float", number, raising=False)

    def model(images, texts):
        table = {"images": torch.tensor(images), "texts": torch.tensor(texts)}
        return types.SimpleNamespace(
            encode_image=lambda x: table["images"][x.reshape(len(x)).long()],
            encode_text=lambda x: table["texts"][x],
        )

    def evaluate(module, images, texts, batches, *args, **options):
        def tokenizer(texts):
            return torch.tensor([int(text) for text in texts])

        # scikit-learn warns of a class that is predicted and never true.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return module.evaluate(
                model(images, texts), batches, tokenizer, *args, device="cpu", amp=False, **options
            )

    return types.SimpleNamespace(
        classifying=classifying, retrieving=retrieving, selecting=selecting, evaluate=evaluate
    )


@pytest.fixture
def lowest_first(torch, monkeypatch):
    """Has torch order equals by their numbers."""

    def sort(x, dim, descending):
        return torch.sort(x, dim=dim, descending=descending, stable=True)

    def topk(x, k, dim, largest=True, sorted=True):
        values, places = torch.sort(x, dim=dim, descending=largest, stable=True)
        return values.narrow(dim, 0, k), places.narrow(dim, 0, k)

    def patch(module):
        names = vars(torch) | {"sort": sort, "topk": topk}
        monkeypatch.setattr(module, "torch", types.SimpleNamespace(**names))
        monkeypatch.setattr(torch.Tensor, "topk", topk)

    return patch


def classify(torch, theirs, images, classes, labels, batch=17):
    """Returns our scores and theirs; for many labels if that is what `labels` are."""
    batches = Loader(
        (torch.arange(first, min(first + batch, len(images))), torch.tensor(labels[first:][:batch]))
        for first in range(0, len(images), batch)
    )
    names = [str(number) for number in range(len(classes))]
    batches.dataset = types.SimpleNamespace(classes=names)
    found = theirs.evaluate(theirs.classifying, images, classes, batches, names, ["{c}"])
    module = classification if labels.ndim == 1 else multilabel
    return metrics_of(module.judge(images, classes, labels)), found


def places_among_equals(scores, right):
    """Returns the best and the worst place of the best right item, over all orders of equals."""
    highest = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    before = (scores > highest).sum(axis=1)
    return before, before + ((scores == highest) & ~right).sum(axis=1)


@pytest.mark.parametrize("classes", [1, 2, 4, 5, 7, 40, 400])
def test_classification(torch, theirs, classes):
    images, texts = unit_rows(0, 150, False), unit_rows(1, classes, False)
    labels = np.random.default_rng(2).integers(0, classes, 150)
    ours, found = classify(torch, theirs, images, texts, labels)
    compared = 0
    for name, value in found.items():
        if not np.isnan(value):
            assert ours[name].value == pytest.approx(value, abs=CLOSE)
            compared += 1
    assert compared == (3 if classes >= 5 else 2)
    assert ("acc5" in ours) == (classes >= 5)


@pytest.mark.parametrize("classes", [2, 5, 12, 80, 400])
def test_classification_with_ties(torch, theirs, lowest_first, classes):
    images, texts = unit_rows(0, 300, True), unit_rows(1, classes, True)
    labels = np.random.default_rng(2).integers(0, classes, 300)
    right = labels[:, None] == np.arange(classes)
    best, worst = places_among_equals(images @ texts.T, right)
    ours, found = classify(torch, theirs, images, texts, labels)
    # Both take the lowest of the nearest.
    recall = found["mean_per_class_recall"]
    assert ours["mean_per_class_recall"].value == pytest.approx(recall, abs=CLOSE)
    tops = {"acc1": 1, "acc5": 5} if classes >= 5 else {"acc1": 1}
    for name, k in tops.items():
        low, high = (worst < k).mean() - CLOSE, (best < k).mean() + CLOSE
        assert low <= ours[name].value <= high
        assert low <= found[name] <= high
        assert high - low > 0.01 or k == classes
        # Equals among wrong classes, or beyond the first k, are still many.
        settled = (worst < k) == (best < k)
        some, theirs_of_some = classify(
            torch, theirs, images[settled], texts, labels[settled], batch=50
        )
        assert some[name].value == pytest.approx(theirs_of_some[name], abs=CLOSE)
    lowest_first(theirs.classifying)
    _, sorted_there = classify(torch, theirs, images, texts, labels)
    for name in tops:
        assert ours[name].value == pytest.approx(sorted_there[name], abs=CLOSE)


@pytest.mark.parametrize("count", [1, 16, 200])
def test_many_labels(torch, theirs, count):
    images, texts = unit_rows(0, count, False), unit_rows(1, 8, False)
    targets = np.random.default_rng(2).random((count, 8)) < 0.2
    targets[:, 3] = False  # a class without images counts as 0
    ours, found = classify(torch, theirs, images, texts, targets)
    expected = found["mean_average_precision"]
    assert ours["mean_average_precision"].value == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("count", [3, 16, 17, 300])
def test_many_labels_with_ties(torch, theirs, lowest_first, count):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (count, 20)).astype(np.float32)
    targets = rng.random((count, 20)) < 0.3

    def of_theirs(targets):
        function = theirs.classifying.average_precision_per_class
        return function(torch.tensor(scores), torch.tensor(targets)).numpy()

    ours = multilabel.average_precision_per_class(scores, targets)
    there = of_theirs(targets)
    # Right ones first among equals, and last; scores are whole.
    high = multilabel.average_precision_per_class(scores + 0.5 * targets, targets)
    low = multilabel.average_precision_per_class(scores - 0.5 * targets, targets)
    for found in (ours, there):
        assert (low - CLOSE <= found).all()
        assert (found <= high + CLOSE).all()
    # Equals that are all right or all wrong.
    alike = (rng.random((6, 20)) < 0.5)[scores.astype(int), np.arange(20)]
    found = multilabel.average_precision_per_class(scores, alike)
    np.testing.assert_allclose(found, of_theirs(alike), atol=CLOSE)
    lowest_first(theirs.classifying)
    np.testing.assert_allclose(ours, of_theirs(targets), atol=CLOSE)


def retrieve(torch, theirs, images, texts, owner, batch=9):
    """Returns our scores and theirs; texts stand in the order of their images."""
    of_image = [np.flatnonzero(owner == image) for image in range(len(images))]
    batches = [
        (
            torch.arange(first, min(first + batch, len(images))),
            [[str(text) for text in numbers] for numbers in of_image[first : first + batch]],
        )
        for first in range(0, len(images), batch)
    ]
    found = theirs.evaluate(theirs.retrieving, images, texts, batches, recall_k_list=list(KS))
    # As DataComp adds it.
    found["mean_recall@1"] = (
        found["text_retrieval_recall@1"] + found["image_retrieval_recall@1"]
    ) / 2
    return retrieval.judge(images, texts, owner), found


@pytest.mark.parametrize("images", [10, 60])
def test_retrieval(torch, theirs, images):
    owner = np.repeat(np.arange(images), np.random.default_rng(0).integers(1, 7, images))
    embeds = unit_rows(1, images, False)
    texts = embeds[owner] + 2 * unit_rows(2, len(owner), False)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    outcome, found = retrieve(torch, theirs, embeds, texts, owner)
    ours = {name: metric.value for name, metric in metrics_of(outcome).items()}
    assert ours == pytest.approx(found, abs=CLOSE)
    assert 0.1 < ours["mean_recall@1"] < 0.95


@pytest.mark.parametrize("images", [12, 90])
def test_retrieval_with_ties(torch, theirs, lowest_first, images):
    owner = np.repeat(np.arange(images), np.random.default_rng(0).integers(1, 7, images))
    embeds, texts = unit_rows(1, images, True), unit_rows(2, len(owner), True)
    outcome, found = retrieve(torch, theirs, embeds, texts, owner)
    ours = metrics_of(outcome)
    scores, right = texts @ embeds.T, owner[:, None] == np.arange(images)
    for kind, similarity, match, rank in (
        ("image", scores, right, outcome.arrays["image_rank"]),
        ("text", scores.T, right.T, outcome.arrays["text_rank"]),
    ):
        best, worst = places_among_equals(similarity, match)
        assert (best < worst).mean() > 0.5
        for k in KS:
            name = f"{kind}_retrieval_recall@{k}"
            for value in (ours[name].value, found[name]):
                assert (worst < k).mean() - CLOSE <= value <= (best < k).mean() + CLOSE
            settled = (worst < k) == (best < k)
            assert 0 < settled.sum() < len(settled)
            there = theirs.retrieving.recall_at_k(
                torch.tensor(np.ascontiguousarray(similarity)), torch.tensor(match.copy()), k
            )
            hit = (there > 0).numpy()
            assert (hit[settled] == (rank < k)[settled]).all()
    lowest_first(theirs.retrieving)
    _, sorted_there = retrieve(torch, theirs, embeds, texts, owner)
    values = {name: metric.value for name, metric in ours.items()}
    assert values == pytest.approx(sorted_there, abs=CLOSE)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("images", "captions"), [(1, 2), (2, 2), (1, 4), (3, 2)])
def test_selection_to_the_last_tie(torch, theirs, images, captions, ties):
    samples = 90
    x, t = unit_rows(0, samples * images, ties), unit_rows(1, samples * captions, ties)
    numbers = np.arange(samples * images).reshape(samples, images, 1, 1, 1)
    names = np.arange(samples * captions).astype(str).reshape(samples, captions)
    batches = [
        (torch.tensor(numbers[rows, 0] if images == 1 else numbers[rows]), names[rows].tolist())
        for rows in (slice(0, 50), slice(50, samples))
    ]
    found = theirs.evaluate(theirs.selecting, x, t, batches)
    outcome = selection.judge(x.reshape(samples, images, -1), t.reshape(samples, captions, -1))
    ours = {name: metric.value for name, metric in metrics_of(outcome).items()}
    assert ours == pytest.approx(found, abs=CLOSE)
    assert (outcome.options["ties"] > 0) == ties
