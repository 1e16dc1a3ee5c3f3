"""Each of DataComp's 40 tasks, on synthetic data in its published layout, against its definition.

The embeddings are random and given; the expected value of the main metric is computed here from
them and from what was written into the shards, with scikit-learn and plain loops.
"""

import io

import numpy as np
import pytest
from PIL import Image

from clipjax.config.benchmarks import BENCHMARKS
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.open_suite import open_benchmark
from clipjax.evals.suite_task import SuiteTask
from clipjax.evals.suites import read_suite

metrics = pytest.importorskip("sklearn.metrics")

COUNT, WIDTH = 60, 8
NAMES = [one.name for one in read_suite("datacomp").benchmarks]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def picture(number):
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (number % 256, number // 256, 0)).save(out, "PNG")
    return out.getvalue()


def array(values):
    out = io.BytesIO()
    np.save(out, np.asarray(values, np.int64))
    return out.getvalue()


class Given:
    """Embeddings by the number that a picture shows, and by text."""

    def __init__(self, images, seed):
        self.by_number, self.rng, self.by_text = images, np.random.default_rng(seed), {}

    def images(self, images, rows=None):
        pixels = np.zeros((2, 2, 3), np.uint8)
        out = []
        for index in range(len(images)):
            images.fill(index, pixels)
            out.append(self.by_number[int(pixels[0, 0, 0]) + 256 * int(pixels[0, 0, 1])])
        return np.stack(out)

    def texts(self, texts, rows=None):
        for text in texts:
            self.by_text.setdefault(text, unit(self.rng.normal(size=WIDTH)))
        return np.stack([self.by_text[text] for text in texts])


def write(folder, make_tar, samples):
    """Two shards."""
    (folder / "test").mkdir(parents=True)
    for shard in range(2):
        part = {
            f"s{i:07d}": samples[i] for i in range(len(samples)) if i * 2 // len(samples) == shard
        }
        make_tar(folder / "test" / f"{shard}.tar", part)
    (folder / "test" / "nshards.txt").write_text("2\n")


@pytest.fixture
def given(request):
    rng = np.random.default_rng(len(request.node.name))
    return rng, Given(unit(rng.normal(size=(COUNT, WIDTH))), 1)


def classification(benchmark, root, make_tar, rng, encode):
    """Writes the data of a task and returns its expected scores."""
    classes = benchmark.num_classes
    names, templates = [f"thing {c}" for c in range(classes)], ["a {c}.", "some {c}"]
    weights = []
    for name in names:
        prompts = encode.texts([template.format(c=name) for template in templates])
        weights.append(unit(prompts.mean(axis=0)))
    logits = 100 * encode.by_number @ np.stack(weights).T
    order = np.argsort(-logits, axis=1, kind="stable")
    # A third is right at once, a third among the first five, so that no score is 0 or another.
    place = np.minimum(rng.integers(1, 5, COUNT), classes - 1)
    place[: COUNT // 3] = 0
    labels = order[np.arange(COUNT), place]
    labels[2 * COUNT // 3 :] = rng.integers(0, classes, COUNT - 2 * COUNT // 3)
    metadata = np.stack([rng.integers(0, 6, COUNT) for _ in benchmark.columns or [0]], 1)
    metadata[:12] = np.arange(12)[:, None] % 6  # every group has images, some of them right
    samples = [
        {"png": picture(i), "cls": str(labels[i]).encode(), "npy": array(metadata[i])}
        for i in range(COUNT)
    ]
    folder = root / f"wds_{benchmark.name.removeprefix('fairness/').replace('/', '-')}_test"
    write(folder, make_tar, samples)
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    predicted, top5 = order[:, 0], (order[:, :5] == labels[:, None]).any(axis=1)
    groups = {name: metadata[:, i] for i, name in enumerate(benchmark.columns)}
    right = predicted == labels

    def worst(hits, field, skip=()):
        shares = [hits[groups[field] == g].mean() for g in range(6) if g not in skip]
        assert min(shares) > 0
        return min(shares)

    recall = metrics.recall_score(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
    )
    expected = {
        "acc1": right.mean(),
        "mean_per_class_recall": recall,
        "F1-macro_all": metrics.f1_score(
            labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
        ),
    }
    if classes >= 5:
        expected["acc5"] = top5.mean()
    if "region" in groups and benchmark.name == "wilds/fmow":
        expected["acc_worst_region"] = worst(right, "region")
        expected["acc_worst_year"] = worst(right, "year")
        expected["acc_worst_named_region"] = worst(right, "region", skip=(5,))
        assert expected["acc_worst_named_region"] != expected["acc_worst_region"]
    if benchmark.name == "fairness/dollar_street":
        expected["acc_top5_wg"] = worst(top5, "income_ds")
        assert expected["acc_top5_wg"] != worst(right, "income_ds")
    if benchmark.name == "fairness/geode":
        expected["acc_wg"] = worst(right, "region")
    if benchmark.name == "wilds/camelyon17":
        expected["acc_wg"] = worst(right, "slide")
    return expected


def retrieval(benchmark, root, make_tar, rng, encode):
    texts = [[f"caption {i}.{j}" for j in range(5)] for i in range(COUNT)]
    samples = [{"png": picture(i), "txt": "\n".join(texts[i]).encode()} for i in range(COUNT)]
    folder = root / f"wds_{benchmark.name}"
    write(folder, make_tar, samples)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    embeds = encode.texts([text for of_image in texts for text in of_image])
    scores = embeds @ encode.by_number.T
    owner = np.repeat(np.arange(COUNT), 5)
    image = np.mean([scores[t].argmax() == owner[t] for t in range(5 * COUNT)])
    text = np.mean([owner[scores[:, i].argmax()] == i for i in range(COUNT)])
    return {
        "image_retrieval_recall@1": image,
        "text_retrieval_recall@1": text,
        "mean_recall@1": (image + text) / 2,
    }


def association(benchmark, root, rng, encode):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, jaccards, sizes = [], [], []
    for cue, size in enumerate((5, 6, 10, 12, 10, 12)):
        numbers = rng.choice(COUNT, size, replace=False)
        names = [f"n{number}" for number in numbers]
        right = sorted(rng.choice(size, rng.integers(1, 4), replace=False))
        rows.append(
            {
                "cue": f"Cue{cue}",
                "candidates": names,
                "candidate_images": [{"bytes": picture(int(n)), "path": None} for n in numbers],
                "associations": [names[i] for i in right],
            }
        )
        scores = encode.by_number[numbers] @ encode.texts([f"A cue{cue}"])[0]
        chosen = np.isin(np.arange(size), np.argsort(scores)[-len(right) :])
        truth = np.isin(np.arange(size), right)
        jaccards.append(metrics.jaccard_score(truth, chosen))
        sizes.append(size)
    (root / "winogavil").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), root / "winogavil" / "test.parquet")
    jaccards, sizes = np.array(jaccards), np.array(sizes)
    return {
        "avg_jaccard_score": jaccards.mean(),
        "jaccard_score_10-12": jaccards[sizes >= 10].mean(),
        "jaccard_score_5-6": jaccards[sizes <= 6].mean(),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_task_has_the_value_of_its_definition(name, given, tmp_path, make_tar):
    rng, encode = given
    benchmark = BENCHMARKS[name]
    if benchmark.kind == "classification":
        expected = classification(benchmark, tmp_path, make_tar, rng, encode)
    elif benchmark.kind == "retrieval":
        expected = retrieval(benchmark, tmp_path, make_tar, rng, encode)
    else:
        expected = association(benchmark, tmp_path, rng, encode)
    assert benchmark.main_metric in expected
    dataset = open_benchmark(benchmark, str(tmp_path), EvaluationTransform())
    found = SuiteTask(benchmark=benchmark, dataset=dataset, resamples=20).evaluate(encode)
    assert found.record["main_metric"] == benchmark.main_metric
    for metric, value in expected.items():
        assert found.scores[metric].value == pytest.approx(value, abs=1e-6), metric


@pytest.mark.parametrize("name", ["fairness/fairface", "fairness/utkface"])
def test_faces_have_the_values_of_their_definition(name, given, tmp_path, make_tar):
    rng, encode = given
    answers = {"race": 7, "gender": 2, "age": 9, "toxic": 22}
    lines = [f"{objective}:x{i}" for objective, count in answers.items() for i in range(count)]
    race = rng.integers(0, 7, COUNT)
    columns = {
        "age": rng.integers(0, 9, COUNT),
        "gender": rng.integers(0, 2, COUNT),
        "race": race,
        "race_binary": (race != 1).astype(int),
    }
    folder = tmp_path / f"wds_{name.removeprefix('fairness/')}_test"
    samples = [
        {"png": picture(i), "cls": b"0", "npy": array([of[i] for of in columns.values()])}
        for i in range(COUNT)
    ]
    write(folder, make_tar, samples)
    (folder / "classnames.txt").write_text("\n".join(lines))
    templates = folder / "zeroshot_classification_templates.txt"
    templates.write_text("\n".join(f"{objective}:a {{c}}, {objective}" for objective in answers))
    predicted = {
        objective: (
            encode.by_number @ encode.texts([f"a x{i}, {objective}" for i in range(count)]).T
        ).argmax(axis=1)
        for objective, count in answers.items()
    }
    dataset = open_benchmark(BENCHMARKS[name], str(tmp_path), EvaluationTransform())
    found = SuiteTask(benchmark=BENCHMARKS[name], dataset=dataset, resamples=20).evaluate(encode)
    expected = {
        "acc_race_avg": ((predicted["race"] != 1) == columns["race_binary"]).mean(),
        "acc_gender_avg": (predicted["gender"] == columns["gender"]).mean(),
        "acc_age_avg": (predicted["age"] == columns["age"]).mean(),
        "acc_gender_x_avg": (predicted["gender"] == columns["gender"]).mean(),
        "toxicity_crime_avg": (predicted["toxic"] >= 18).mean(),
        "toxicity_nonhuman_avg": ((predicted["toxic"] >= 14) & (predicted["toxic"] < 18)).mean(),
    }
    for metric, value in expected.items():
        assert found.scores[metric].value == pytest.approx(value, abs=1e-6), metric
