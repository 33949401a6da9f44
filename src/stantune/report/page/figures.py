"""The pictures of the report page, as Plotly has them; their data are names of columns in the page's numbers.

So each number is in the page once. `{"column": "searches.0.trials.value"}` stands for that list; with "of" for the
places in it that another list names, and with "where" for those with this status. `resolved` puts the lists in, as the
page's script does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any, NamedTuple

from stantune.report.page.contract import ReportNumbers, RungFlow, SearchNumbers

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
_COLORS = tuple(style["color"] for style in STYLES.values())
# As many parameters have axes beside one another; more cannot be read.
AXES = 12
_ROW = 26


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


def pictures_of(numbers: ReportNumbers, place: int) -> list[Picture]:
    """Return the pictures of the search at this place; those that would be empty are left out."""
    search = numbers.searches[place]
    found = [
        _curves(search, place),
        _losses(search, place),
        *_best([search], (place,)),
        _flow(search),
        _importance(search, place),
        _parallel(search, place),
        *(_slice(search, place, parameter) for parameter in range(len(search.trials.params))),
    ]
    return [picture for picture in found if picture is not None]


def compared(numbers: ReportNumbers) -> list[Picture]:
    """Return the pictures of all searches side by side."""
    return _best(numbers.searches, tuple(range(len(numbers.searches))))


def resolved(part: Any, numbers: Mapping[str, Any]) -> Any:
    """Return a picture's data with lists in place of names of columns; `numbers` are the page's, in plain values."""
    if isinstance(part, list | tuple):
        return [resolved(each, numbers) for each in part]
    if not isinstance(part, Mapping):
        return part
    if "column" not in part:
        return {name: resolved(value, numbers) for name, value in part.items()}
    column: Any = numbers
    *above, last = part["column"].split(".")
    for name in (*above, last):
        column = column[int(name)] if isinstance(column, list) else column[name]
    if "of" in part:
        places = resolved({"column": part["of"]}, numbers)
        if "where" in part:
            status = resolved({"column": part["status"]}, numbers)
            places = [place for place in places if status[place] == part["where"]]
        column = places if last == "sample" else [column[place] for place in places]
    return column


def _metric(search: SearchNumbers) -> str:
    metric = search.summary.metric
    return label(f"{metric.name} ({metric.unit})" if metric.unit else metric.name)


def label(text: str) -> str:
    """Return a text for Plotly, which takes some of HTML's tags for its own."""
    return escape(text, quote=False)


def _curves(search: SearchNumbers, place: int) -> Picture | None:
    if not search.curves:
        return None
    at = f"searches.{place}.curves"
    data = []
    for number, curves in enumerate(search.curves):
        style = STYLES[curves.status]
        data.append(
            {
                "type": "scattergl",
                "mode": "lines+markers",
                "name": curves.status,
                "x": {"column": f"{at}.{number}.at"},
                "y": {"column": f"{at}.{number}.value"},
                "customdata": {"column": f"{at}.{number}.trial"},
                "line": {"color": style["color"], "dash": style["dash"], "width": 1},
                "marker": {"symbol": style["symbol"], "color": style["color"], "size": 5},
                "hovertemplate": f"trial %{{customdata}}: %{{y}} at %{{x}}<extra>{curves.status}</extra>",
            }
        )
    stops = sorted({rung.iterations for bracket in search.summary.brackets for rung in bracket.rungs})
    unit = search.summary.unit
    layout = {
        "xaxis": {
            "title": {"text": label(f"{unit}s")},
            "type": "log",
            "tickvals": stops,
            "ticktext": list(map(str, stops)),
        },
        "yaxis": {"title": {"text": _metric(search)}},
        "shapes": _rates(search, stops[0]),
    }
    caption = (
        f"Each line is a trial, with a point for each rung that it reached; final trainings are not among them. "
        f"Point at one for its setting.{_rates_in_words(search)}"
    )
    values = [value for curves in search.curves for value in curves.value]
    return Picture("curves", "Learning curves", caption, data, layout, (*_logarithmic(values), "xaxis"))


def _losses(search: SearchNumbers, place: int) -> Picture | None:
    if not search.losses:
        return None
    data = []
    for number, losses in enumerate(search.losses):
        style, at = STYLES[losses.status], f"searches.{place}.losses.{number}"
        data.append(
            {
                "type": "scattergl",
                "mode": "lines+markers",
                "name": losses.status,
                "x": {"column": f"{at}.at"},
                "y": {"column": f"{at}.mean"},
                "customdata": {"column": f"{at}.trial"},
                "line": {"color": style["color"], "dash": style["dash"], "width": 1},
                "marker": {"symbol": style["symbol"], "color": style["color"], "size": 3},
                "hovertemplate": f"trial %{{customdata}}: %{{y}} by loss %{{x}}<extra>{losses.status}</extra>",
            }
        )
    axes = _logarithmic([mean for losses in search.losses for mean in losses.mean])
    layout = {
        "xaxis": {"title": {"text": "losses"}, "type": "log"},
        "yaxis": {"title": {"text": "training loss"}, **({"type": "log"} if axes else {})},
    }
    all_ = len(search.trials.status)
    some = "" if search.losses_shown == all_ else f" {search.losses_shown} of {all_} trials are shown."
    caption = (
        "Each line is a trial's training; each point is the mean of the losses since the one before it, by how many "
        f"there were; final trainings are not among them.{some} Point at one for its setting."
    )
    return Picture("losses", "Training losses", caption, data, layout, (*axes, "xaxis"))


def _rates(search: SearchNumbers, first: int) -> list[dict[str, Any]]:
    """Shade the stretches of a trial by the share of the entries that reduced iterations compute."""
    rates = search.summary.rates
    if len(rates) < 2:
        return []
    starts = [first / 2, *(float(rate.iterations) for rate in rates)]
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": start,
            "x1": rate.iterations,
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": "#808080",
            "opacity": 0.25 * (1 - float(rate.rate)),
            "layer": "below",
        }
        for start, rate in zip(starts, rates, strict=False)
        if rate.rate != "auto"
    ]


def _rates_in_words(search: SearchNumbers) -> str:
    rates, unit = search.summary.rates, search.summary.unit
    if len(rates) < 2:
        return ""
    words = ", ".join(f"{rate.rate} up to {rate.iterations} {unit}s" for rate in rates)
    return f" Shaded: the share of the entries that STAN computes, {words}."


def _best(searches: Sequence[SearchNumbers], places: Sequence[int]) -> list[Picture]:
    pictures = []
    several = len(searches) > 1
    drawn = [(search, place) for search, place in zip(searches, places, strict=True) if search.best.value]
    if not drawn:
        return []
    for by, axis in (("iterations", f"{drawn[0][0].summary.unit}s trained"), ("seconds", "seconds of all workers")):
        data = []
        for number, (search, place) in enumerate(drawn):
            at = f"searches.{place}.best"
            color = _COLORS[number % len(_COLORS)]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": label(search.name),
                    "x": {"column": f"{at}.{by}"},
                    "y": {"column": f"{at}.value"},
                    "customdata": {"column": f"{at}.trial"},
                    "line": {"shape": "hv", "color": color, "dash": LINES[number % len(LINES)]},
                    "marker": {"size": 6, "symbol": number, "color": color},
                    "hovertemplate": "trial %{customdata}: %{y} after %{x}<extra></extra>",
                }
            )
        layout = {
            "xaxis": {"title": {"text": label(axis)}},
            "yaxis": {"title": {"text": _metric(drawn[0][0])}},
            "showlegend": several,
        }
        caption = (
            "The best value by the whole validation set so far, in whatever rung, in the order of brackets and rungs; "
            + (
                "of all trials together."
                if by == "iterations"
                else "training, evaluation and all else, added up over workers."
            )
        )
        title = f"Best so far, by {by if by == 'seconds' else f'{drawn[0][0].summary.unit}s'}"
        values = [value for search, _ in drawn for value in search.best.value]
        pictures.append(Picture(f"best-{by}", title, caption, data, layout, (*_logarithmic(values), "xaxis")))
    return pictures


def _logarithmic(values: Sequence[float | None]) -> tuple[str, ...]:
    """Return the axis of these values where they have logarithms."""
    return ("yaxis",) if all(value is None or value > 0 for value in values) else ()


def _flow(search: SearchNumbers) -> Picture | None:
    rungs = [rung for rung in search.flow if _members(rung)]
    if not rungs:
        return None
    names = list[str]()
    for rung in rungs:
        name = f"bracket {rung.bracket}, {rung.iterations}"
        # A measured plan may have several brackets with the same rungs.
        before = sum(name in (other, other.partition(" (")[0]) for other in names)
        names.append(f"{name} ({before + 1})" if before else name)
    data = []
    for kind in ("promoted", "finished", "dropped", "diverged", "failed", "open"):
        counts = [getattr(rung, kind) for rung in rungs]
        if any(counts):
            style = OPEN if kind == "open" else STYLES[kind]
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": kind,
                    "x": counts,
                    "y": names,
                    "text": [str(count) if count else "" for count in counts],
                    "textposition": "inside",
                    "insidetextanchor": "middle",
                    "marker": {
                        "color": style["color"],
                        "pattern": {"shape": style["pattern"], "fillmode": "overlay", "size": 6, "solidity": 0.2},
                    },
                    "hovertemplate": f"%{{x}} {kind}, %{{y}}<extra></extra>",
                }
            )
    layout = {
        "barmode": "stack",
        "height": 130 + _ROW * len(rungs),
        "yaxis": {"autorange": "reversed"},
    }
    caption = (
        f"What became of the trials of each rung, told by its bracket and its {search.summary.unit}s: "
        "a rung's promoted ones are those of the bar below it, up to the next "
        "bracket. Open are those that are on the way, or wait for the others."
    )
    return Picture("flow", "Through brackets and rungs", caption, data, layout)


def _members(rung: RungFlow) -> int:
    return rung.promoted + rung.finished + rung.dropped + rung.diverged + rung.failed + rung.open


def _importance(search: SearchNumbers, place: int) -> Picture | None:
    important = search.importance
    if important is None:
        return None
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": {"column": f"searches.{place}.importance.shares"},
        "y": [label(name) for name in important.names],
        "marker": {"color": _COLORS[0]},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    layout = {
        "height": 130 + _ROW * len(important.names),
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


def _parallel(search: SearchNumbers, place: int) -> Picture | None:
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
            marks = _powers(low, high)
            axis |= {"tickvals": [power for power, _ in marks], "ticktext": [text for _, text in marks]}
            axis["range"] = [log10(low), log10(high)]
            values["log"] = True
        elif each.choices:
            # The one place where Plotly takes a text as it is.
            axis |= {"tickvals": list(range(len(each.choices))), "ticktext": each.choices}
        dimensions.append(axis)
    value = _of_sample(place, "trials.value")
    dimensions.append({"label": _metric(search), "values": value})
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


def _powers(low: float, high: float) -> list[tuple[int, str]]:
    return [(power, f"{10.0**power:g}") for power in range(ceil(log10(low)), floor(log10(high)) + 1)]


def _slice(search: SearchNumbers, place: int, number: int) -> Picture | None:
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
    layout = {"xaxis": axis, "yaxis": {"title": {"text": _metric(search)}}, "height": 300}
    never = f" Never tried: {', '.join(each.untried)}." if each.untried else ""
    axes = _logarithmic(search.trials.value)
    return Picture(f"slice-{number}", each.name, f"{_sampled(search).strip()}{never}".strip(), data, layout, axes)
