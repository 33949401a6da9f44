"""Pictures of parameters: how much each explains, and settings side by side and one by one."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import Any

from stantune.report.page.contract import SearchNumbers
from stantune.report.page.pictures.picture import COLORS, ROW, STYLES, Picture, label, logarithmic_axis, metric_label

# As many parameters have axes beside one another; more cannot be read.
AXES = 12


def importance_of(search: SearchNumbers, place: int) -> Picture | None:
    """Return what share of the variance each parameter explains."""
    important = search.importance
    if important is None:
        return None
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": {"column": f"searches.{place}.importance.shares"},
        "y": [label(name) for name in important.names],
        "marker": {"color": COLORS[0]},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    layout = {
        "height": 130 + ROW * len(important.names),
        "xaxis": {"title": {"text": "share"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "showlegend": False,
    }
    caption = (
        f"fANOVA: the share of the variance of {search.summary.metric.name} after {important.iterations} "
        f"{search.summary.unit}s that each parameter explains, in {important.trials} trials that got so far."
    )
    return Picture("importance", "Importance of parameters", caption, [bar], layout)


def _of_sample(place: int, column: str) -> dict[str, Any]:
    at = f"searches.{place}"
    return {"column": f"{at}.{column}", "of": f"{at}.sample"}


def _sampled(search: SearchNumbers) -> str:
    shown, all_ = len(search.sample), len(search.trials.status)
    counted = sum(value is not None for value in search.trials.value)
    if shown < counted:
        return f" {shown} of {all_} trials are shown: the best, and of the others as many of each quality."
    return "" if shown == all_ else f" {shown} of {all_} trials are shown: those with a value that counts."


def parallel_of(search: SearchNumbers, place: int) -> Picture | None:
    """Return the settings as lines through the axes of all parameters."""
    parameters = [number for number, each in enumerate(search.trials.params) if None not in each.values]
    if len(parameters) < 2 or len(search.sample) < 2:
        return None
    dimensions = []
    for number in parameters[:AXES]:
        each = search.trials.params[number]
        values: dict[str, Any] = _of_sample(place, f"trials.params.{number}.values")
        axis: dict[str, Any] = {"label": label(each.name), "values": values}
        if each.log:
            # Such axes know no logarithm: the script takes it of the values, and these are the marks.
            low, high = (float(search.space[each.name][end]) for end in ("low", "high"))
            marks = _marks(low, high)
            axis |= {"tickvals": [at for at, _ in marks], "ticktext": [text for _, text in marks]}
            axis["range"] = [log10(low), log10(high)]
            values["log"] = True
        elif each.choices:
            # The one place where Plotly takes a text as it is.
            axis |= {"tickvals": list(range(len(each.choices))), "ticktext": each.choices}
        dimensions.append(axis)
    value = _of_sample(place, "trials.value")
    dimensions.append({"label": metric_label(search), "values": value})
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        # Cividis, which is light for the best, and looks the same without colour vision.
        "line": {
            "color": value,
            "colorscale": "Cividis",
            "reversescale": search.summary.metric.direction == "minimize",
            "showscale": True,
        },
    }
    more = "" if len(parameters) <= AXES else f" The first {AXES} of {len(parameters)} parameters have axes."
    caption = f"Each line is a setting. Draw along an axis to keep those that pass there.{more}{_sampled(search)}"
    return Picture(
        "parallel", "Settings side by side", caption, [trace], {"margin": {"l": 70, "r": 40, "t": 80, "b": 30}}
    )


def _marks(low: float, high: float) -> list[tuple[float, str]]:
    """Return the places and texts of the marks of a logarithmic axis: its ends, and powers of ten that leave room."""
    # Where there were no marks Plotly would show the logarithms of the ends.
    first, last = log10(low), log10(high)
    room = (last - first) / 10
    powers = [(float(power), f"{10.0**power:g}") for power in range(ceil(first + room), floor(last - room) + 1)]
    return [(first, f"{low:g}"), *powers, (last, f"{high:g}")]


def slice_of(search: SearchNumbers, place: int, number: int) -> Picture | None:
    """Return the values by one parameter."""
    each = search.trials.params[number]
    if len(search.sample) < 2 or len({value for value in each.values if value is not None}) < 2:
        return None
    sample = [search.trials.status[trial] for trial in search.sample]
    data = []
    for kind, style in STYLES.items():
        if kind in sample:
            at = {"status": f"searches.{place}.trials.status", "where": kind}
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": kind,
                    "x": _of_sample(place, f"trials.params.{number}.values") | at,
                    "y": _of_sample(place, "trials.value") | at,
                    "customdata": _of_sample(place, "sample") | at,
                    "marker": {"color": style["color"], "symbol": style["symbol"], "size": 6, "opacity": 0.8},
                    "hovertemplate": "trial %{customdata}: %{y} at %{x}<extra></extra>",
                }
            )
    # Its name is over the picture.
    axis: dict[str, Any] = {}
    if each.choices:
        axis |= {"tickvals": list(range(len(each.choices))), "ticktext": [label(text) for text in each.choices]}
    elif each.log:
        axis["type"] = "log"
    layout = {"xaxis": axis, "yaxis": {"title": {"text": metric_label(search)}}, "height": 300}
    never = f" Never tried: {', '.join(each.untried)}." if each.untried else ""
    axes = logarithmic_axis(search.trials.value)
    return Picture(f"slice-{number}", each.name, f"{_sampled(search).strip()}{never}".strip(), data, layout, axes)
