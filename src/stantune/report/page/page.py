"""The report of searches as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from stantune.errors import StantuneError
from stantune.quantities import duration
from stantune.report.page.contract import ReportNumbers, SearchNumbers
from stantune.report.page.figures import Picture, compared, pictures_of
from stantune.report.page.sentences import metric_of, sentences
from stantune.report.words import by_parts, value_text

# What the page may load: nothing. Plotly compiles what it draws by WebGL, hence 'unsafe-eval'.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
# By this a page of ours is known, which a new one may replace.
MARK = "<!-- stantune.report/1 -->"
_WIDE = ("curves", "losses", "flow", "parallel")


def page(numbers: ReportNumbers) -> str:
    """Return the page.

    Raises:
        StantuneError: Plotly is not installed.
    """
    pictures: list[Picture] = []
    names = ", ".join(search.name for search in numbers.searches)
    several = len(numbers.searches) > 1
    sections = [_side_by_side(numbers, pictures)] if several else []
    sections += [_section(numbers, place, pictures, several) for place in range(len(numbers.searches))]
    drawn = [{"data": picture.data, "layout": picture.layout} for picture in pictures]
    return "\n".join(
        (
            "<!DOCTYPE html>",
            MARK,
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Without it browsers ask the server of a page for one.
            '<link rel="icon" href="data:,">',
            f"<title>{escape(names)}: stantune</title>",
            f"<style>{_own('page.css')}</style></head><body>",
            *sections,
            _footer(numbers),
            _json("numbers", numbers.model_dump_json()),
            _json("pictures", json.dumps(drawn)),
            f'<script type="text/plain" id="plotly">{_plotly()}</script>',
            f"<script>{_own('page.js')}</script>",
            "</body></html>\n",
        )
    )


@cache
def _plotly() -> str:
    """Return Plotly's script, packed, in letters: a third of its size, and the page is to be sent by mail."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise StantuneError(
            "the report needs Plotly, which is not installed; pip install 'stantune[report]'"
        ) from error
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _own(name: str) -> str:
    return files("stantune.report.page").joinpath(name).read_text(encoding="utf-8")


def _json(name: str, text: str) -> str:
    # "</script>" in a name must not end the element; in JSON < has another spelling.
    safe = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{safe}</script>'


def _section(numbers: ReportNumbers, place: int, pictures: list[Picture], several: bool) -> str:
    search, at = numbers.searches[place], f"s{place}"
    heading = "h2" if several else "h1"
    drawn = pictures_of(numbers, place)
    large = [picture for picture in drawn if not picture.name.startswith("slice")]
    slices = [picture for picture in drawn if picture.name.startswith("slice")]
    parts = (
        ("found", "", _paragraphs(sentences(search)) + _leaders(search)),
        ("pictures", "Pictures", _figures(large, pictures, place) + _paragraphs(_left_out(search))),
        ("slices", "Each parameter by itself", _figures(slices, pictures, place, "small") if slices else ""),
        ("failures", "Failures", _failures(search)),
        ("table", "All trials", f'<div id="trials-{place}">{_NO_SCRIPT}</div>'),
        ("stan", "STAN", _stan(search)),
        ("again", "To repeat it", _again(search)),
    )
    there = [(name, title, text) for name, title, text in parts if text]
    links = "".join(f'<a href="#{at}-{name}">{escape(title)}</a>' for name, title, _ in there if title)
    below = "h3" if several else "h2"
    body = "".join(
        f'<section id="{at}-{name}">{f"<{below}>{escape(title)}</{below}>" if title else ""}{text}</section>'
        for name, title, text in there
    )
    name = f"{search.summary.problem}: {search.name}"
    return f'<article id="{at}"><{heading}>{escape(name)}</{heading}><nav>{links}</nav>{body}</article>'


_NO_SCRIPT = "<noscript><p>The table and the pictures need JavaScript.</p></noscript>"


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _figures(drawn: Sequence[Picture], pictures: list[Picture], place: int | None, kind: str = "") -> str:
    """Return the places for pictures, and add them to those that the script draws."""
    found = []
    for picture in drawn:
        boxes = "".join(
            f'<label><input type="checkbox" data-axis="{axis}"{_checked(picture, axis)}> {axis[0]} logarithmic</label> '
            for axis in picture.logarithmic
        )
        of = "" if place is None else f' data-search="{place}"'
        wide = ' class="wide"' if picture.name in _WIDE else ""
        found.append(
            f'<figure{wide}><h3>{escape(picture.title)}</h3><div class="tools">{boxes}</div>'
            f'<div class="picture" role="img" aria-label="{escape(picture.title)}" data-picture="{len(pictures)}"{of} '
            f'data-name="{picture.name}" style="height:{picture.layout.get("height", 380)}px"></div>'
            f'<output class="setting"></output><figcaption>{escape(picture.caption)}</figcaption></figure>'
        )
        pictures.append(picture)
    return f'<div class="pictures {kind}">{"".join(found)}</div>'


def _checked(picture: Picture, axis: str) -> str:
    return " checked" if picture.layout.get(axis, {}).get("type") == "log" else ""


def _left_out(search: SearchNumbers) -> list[str]:
    why = search.without_importance
    return [] if why is None else [f"How important each parameter is, is not shown: {why}."]


def _leaders(search: SearchNumbers) -> str:
    """Lay the best trials side by side, each parameter in a row."""
    summary, metric = search.summary, metric_of(search.summary)
    leaders = summary.leaders
    if not leaders:
        return ""
    rows = [
        [metric.name, *(metric.text(leader.value) for leader in leaders)],
        [f"{summary.unit}s", *(str(leader.iterations) for leader in leaders)],
    ]
    if parts := by_parts(leaders):
        rows.append(["of the validation set", *parts])
    for name in dict.fromkeys(name for leader in leaders for name in leader.params):
        rows.append([name, *(value_text(leader.params[name]) if name in leader.params else "" for leader in leaders)])
    return _table(["best trials", *(f"trial {leader.trial}" for leader in leaders)], rows)


def _side_by_side(numbers: ReportNumbers, pictures: list[Picture]) -> str:
    """Say of several searches what one compares."""
    searches = numbers.searches
    rows = []
    for number, search in enumerate(searches):
        summary, metric = search.summary, metric_of(search.summary)
        best, final = summary.best, summary.final
        rows.append(
            [
                f"{number + 1}. {search.name}",
                summary.problem,
                metric.name,
                metric.text(None if best is None else best.value),
                metric.text(None if final is None else final.value),
                str(summary.counts.trials),
                str(summary.iterations_trained),
                duration(summary.seconds.total),
                search.state,
            ]
        )
    heads = ["search", "of", "metric", "best trial", "final training", "trials", "trained", "time", "state"]
    alike = len({(search.summary.metric.name, search.summary.unit) for search in searches}) == 1
    drawn = (
        _figures(compared(numbers), pictures, None) if alike else _paragraphs(["They compare by different metrics."])
    )
    links = "".join(f'<a href="#s{number}">{escape(search.name)}</a>' for number, search in enumerate(searches))
    return f"<h1>{len(searches)} searches</h1><nav>{links}</nav>{_table(heads, rows)}{drawn}"


def _failures(search: SearchNumbers) -> str:
    failures, unit = search.summary.failures, search.summary.unit
    if not failures:
        return ""
    rows = [[str(each.trial), str(each.iterations), each.cause] for each in failures]
    return _table(["trial", f"on the way to {unit}", "cause"], rows)


def _stan(search: SearchNumbers) -> str:
    stan = search.stan
    if stan is None:
        return ""
    text = _table(["setting", "value"], [[name, _plain(value)] for name, value in stan.settings.items()])
    if stan.layers:
        text += _table(["layer", "what reduced iterations compute"], [list(each) for each in stan.layers.items()])
    measured = [
        ["exact", str(stan.exact), _milliseconds(stan.exact_seconds)],
        ["reduced", str(stan.reduced), _milliseconds(stan.reduced_seconds)],
    ]
    return text + _table(["iterations", "how many", "of one, as measured"], measured)


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.3g} ms"


def _again(search: SearchNumbers) -> str:
    rows = [[name, _plain(value)] for name, value in search.identity.items()]
    space = [[name, _plain(described)] for name, described in search.space.items()]
    return (
        f"<pre>{escape(search.call)}</pre>"
        + _paragraphs(
            [f"{search.digest}. What was searched is in the call by its name, with the code that it was begun with."]
        )
        + f"<details><summary>All that the result depends on</summary>{_table(['', ''], rows)}</details>"
        + f"<details><summary>The space</summary>{_table(['parameter', ''], space)}</details>"
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return value_text(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _footer(numbers: ReportNumbers) -> str:
    versions = ", ".join(f"{name} {there}" for name, there in numbers.versions.items())
    return f'<footer><p class="tools">Made by {escape(versions)}.</p></footer>'
