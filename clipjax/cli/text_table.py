"""Tables in a terminal."""

from collections.abc import Iterable, Sequence

MISSING = "-"


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Returns columns that stand under each other; numbers to the right.

    Args:
        head: of the columns.
        rows: cells, already written.
        texts: how many columns, from the left, are text.

    >>> print(text_table(["unit", "AUROC"], [["a:1", "0.9"], ["b:12", "0.85"]]))
    unit  AUROC
    a:1     0.9
    b:12   0.85
    """
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def written(value: int | float | None, form: str) -> str:
    """Returns a number in a form such as ".2f", a dash where there is none."""
    return MISSING if value is None else format(value, form)
