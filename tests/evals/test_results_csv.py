import csv
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config.benchmarks import BENCHMARKS
from clipjax.evals.results_csv import openclip_row, write_csv

# The first line of docs/openclip_results.csv of open_clip, as of its commit f862f86.
LINE = (
    "name,pretrained,params (M),FLOPs (B),Average perf. on 38 datasets,ImageNet 1k,Caltech-101,"
    "CIFAR-10,CIFAR-100,CLEVR Counts,CLEVR Distance,Country211,Describable Textures,EuroSAT,"
    "FGVC Aircraft,Food-101,GTSRB,ImageNet Sketch,ImageNet v2,ImageNet-A,ImageNet-O,ImageNet-R,"
    "KITTI Vehicle Distance,MNIST,ObjectNet,Oxford Flowers-102,Oxford-IIIT Pet,Pascal VOC 2007,"
    "PatchCamelyon,Rendered SST2,RESISC45,Stanford Cars,STL-10,SUN397,SVHN,Flickr,MSCOCO,WinoGAViL,"
    "iWildCam,Camelyon17,FMoW,Dollar Street,GeoDE"
)
HEADER = LINE.split(",")
DATACOMP = {one.name: one for one in BENCHMARKS.values() if "datacomp" in one.tags}


def record(value, metric="acc1", title="A title", **others):
    metrics = {metric: value, **others}
    return {
        "title": title,
        "main_metric": metric,
        "metrics": {name: {"value": one} for name, one in metrics.items()},
    }


def of_all(values):
    return {
        name: record(value, one.main_metric, one.title)
        for (name, one), value in zip(DATACOMP.items(), values, strict=True)
    }


def read_back(path, results):
    write_csv(path, results)
    with open(path, encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    return row


def test_the_columns_are_those_of_open_clip_and_the_titles_those_of_our_table():
    columns, row = openclip_row({"model": {}, "tasks": {}})
    assert columns == HEADER
    assert list(row) == HEADER
    assert set(row.values()) == {""}
    assert sorted(HEADER[5:]) == sorted(one.title for one in DATACOMP.values())


def test_a_whole_row_is_read_back(tmp_path):
    values = [number / 100 + 0.00004 for number in range(38)]
    model = {"name": "mine, of course", "step": 1200, "parameters": 149_620_737, "flops": 41.09e9}
    row = read_back(tmp_path / "r.csv", {"model": model, "tasks": of_all(values)})
    assert list(row) == HEADER
    assert list(row.values())[:4] == ["mine, of course", "step 1200", "149.62", "41.09"]
    assert row["Average perf. on 38 datasets"] == f"{statistics.mean(values):.4f}"
    for (name, one), value in zip(DATACOMP.items(), values, strict=True):
        assert row[one.title] == f"{value:.4f}", name


@pytest.mark.parametrize("missing", DATACOMP)
def test_without_one_task_there_is_no_average(missing):
    tasks = of_all([0.5] * 38)
    del tasks[missing]
    _, row = openclip_row({"model": {"name": "x"}, "tasks": tasks})
    assert row["Average perf. on 38 datasets"] == ""
    assert row[DATACOMP[missing].title] == ""
    assert sum(value == "0.5000" for value in row.values()) == 37


def test_a_column_never_holds_another_metric_than_elsewhere():
    tasks = of_all([0.5] * 38)
    tasks["wilds/fmow"] = record(0.9, "acc1", "FMoW")  # metadata was missing
    tasks["vtab/pets"] = record(0.7, "acc1", "Oxford-IIIT Pet", mean_per_class_recall=0.6)
    _, row = openclip_row({"model": {}, "tasks": tasks})
    assert (row["FMoW"], row["Oxford-IIIT Pet"]) == ("", "0.6000")
    assert row["Average perf. on 38 datasets"] == ""


def test_other_tasks_stand_behind_and_never_in_the_column_of_another(tmp_path):
    tasks = {
        "vtab/cifar10": record(0.1, title="CIFAR-10"),
        "cifar10": record(0.2, title="CIFAR-10"),
        "MNIST": record(0.3, title="MNIST"),  # folder:MNIST
        "x": record(0.4, title="MNIST'"),
        "faces": record(0.5, metric="", title="Faces"),
        "pets/mine": record(0.6, "mean_recall@1", title='=1+1, "ä"\n'),
    }
    row = read_back(tmp_path / "r.csv", {"model": {"name": "m"}, "tasks": tasks})
    assert list(row) == [*HEADER, "vtab/cifar10", "MNIST'", "x", '=1+1, "ä"\n']
    assert list(row.values())[len(HEADER) :] == ["0.1000", "0.3000", "0.4000", "0.6000"]
    assert (row["CIFAR-10"], row["MNIST"], row["name"]) == ("0.2000", "", "m")


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.text(max_size=3), st.floats(0, 1))))
def test_no_score_is_lost_whatever_the_titles(tasks):
    records = {name: record(value, title=title) for name, (title, value) in tasks.items()}
    columns, row = openclip_row({"model": {}, "tasks": records})
    assert columns[: len(HEADER)] == HEADER
    assert list(row.values())[len(HEADER) :] == [f"{value:.4f}" for _, value in tasks.values()]


def test_the_file_ends_lines_as_open_clip_does_and_is_replaced_whole(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("before")
    write_csv(path, {"model": {"name": "a"}, "tasks": {}})
    assert path.read_bytes().count(b"\n") == 2
    assert b"\r" not in path.read_bytes()
    assert path.read_text().splitlines()[0] == LINE
    assert [found.name for found in tmp_path.iterdir()] == ["results.csv"]
