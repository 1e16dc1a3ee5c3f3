import json

from clipjax.evals.estimate import Estimate
from clipjax.evals.report import results_table, table, to_json

RESULTS = {
    "pets": {
        "top1": Estimate(value=0.5, low=0.4, high=0.6, chance=0.1, samples=1234),
        "top5": Estimate(value=1.0, low=1.0, high=1.0, chance=0.5, samples=1234),
    },
    "a longer task": {
        "recall@10": Estimate(value=1 / 3, low=0.0, high=2 / 3, chance=0.01, samples=7)
    },
}


def test_the_table_shows_score_interval_chance_and_count_of_every_metric():
    assert table(RESULTS).splitlines() == [
        "task           metric      score  95 % interval  chance  samples",
        "pets           top1       0.5000  0.4000-0.6000  0.1000    1,234",
        "pets           top5       1.0000  1.0000-1.0000  0.5000    1,234",
        "a longer task  recall@10  0.3333  0.0000-0.6667  0.0100        7",
    ]


def test_columns_are_aligned_and_no_line_ends_in_blanks():
    lines = table(RESULTS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert all(line == line.rstrip() for line in lines)


def test_an_empty_report_is_its_head():
    assert table({}).split() == [
        *("task", "metric", "score"),
        *("95", "%", "interval"),
        *("chance", "samples"),
    ]


def test_json_holds_every_field_and_comes_back():
    saved = json.loads(json.dumps(to_json(RESULTS), allow_nan=False))
    assert saved["pets"]["top1"] == {
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "chance": 0.1,
        "samples": 1234,
    }
    back = {
        task: {metric: Estimate(**fields) for metric, fields in scores.items()}
        for task, scores in saved.items()
    }
    assert back == RESULTS


def suite_results(**changes):
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1, "samples": 1234}
    tasks = {
        "vtab/pets": {"main_metric": "acc1", "metrics": {"acc5": {**score}, "acc1": score}},
        "faces": {"main_metric": "", "metrics": {"acc_race_avg": {**score, "value": 0.25}}},
        "nothing": {"main_metric": "", "metrics": {}},
    }
    for name, record in tasks.items():
        record["task"] = name
    return {
        "tasks": tasks,
        "aggregates": {"Average": {**score, "samples": 2468}},
        "failed": {"mnist": "mnist: no such folder.\nGet it from there.", "dtd": "empty"},
        **changes,
    }


def test_the_table_of_a_suite_has_a_line_a_task_means_below_and_what_failed():
    assert results_table(suite_results()).splitlines() == [
        "task       metric         score  95 % interval  chance  samples",
        "vtab/pets  acc1          0.5000  0.4000-0.6000  0.1000    1,234",
        "faces      acc_race_avg  0.2500  0.4000-0.6000  0.1000    1,234",
        "",
        "Average    mean          0.5000  0.4000-0.6000  0.1000    2,468",
        "",
        "not scored: mnist: no such folder. Get it from there.",
        "not scored: dtd: empty",
    ]


def test_a_suite_without_means_or_failures_or_tasks():
    whole = suite_results(aggregates={}, failed={})
    assert len(results_table(whole).splitlines()) == 3
    empty = suite_results(tasks={}, aggregates={}, failed={})
    assert results_table(empty) == table({})
