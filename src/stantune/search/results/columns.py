"""The columns of metrics in a table of trials or a log, which has columns of its own beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def metric_columns(metrics: Iterable[str], others: Collection[str]) -> dict[str, str]:
    """Return each metric's column: its name, behind `metric_` where another column has that, so that none is lost."""
    metrics = list(dict.fromkeys(metrics))
    taken = {*others, *metrics}
    columns = {}
    for name in metrics:
        column = name
        if name in others:
            while column in taken:
                column = f"metric_{column}"
        columns[name] = column
        taken.add(column)
    return columns
