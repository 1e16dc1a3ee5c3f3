import dataclasses
import re

import numpy as np
import pytest

from clipjax.config import UsageError
from clipjax.config.benchmarks import ALIASES, BENCHMARKS
from clipjax.evals.estimate import Estimate
from clipjax.evals.suites import PROTOCOLS, aggregates, benchmark_of, read_suite, suites

SIZES = {
    "datacomp": 38,
    "datacomp_faces": 2,
    "vtab": 19,
    "vtab_plus": 36,
    "imagenet": 7,
    "retrieval": 3,
    "multilingual": 47,
    "compositional": 9,
    "core": 10,
    "quick": 3,
    "clip_benchmark": 41,
}


def test_the_lists_that_there_are():
    assert {name: len(read_suite(name).benchmarks) for name in suites()} == SIZES


def test_datacomp_has_its_own_protocol():
    assert read_suite("datacomp").protocol == "datacomp-v1"
    assert read_suite("imagenet").protocol == PROTOCOLS[0]


def test_names_with_commas_are_a_suite():
    found = read_suite("imagenet_v2, wds/vtab/dtd,quick/digits")
    assert [one.name for one in found.benchmarks] == ["imagenetv2", "vtab/dtd", "quick/digits"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("datacmp", "no suite or task 'datacmp'. Did you mean 'datacomp'?"),
        ("mnist,imagnet1k", "no suite or task 'imagnet1k'. Did you mean 'imagenet1k'?"),
        ("quick,mnist", "'quick' is a list of tasks: name it alone"),
        ("nowhere.txt", "--suite=nowhere.txt: no such file."),
    ],
)
def test_unknown_names(spec, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        read_suite(spec)


def test_files_of_the_user(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# mine\nprotocol: datacomp-v1\nmnist  # digits\n\nfolder:pets/mine\n")
    found = read_suite(str(path))
    assert (found.name, found.protocol) == ("mine", "datacomp-v1")
    assert [one.name for one in found.benchmarks] == ["mnist", "pets/mine"]
    for text, said in (
        ("mnist\nmnist\n", "names 'mnist' twice"),
        ("# nothing\n", "names no task"),
        ("protocol: datacomp-v2\nmnist\n", "Did you mean 'datacomp-v1'?"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=re.escape(said)):
            read_suite(str(path))


def test_languages_that_are_not_listed():
    found = benchmark_of("flickr30k_200/deu_Latn")
    assert (found.kind, found.main_metric) == ("retrieval", "mean_recall@1")


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_lead_somewhere(alias):
    assert benchmark_of(alias).name == ALIASES[alias]


def test_the_table_of_datacomp_is_the_published_one():
    """40 tasks, of which two have no main metric; 13 of VTAB, six shifts, three of retrieval."""
    tagged = [one for one in BENCHMARKS.values() if "datacomp" in one.tags]
    assert len(tagged) == 38
    assert len({one.title for one in tagged}) == 38
    counts = {tag: sum(tag in one.tags for one in tagged) for tag in ("vtab", "shift", "retrieval")}
    assert counts == {"vtab": 13, "shift": 6, "retrieval": 3}
    # What the sizes of tasklist.yml sum to, Flickr being 1,000, less FairFace and UTKFace.
    assert sum(one.num_samples for one in tagged) == 732_026 - 10_954 - 23_703
    recalls = {one.name for one in tagged if one.main_metric == "mean_per_class_recall"}
    assert recalls == {"vtab/caltech101", "fgvc_aircraft", "vtab/flowers", "vtab/pets"}


def score(value, half=0.02):
    return Estimate(value=value, low=value - half, high=value + half, chance=0.1, samples=100)


def test_means_over_tasks():
    suite = read_suite("datacomp").benchmarks
    rng = np.random.default_rng(0)
    scores = {one.name: score(float(rng.uniform(0.1, 0.9))) for one in suite}
    means = aggregates(suite, scores)
    assert list(means) == ["Average", "ImageNet", "ImageNet dist. shifts", "VTAB", "Retrieval"]
    values = [one.value for one in scores.values()]
    assert means["Average"].value == pytest.approx(np.mean(values), abs=1e-12)
    assert means["ImageNet"] == dataclasses.replace(scores["imagenet1k"])
    # 38 independent errors of the same size: a mean is sqrt(38) times as sure.
    width = means["Average"].high - means["Average"].low
    assert width == pytest.approx(0.04 / np.sqrt(38), rel=1e-9)


def test_a_mean_without_one_of_its_tasks_is_none():
    suite = read_suite("datacomp").benchmarks
    scores = {one.name: score(0.5) for one in suite if one.name != "vtab/svhn"}
    assert set(aggregates(suite, scores)) == {"ImageNet", "ImageNet dist. shifts", "Retrieval"}
    assert aggregates(suite, {}) == {}


def test_ends_of_a_mean_stay_shares():
    suite = read_suite("quick").benchmarks
    mean = aggregates(suite, {one.name: score(0.005) for one in suite})["Average"]
    assert mean.low == 0.0
