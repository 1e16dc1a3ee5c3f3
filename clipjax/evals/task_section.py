"""What the page of an evaluation says of one task."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.config import UserError
from clipjax.core import html
from clipjax.evals.calibration import calibration
from clipjax.evals.records import read_outcome
from clipjax.evals.report import headline_metric

Record = Mapping[str, Any]
Thumbnails = Mapping[str, str]

METRIC_HEAD = ("metric", "score", "", "95 % interval", "chance", "samples")
_CALIBRATION = {
    "ece": "expected calibration error, bins of equal width",
    "ece_equal_mass": "expected calibration error, bins of equal mass",
    "mce": "largest error of a bin",
    "overconfidence": "mean confidence less share right",
    "brier": "Brier score of the predicted class",
    "nll": "mean negative log-likelihood of the right class",
}
_GEOMETRY = {
    "images": "images that decode",
    "texts": "texts, or classes",
    "alignment": "mean squared distance of matched images and texts",
    "modality_gap": "distance between the mean image and the mean text",
    "image_uniformity": "uniformity of the images: the lower, the more evenly spread",
    "text_uniformity": "uniformity of the texts",
    "image_uniformity_rows": "images that their uniformity rests on",
    "text_uniformity_rows": "texts that their uniformity rests on",
    "image_effective_rank": "effective rank of the images",
    "text_effective_rank": "effective rank of the texts",
}


def task_section(
    folder: Path, record: Record, thumbnails: Thumbnails, *, name: str, opened: bool = False
) -> html.Html:
    """Returns all that is known of a task, below its title and main score.

    Args:
        folder: of the evaluation, whose arrays are read where the record is not enough.
        record: of the task.
        thumbnails: `data:` addresses of pictures by number of the item.
        name: of the section, for links.
        opened: whether it is seen at once.
    """
    summary: list[Any] = [f"{record['title']} ({record['task']})"]
    main = headline_metric(record)
    if main is not None:
        score = record["metrics"][main]
        low, high = _ends(score)
        summary += [f": {main} ", four(score["value"]), " (", low, "-", high, ")"]
    groups = dict(group_scores(record))
    grouped = {metric for members in groups.values() for metric in members.values()}
    scores = [
        (metric, fields) for metric, fields in record["metrics"].items() if metric not in grouped
    ]
    return html.details(
        summary,
        html.bullets(_facts(record)),
        *_bad_samples(record),
        html.table(METRIC_HEAD, [score_row(metric, fields) for metric, fields in scores]),
        *_calibration_blocks(folder, record),
        *_example_blocks(record.get("examples") or {}, thumbnails),
        *_group_blocks(record, groups),
        *_geometry_blocks(record.get("geometry") or {}),
        name=name,
        opened=opened,
    )


def score_row(name: Any, fields: Record, words: str = "") -> list[Any]:
    """Returns the cells below METRIC_HEAD.

    Args:
        name: text or a piece of HTML.
        fields: of an `Estimate`.
        words: the name once more where it is a piece of HTML.
    """
    value, low, high, chance = (fields[key] for key in ("value", "low", "high", "chance"))
    return [
        name,
        four(value),
        html.interval(value, low, high, chance, words or str(name)),
        html.Html("-".join(_ends(fields))),
        four(chance),
        count(fields["samples"]),
    ]


def four(value: int | float) -> html.Html:
    """Returns a score with four decimals."""
    return html.number(value, f"{value:.4f}")


def count(value: int) -> html.Html:
    """Returns a number of things."""
    return html.number(value, f"{value:,}")


def group_scores(record: Record) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields what is scored by group: what it is, and its metrics by name of the group.

    Classification has acc_FIELD_GROUP for every field of its option `groups`; faces have
    SCORE_FIELD:GROUP beside SCORE_wg.

    >>> metrics = dict.fromkeys(["acc1", "acc_region_Asia", "acc_region_Africa"])
    >>> record = {"metrics": metrics, "options": {"groups": {"region": ["Asia", "Africa"]}}}
    >>> list(group_scores(record))
    [('acc1 by region', {'Asia': 'acc_region_Asia', 'Africa': 'acc_region_Africa'})]
    """
    metrics, taken = record["metrics"], set()
    fields = record["options"].get("groups") or {}
    for field, names in fields.items():
        members = {name: f"acc_{field}_{name}" for name in names}
        yield f"acc1 by {field}", {name: key for name, key in members.items() if key in metrics}
    if fields:
        return
    worst = [metric.removesuffix("_wg") for metric in metrics if metric.endswith("_wg")]
    for score in sorted(worst, key=len, reverse=True):  # acc_gender_x before acc_gender
        members = {
            metric.removeprefix(f"{score}_"): metric
            for metric in metrics
            if metric.startswith(f"{score}_") and ":" in metric and metric not in taken
        }
        taken |= set(members.values())
        yield score, members


def _ends(fields: Record) -> list[html.Html]:
    return [four(fields["low"]), four(fields["high"])]


def _facts(record: Record) -> list[str]:
    facts = [f"Protocol: {record['protocol']}."]
    if record.get("prompts_sha256"):
        facts.append(f"Prompts: {record['prompts_from']} (sha256 {record['prompts_sha256']}).")
    facts.append(f"Keys, texts and truth of the data: sha256 {record['data_sha256']}.")
    if "seconds" in record:
        spent = ", ".join(f"{what} {taken:,.1f} s" for what, taken in record["seconds"].items())
        facts.append(f"Time: {spent}.")
    return [*facts, *record.get("notes", ())]


def _bad_samples(record: Record) -> list[html.Html]:
    bad, samples = record["bad_samples"], record["samples"]
    if not bad:
        return []
    examples = record.get("bad_examples", ())
    return [
        html.details(
            [count(bad), " of ", count(samples), " samples do not decode and count as wrong"],
            html.bullets(examples),
            html.paragraph(f"and {bad - len(examples):,} more") if bad > len(examples) else "",
        )
    ]


def _calibration_blocks(folder: Path, record: Record) -> list[html.Html]:
    if record["kind"] != "classification":
        return []
    figures = record.get("calibration")
    if figures is None:
        try:
            arrays = read_outcome(folder, record)[0].arrays
        except UserError as error:
            return [html.heading("Calibration", 3), html.paragraph(f"Not known: {error}")]
        figures = calibration(
            arrays["confidence"],
            arrays["predicted"] == arrays["label"],
            arrays["truth_probability"],
        )
    columns = [figures["table"][key] for key in ("low", "high", "confidence", "accuracy", "count")]
    bins = list(zip(*columns, strict=True))
    over = figures["overconfidence"]
    return [
        html.heading("Calibration", 3),
        html.paragraph(
            "The mean confidence is ",
            html.number(over, f"{abs(over):.4f}"),
            f" {'above' if over > 0 else 'below'} the share of right answers. Within bins of "
            "confidence the two differ by ",
            four(figures["ece"]),
            " on average over all samples.",
        ),
        html.diagonal_chart(
            [
                (low, high, right, f"{sure:.1%} sure, {right:.1%} right, {int(inside):,} samples")
                for low, high, sure, right, inside in bins
            ],
            "confidence",
            "share right",
            f"Share of right answers by confidence; expected calibration error "
            f"{figures['ece']:.4f}. On the diagonal both are equal.",
        ),
        html.table(
            ("calibration", ""),
            [(words, four(figures[key])) for key, words in _CALIBRATION.items() if key in figures],
        ),
        html.details(
            ["Bins of confidence"],
            html.table(
                ("confidence", "mean confidence", "share right", "samples"),
                [
                    (f"{low:.4f}-{high:.4f}", four(sure), four(right), count(int(inside)))
                    for low, high, sure, right, inside in bins
                ],
            ),
        ),
    ]


def _example_blocks(examples: Record, thumbnails: Thumbnails) -> list[html.Html]:
    blocks = []
    confusions, images, texts = (
        examples.get(key, ()) for key in ("confusions", "worst_images", "worst_texts")
    )
    if confusions:
        shown = [
            (_thumbnail(item, thumbnails, words), [f"{words} ", _item(item)])
            for pair in confusions
            for words in [f"{pair['truth']} taken for {pair['predicted']}"]
            for item in pair["items"]
            if str(item) in thumbnails
        ]
        blocks += [
            html.heading("Commonest confusions", 3),
            html.table(
                ("class", "taken for", "times"),
                [(one["truth"], one["predicted"], count(one["count"])) for one in confusions],
            ),
        ]
        if shown:
            blocks.append(html.grid(shown))
    if images:
        blocks += [
            html.heading("Images whose captions are found last", 3),
            html.grid((_worst_image(one, thumbnails) for one in images), wide=True),
        ]
    if texts:
        blocks += [
            html.heading("Texts whose images are found last", 3),
            *(_worst_text(one, thumbnails) for one in texts),
        ]
    return blocks


def _worst_image(one: Record, thumbnails: Thumbnails) -> tuple[html.Html, Sequence[Any]]:
    own = " / ".join(one["own"])
    return _thumbnail(one["item"], thumbnails, own), [
        count(one["rank"]),
        f" wrong texts stand before its own, “{own}”; the first is “{one['nearest']}”. ",
        _item(one["item"]),
    ]


def _worst_text(one: Record, thumbnails: Thumbnails) -> html.Html:
    own, other, text = one["item"], one["nearest_item"], one["text"]
    pictures = [
        (_thumbnail(own, thumbnails, f"its own: {text}"), ["its own ", _item(own)]),
        (_thumbnail(other, thumbnails, f"instead of: {text}"), ["found first ", _item(other)]),
    ]
    sentence = (f"“{text}” finds ", count(one["rank"]), " wrong images before its own")
    return html.Html(html.paragraph(*sentence) + html.grid(pictures))


def _item(number: int) -> html.Html:
    return html.small(f"item {number}")


def _thumbnail(item: int, thumbnails: Thumbnails, words: str) -> html.Html:
    address = thumbnails.get(str(item))
    usable = address is not None and address.startswith("data:image/")
    return html.picture(address if usable else None, words)


def _group_blocks(record: Record, groups: Mapping[str, Mapping[str, str]]) -> list[html.Html]:
    blocks = []
    for what, members in groups.items():
        scores = {name: record["metrics"][metric] for name, metric in members.items()}
        if not scores:
            continue
        lower_is_better = what.startswith("toxicity")
        values = [fields["value"] for fields in scores.values()]
        worst = max(values) if lower_is_better else min(values)
        gap = max(values) - min(values)
        rows = []
        for name, fields in scores.items():
            mark = " (worst)" if fields["value"] == worst and gap else ""
            rows.append(score_row(f"{name}{mark}", fields))
        blocks += [
            html.heading(f"Groups: {what}", 3),
            html.paragraph(
                "From the best group to the worst: ",
                four(gap),
                ". Small groups stray further by chance: see the intervals."
                + (" Lower is better." if lower_is_better else ""),
            ),
            html.table(("group", *METRIC_HEAD[1:]), rows),
        ]
    return blocks


def _geometry_blocks(figures: Record) -> list[html.Html]:
    if not figures:
        return []
    rows = [
        (_GEOMETRY.get(key, key), html.number(value, f"{value:,.4f}".removesuffix(".0000")))
        for key, value in figures.items()
    ]
    return [html.heading("Geometry of the embeddings", 3), html.table(("geometry", ""), rows)]
