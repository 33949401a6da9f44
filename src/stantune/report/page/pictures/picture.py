"""What all pictures share: their parts, their colours and marks, their labels."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from stantune.report.page.contract import SearchNumbers

# Okabe and Ito's colours, which can be told apart without colour vision; and never by the colour alone.
STYLES: dict[str, dict[str, str]] = {
    "finished": {"color": "#0072B2", "dash": "solid", "symbol": "circle", "pattern": ""},
    "promoted": {"color": "#009E73", "dash": "dash", "symbol": "triangle-up", "pattern": "/"},
    "dropped": {"color": "#E69F00", "dash": "dot", "symbol": "x-thin-open", "pattern": "."},
    "diverged": {"color": "#D55E00", "dash": "dashdot", "symbol": "diamond-open", "pattern": "x"},
    "failed": {"color": "#CC79A7", "dash": "longdash", "symbol": "square-open", "pattern": "+"},
    "running": {"color": "#56B4E9", "dash": "longdashdot", "symbol": "triangle-right-open", "pattern": "-"},
}
OPEN = {**STYLES["running"], "pattern": "|"}
LINES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
COLORS = tuple(style["color"] for style in STYLES.values())
ROW = 26


class Picture(NamedTuple):
    """A picture.

    Attributes:
        name: for links to it, and tests.
        title: over it.
        caption: below it: what is seen, for whoever does not see it, too.
        data: the traces.
        layout: the layout.
        logarithmic: the axes that can be made logarithmic and linear again.
    """

    name: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    logarithmic: tuple[str, ...] = ()


def metric_label(search: SearchNumbers) -> str:
    """Return the metric's name, with its unit."""
    metric = search.summary.metric
    return label(f"{metric.name} ({metric.unit})" if metric.unit else metric.name)


def label(text: str) -> str:
    """Return a text for Plotly, which takes some of HTML's tags for its own."""
    return escape(text, quote=False)


def logarithmic_axis(values: Sequence[float | None]) -> tuple[str, ...]:
    """Return the axis of these values where they have logarithms."""
    return ("yaxis",) if all(value is None or value > 0 for value in values) else ()
