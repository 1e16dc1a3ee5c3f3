"""What `test_html_report.py` does not reach: faces, groups alone, figures that are strange."""

import re

import numpy as np
import pytest

from clipjax.evals.outcomes import attributes, metrics_of
from clipjax.evals.task_section import group_scores, task_section


def record_of(metrics, **others):
    return {
        "task": "t",
        "title": "T",
        "kind": "attributes",
        "main_metric": "",
        "protocol": "clip-benchmark",
        "data_sha256": "0",
        "samples": 10,
        "bad_samples": 0,
        "options": {},
        "metrics": {
            name: {"value": value, "low": value, "high": value, "chance": 0.1, "samples": 5}
            for name, value in metrics.items()
        },
        **others,
    }


@pytest.fixture(scope="module")
def faces():
    rng = np.random.default_rng(0)

    def unit(rows):
        x = rng.normal(size=(rows, 16)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    race = rng.integers(0, 7, 400)
    metadata = {
        "age": rng.integers(0, 9, 400),
        "gender": rng.integers(0, 2, 400),
        "race": race,
        "race_binary": (race != 1).astype(np.int64),
    }
    classes = {"race": unit(7), "gender": unit(2), "age": unit(9), "toxic": unit(22)}
    outcome = attributes.judge(unit(400), classes, metadata)
    return record_of({name: metric.value for name, metric in metrics_of(outcome).items()})


def test_every_score_of_faces_by_group_is_in_one_table(faces):
    groups = dict(group_scores(faces))
    members = [metric for of in groups.values() for metric in of.values()]
    by_group = [name for name in faces["metrics"] if ":" in name]
    assert sorted(members) == sorted(by_group)
    assert len(by_group) > 30
    assert list(groups["acc_race"]) == ["race_binary:0", "race_binary:1"]
    assert len(groups["acc_gender_x"]) == 14
    assert len(groups["acc_gender"]) == 2
    assert all(name.startswith("race:") for name in groups["toxicity_crime"])


def test_the_worst_of_what_is_bad_is_the_largest(faces, tmp_path):
    page = task_section(tmp_path, faces, {}, name="a")
    for score, pick in [("acc_age", min), ("toxicity_crime", max)]:
        (rows,) = re.findall(rf"<h3>Groups: {score}</h3>(.*?)</table>", page, re.S)
        members = dict(group_scores(faces))[score]
        values = {name: faces["metrics"][metric]["value"] for name, metric in members.items()}
        marked = re.findall(r"<td>([^<]*) \(worst\)</td>", rows)
        assert marked == [name for name in values if values[name] == pick(values.values())]
        assert ("Lower is better" in rows) == (pick is max)


def test_groups_that_are_equal_have_no_worst(tmp_path):
    metrics = {"acc1": 0.5, "acc_x_a": 0.5, "acc_x_b": 0.5}
    record = record_of(metrics, options={"groups": {"x": ["a", "b", "gone"], "y": ["c"]}})
    assert dict(group_scores(record)) == {
        "acc1 by x": {"a": "acc_x_a", "b": "acc_x_b"},
        "acc1 by y": {},
    }
    page = task_section(tmp_path, record, {}, name="a")
    assert "(worst)" not in page
    assert "acc1 by y" not in page


def test_names_of_metrics_that_only_begin_alike_are_no_groups(tmp_path):
    record = record_of({"acc": 0.1, "acc_wg": 0.2, "acc_worst_year": 0.3, "acc_race_avg": 0.4})
    assert dict(group_scores(record)) == {"acc": {}}
    page = task_section(tmp_path, record, {}, name="a")
    assert [page.count(f"<td>{name}</td>") for name in record["metrics"]] == [1, 1, 1, 1]


def test_a_task_without_metrics_is_shown(tmp_path):
    assert "T (t)</summary>" in task_section(tmp_path, record_of({}), {}, name="a")


@pytest.mark.parametrize("over", [0.25, -0.25, 0.0])
def test_too_sure_and_too_modest_are_told_apart(over, tmp_path):
    names = ("low", "high", "confidence", "accuracy", "count")
    table = {name: [value] for name, value in zip(names, (0.4, 0.6, 0.5, 0.5, 3.0), strict=True)}
    calibration = {"ece": 0.25, "overconfidence": over, "table": table}
    record = record_of({}, kind="classification", calibration=calibration)
    page = task_section(tmp_path, record, {}, name="a")
    assert ("above the share" in page) == (over > 0)
    assert f'<data value="{over!r}">{abs(over):.4f}</data>' in page
