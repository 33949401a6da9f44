"""The report of searches as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

from stantune.compare.study.contract import StudySummary
from stantune.errors import StantuneError
from stantune.quantities import duration
from stantune.report.page.contract import ReportNumbers, SearchNumbers
from stantune.report.page.pictures.figures import compared, pictures_of
from stantune.report.page.pictures.picture import Picture
from stantune.report.page.sections.sentences import metric_of, sentences
from stantune.report.page.sections.stan import stan_section
from stantune.report.page.tags import paragraphs, plain, table
from stantune.report.study import BEST, study_sentences, study_tables
from stantune.report.words import by_parts, value_text

# What the page may load: nothing. Plotly compiles what it draws by WebGL, hence 'unsafe-eval'.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
# By this a page of ours is known, which a new one may replace.
MARK = "<!-- stantune.report/1 -->"
_WIDE = ("curves", "losses", "flow", "parallel")
# Of trials that failed alike so many are named.
NAMED = 20


def page(numbers: ReportNumbers) -> str:
    """Return the page.

    Raises:
        StantuneError: Plotly is not installed.
    """
    pictures: list[Picture] = []
    names = ", ".join(search.name for search in numbers.searches)
    several = len(numbers.searches) > 1
    sections = [] if numbers.study is None else [_study(numbers.study)]
    sections += [_side_by_side(numbers, pictures)] if several else []
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
            f'<a class="skip" href="#{"compared" if several else "s0-found"}">Skip to what was found</a><main>',
            *sections,
            "</main>",
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
        ("found", "", paragraphs(sentences(search)) + _leaders(search)),
        ("pictures", "Pictures", _figures(large, pictures, place) + paragraphs(_left_out(search))),
        ("slices", "Each parameter by itself", _slices(search, slices, pictures, place)),
        ("failures", "Failures", _failures(search)),
        ("table", "All trials", f'<div id="trials-{place}">{_NO_SCRIPT}</div>'),
        ("stan", "STAN", stan_section(search, place)),
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


def _figures(drawn: Sequence[Picture], pictures: list[Picture], place: int | None, kind: str = "") -> str:
    """Return the places for pictures, and add them to those that the script draws."""
    found = []
    for picture in drawn:
        boxes = "".join(
            f'<label><input type="checkbox" data-axis="{axis}"{_checked(picture, axis)}> {axis[0]} logarithmic</label> '
            for axis in picture.logarithmic
        )
        of = "" if place is None else f' data-search="{place}"'
        axes = len(picture.data[0].get("dimensions", ()))
        wide = ' class="wide"' if picture.name in _WIDE else ""
        found.append(
            f'<figure{wide}><h3>{escape(picture.title)}</h3><div class="tools">{boxes}</div>'
            f'<div class="picture" role="img" aria-label="{escape(picture.title)}" data-picture="{len(pictures)}"{of} '
            f'data-name="{picture.name}" style="height:{picture.layout.get("height", 380)}px;--axes:{axes}"></div>'
            f'<output class="setting"></output><figcaption>{escape(picture.caption)}</figcaption></figure>'
        )
        pictures.append(picture)
    return f'<div class="pictures {kind}">{"".join(found)}</div>'


def _slices(search: SearchNumbers, drawn: Sequence[Picture], pictures: list[Picture], place: int) -> str:
    shown = {picture.title for picture in drawn}
    # Those that are drawn have it in their captions.
    never = [
        f"Never tried of {each.name}: {', '.join(each.untried)}."
        for each in search.trials.params
        if each.untried and each.name not in shown and search.trials.status
    ]
    return (_figures(drawn, pictures, place, "small") if drawn else "") + paragraphs(never)


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
    return table(["best trials", *(f"trial {leader.trial}" for leader in leaders)], rows)


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
    drawn = _figures(compared(numbers), pictures, None) if alike else paragraphs(["They compare by different metrics."])
    links = "".join(f'<a href="#s{number}">{escape(search.name)}</a>' for number, search in enumerate(searches))
    side = f'<div id="compared">{table(heads, rows)}{drawn}</div>'
    return f"<h1>{len(searches)} searches</h1><nav>{links}</nav>{side}"


def _study(study: StudySummary) -> str:
    """Say what a study came to, a table for each problem."""
    tables = ""
    for title, heads, rows in study_tables(study):
        # What it took and what it found are a table each: both together are wider than a page.
        cut = heads.index(BEST)
        tables += f"<h2>{escape(title)}</h2>{table(heads[:cut], [row[:cut] for row in rows])}"
        tables += table([heads[0], *heads[cut:]], [[row[0], *row[cut:]] for row in rows])
    return f'<section id="study"><h1>A study</h1>{paragraphs(study_sentences(study))}{tables}</section>'


def _failures(search: SearchNumbers) -> str:
    """Say why trials failed, each cause once."""
    unit = search.summary.unit
    if not search.causes:
        return ""
    rows = []
    for cause in search.causes:
        trials, more = cause.trials[:NAMED], len(cause.trials) - NAMED
        ways = sorted(set(cause.iterations))
        named = ", ".join(map(str, trials)) + (f" and {more} more" if more > 0 else "")
        rows.append([cause.cause, str(len(cause.trials)), named, ", ".join(map(str, ways))])
    return table(["cause", "trials", "which", f"on the way to {unit}"], rows)


def _again(search: SearchNumbers) -> str:
    rows = [[name, plain(value)] for name, value in search.identity.items()]
    space = [[name, plain(described)] for name, described in search.space.items()]
    where = [["seed", str(search.summary.seed)], ["digest", search.digest], *map(list, search.machine.items())]
    return (
        f"<pre>{escape(search.call)}</pre>"
        + paragraphs(["Where it is none of the built-in ones, what was searched is in the call by its name alone."])
        + table(["", "as it ran last" if search.machine else ""], where)
        + f"<details><summary>All that the result depends on</summary>{table(['', ''], rows)}</details>"
        + f"<details><summary>The space</summary>{table(['parameter', ''], space)}</details>"
    )


def _footer(numbers: ReportNumbers) -> str:
    versions = ", ".join(f"{name} {there}" for name, there in numbers.versions.items())
    return f'<footer><p class="tools">Made by {escape(versions)}.</p></footer>'
