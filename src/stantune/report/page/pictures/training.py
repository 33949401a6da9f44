"""Pictures of how trials trained: learning curves, losses, the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stantune.report.page.contract import SearchNumbers
from stantune.report.page.pictures.picture import COLORS, LINES, STYLES, Picture, label, logarithmic_axis, metric_label


def curves_of(search: SearchNumbers, place: int) -> Picture | None:
    """Return the trials' values by rung."""
    if not search.curves:
        return None
    data = [
        _lines(curves.status, f"searches.{place}.curves.{number}", "value", 5, "at")
        for number, curves in enumerate(search.curves)
    ]
    stops = sorted({rung.iterations for bracket in search.summary.brackets for rung in bracket.rungs})
    unit = search.summary.unit
    layout = {
        "xaxis": {
            "title": {"text": label(f"{unit}s")},
            "type": "log",
            "tickvals": stops,
            "ticktext": list(map(str, stops)),
        },
        "yaxis": {"title": {"text": metric_label(search)}},
        "shapes": _rates(search, stops[0]),
    }
    caption = (
        f"Each line is a trial, with a point for each rung that it reached; final trainings are not among them. "
        f"Point at one for its setting.{_rates_in_words(search)}"
    )
    values = [value for curves in search.curves for value in curves.value]
    return Picture("curves", "Learning curves", caption, data, layout, (*logarithmic_axis(values), "xaxis"))


def losses_of(search: SearchNumbers, place: int) -> Picture | None:
    """Return the trials' training losses."""
    if not search.losses:
        return None
    data = [
        _lines(losses.status, f"searches.{place}.losses.{number}", "mean", 3, "by loss")
        for number, losses in enumerate(search.losses)
    ]
    axes = logarithmic_axis([mean for losses in search.losses for mean in losses.mean])
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


def _lines(status: str, at: str, value: str, size: int, where: str) -> dict[str, Any]:
    """Return the trace of the trials that ended so: the columns `at` and `value` of this place, points of this size."""
    style = STYLES[status]
    return {
        "type": "scattergl",
        "mode": "lines+markers",
        "name": status,
        "x": {"column": f"{at}.at"},
        "y": {"column": f"{at}.{value}"},
        "customdata": {"column": f"{at}.trial"},
        "line": {"color": style["color"], "dash": style["dash"], "width": 1},
        "marker": {"symbol": style["symbol"], "color": style["color"], "size": size},
        "hovertemplate": f"trial %{{customdata}}: %{{y}} {where} %{{x}}<extra>{status}</extra>",
    }


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


def best_so_far(searches: Sequence[SearchNumbers], places: Sequence[int]) -> list[Picture]:
    """Return the best value so far, by what was trained and by time; of one search or of several."""
    pictures = []
    several = len(searches) > 1
    drawn = [(search, place) for search, place in zip(searches, places, strict=True) if search.best.value]
    if not drawn:
        return []
    for by, axis in (("iterations", f"{drawn[0][0].summary.unit}s trained"), ("seconds", "seconds of all workers")):
        data = []
        for number, (search, place) in enumerate(drawn):
            at = f"searches.{place}.best"
            color = COLORS[number % len(COLORS)]
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
            "yaxis": {"title": {"text": metric_label(drawn[0][0])}},
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
        pictures.append(Picture(f"best-{by}", title, caption, data, layout, (*logarithmic_axis(values), "xaxis")))
    return pictures
