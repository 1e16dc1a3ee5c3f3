"""The results of an evaluation as one page of HTML."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.core import html
from clipjax.core.files import replaced
from clipjax.evals.records import PICTURES, TASKS, file_name, read_results
from clipjax.evals.report import headline_metric
from clipjax.evals.task_section import METRIC_HEAD, count, score_row, task_section

REPORT = "report.html"
_MOST_OPENED = 2
_SHORT = 12
_UNCERTAINTY = (
    "Intervals are 95 % bootstrap intervals over the images of a task, for this model as it is. "
    "They do not say how another training run of the same recipe, with another seed, would score. "
    "Chance is what guessing gives. Pictures that do not decode count as wrong."
)


def html_report(folder: Path) -> str:
    """Returns the page of an evaluation: means, tasks, what was not run, and all of each task.

    Args:
        folder: of the evaluation, see `records`.

    Raises:
        UserError: if it holds no results.
    """
    results = read_results(folder)
    tasks = list(results["tasks"].values())
    opened = len(tasks) <= _MOST_OPENED
    sections = [
        task_section(folder, record, _pictures(folder, record), name=f"task{number}", opened=opened)
        for number, record in enumerate(tasks)
    ]
    title = f"{results['model'].get('name') or 'A model'} on {results['suite']}"
    return html.page(
        title,
        html.paragraph(*_model(results)),
        html.paragraph(_UNCERTAINTY),
        *_means(results),
        *_table(tasks),
        *_failed(results["failed"]),
        html.heading("Each task") if sections else "",
        *sections,
    )


def write_report(folder: Path) -> Path:
    """Writes the page into the folder and returns its path.

    Args:
        folder: of the evaluation, see `records`.

    Raises:
        UserError: if it holds no results.
    """
    page = html_report(folder)
    path = folder / REPORT
    with replaced(path) as file:
        # Names of files may hold bytes that are no text.
        file.write(page.encode("utf-8", "replace"))
    return path


def _model(results: Mapping[str, Any]) -> list[Any]:
    model = results["model"]
    parts: list[Any] = []
    if model.get("step") is not None:
        parts += ["Step ", count(model["step"]), ". "]
    if model.get("parameters") is not None:
        parts += [count(model["parameters"]), " parameters. "]
    if model.get("spec"):
        parts.append(f"Read from {model['spec']}. ")
    return [*parts, f"Protocol {results['protocol']}."]


def _means(results: Mapping[str, Any]) -> list[str]:
    means = results["aggregates"]
    if not means:
        return [html.paragraph("No means: each needs the scores of all of its tasks.")]
    rows = [score_row(title, fields) for title, fields in means.items()]
    return [
        html.heading("Means"),
        html.table(("mean of tasks", *METRIC_HEAD[1:]), rows),
        html.paragraph(
            "Intervals of means take the errors of the tasks as independent, and are for these "
            "tasks."
        ),
    ]


def _table(tasks: list[Mapping[str, Any]]) -> list[str]:
    rows = []
    for number, record in enumerate(tasks):
        title, metric = record["title"], headline_metric(record)
        if metric is None:
            continue
        name = html.Html(f"{html.link(title, f'task{number}')} {html.small(metric)}")
        prompts = record.get("prompts_sha256")
        rows.append(
            [
                *score_row(name, record["metrics"][metric], title),
                count(record["bad_samples"]),
                record["protocol"],
                prompts[:_SHORT] if prompts else "none",
            ]
        )
    head = ["task", *METRIC_HEAD[1:], "bad", "protocol", "prompts"]
    return [html.heading("Tasks"), html.table(head, rows)] if rows else []


def _failed(failed: Mapping[str, str]) -> list[str]:
    if not failed:
        return []
    lines = [
        f"{name}: {reason.removeprefix(f'{name}: ')}" for name, reason in sorted(failed.items())
    ]
    return [html.heading(f"Not scored ({len(failed)})"), html.bullets(lines)]


def _pictures(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    path = folder / TASKS / f"{file_name(record['task'])}{PICTURES}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the page is whole without
    if not isinstance(found, dict):
        return {}
    return {item: address for item, address in found.items() if isinstance(address, str)}
