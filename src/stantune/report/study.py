"""A study's result for people: a table for each problem, on a terminal and on the page, and where searches stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stantune.compare.study.contract import NATIVE, STOCK, Interval, StudiedProblem, StudySummary, WayResult
from stantune.compare.study.lines import lost_final, search_line
from stantune.protocols import Metric
from stantune.quantities import duration
from stantune.report.operating import metric_of
from stantune.report.tables import print_table
from stantune.search.operating.told import StatusResult

DASH = "–"
# The head of the first column that says what was found, and not what it took.
BEST = "best trial"


class StudyTable(NamedTuple):
    """What a problem's searches came to: a row for each way."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def study_tables(summary: StudySummary) -> list[StudyTable]:
    """Return a table for each problem of which a search is done."""
    tables = []
    for problem in summary.problems:
        found = [one for one in summary.results if one.problem == problem.name]
        if any(one.seeds for one in found):
            tables.append(_table(problem, found, summary.ways))
    return tables


def study_sentences(summary: StudySummary) -> list[str]:
    """Return what is to be known of a study: how far it is, what failed, and how to read its tables."""
    done = sum(search.state == "done" for search in summary.searches)
    lines = [f"{done} of {len(summary.searches)} searches are done"]
    running = any(search.state == "running" for search in summary.searches)
    if done < len(summary.searches) and not running:
        lines[0] += "; the same command goes on from here"
    lines += [
        f"{search.problem}, {search.way}, seed {search.seed}, failed: {search.failure}"
        for search in summary.searches
        if search.failure is not None
    ]
    problems = {problem.name: problem for problem in summary.problems}
    lost = [search for search in summary.searches if lost_final(problems[search.problem], search)]
    lines += [
        f"{search.problem}, {search.way}, seed {search.seed}: the final training diverged; its trial had "
        f"{metric_of(problems[search.problem].metric).text(search.best)}"
        for search in lost
        if search.best is not None
    ]
    if lost:
        lines.append("behind what fewer searches have stands of how many it is")
    if done and any(result.seeds > 1 for result in summary.results):
        lines.append(
            "± is the half of a 95 % interval (Student's t over the seeds, in pairs of one seed), a range is all of it,"
            " and s is the standard deviation"
        )
    elif done:
        lines.append("one seed says nothing of chance: intervals need two")
    if done and len(summary.ways) > 1:
        line = "× is times faster, of a whole search and of its trials' training alone"
        better = {"minimize": "lower", "maximize": "higher"}
        tests = {one.test: better[one.metric.direction] for one in summary.problems if one.test is not None}
        if tests:
            whose = " or ".join(f"{test} (the {which} the better)" for test, which in tests.items())
            line += f"; behind a minus stands whose {whose} is taken off"
        lines.append(line)
    return lines


def search_lines(summary: StudySummary, now: Mapping[str, StatusResult]) -> list[str]:
    """Return a line for each search; `now` has more of those that run, by their directories."""
    problems = {problem.name: problem for problem in summary.problems}
    return [search_line(problems[one.problem], one, now.get(one.directory)) for one in summary.searches]


def show_study(console: Console, summary: StudySummary, now: Mapping[str, StatusResult] | None = None) -> None:
    """Print where a study stands and what it came to; `now` has more of the searches that run."""
    for table in study_tables(summary):
        console.print(table.title, soft_wrap=True)
        drawn = Table(*table.heads, box=SIMPLE_HEAD, pad_edge=False)
        for column in drawn.columns[1:]:
            column.justify = "right"
        for row in table.rows:
            # A number and its unit stay together.
            drawn.add_row(*(cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in row))
        print_table(console, drawn)
    for search, line in zip(summary.searches, search_lines(summary, now or {}), strict=True):
        if search.state == "running":
            console.print(f"{line}; in {search.directory}", soft_wrap=True)
    for line in study_sentences(summary):
        console.print(line, soft_wrap=True)


def _table(problem: StudiedProblem, results: Sequence[WayResult], ways: Sequence[str]) -> StudyTable:
    metric = metric_of(problem.metric)
    test = Metric(problem.test or metric.name, metric.direction, metric.unit)
    columns: list[tuple[str, Callable[[WayResult], str]]] = [
        ("way", lambda one: one.way),
        ("seeds", lambda one: str(one.seeds)),
        ("time", lambda one: duration(one.seconds.mean)),
    ]
    if STOCK in ways:
        columns.append(("× stock", lambda one: times(one.faster_than_stock)))
    if NATIVE in ways:
        columns.append(("× native", lambda one: times(one.faster_than_native)))
    if STOCK in ways:
        columns.append((f"{problem.unit} ×", lambda one: times(one.training_faster)))
        columns.append(("predicted", lambda one: DASH if one.predicted is None else f"{one.predicted:.2f}"))
    columns += [
        (f"{problem.unit}s", lambda one: count(one.iterations)),
        ("evaluations", lambda one: count(one.evaluations)),
        ("diverged", lambda one: count(one.diverged)),
        (BEST, lambda one: value(one.best, metric) + of_fewer(one.best, one)),
        (metric.name, lambda one: value(one.final, metric) + of_fewer(one.final, one)),
    ]
    if problem.test is not None:
        columns.append((test.name, lambda one: value(one.test, test) + of_fewer(one.test, one)))
        if STOCK in ways:
            columns.append(
                (
                    "- stock",
                    lambda one: difference(one.test_against_stock, test) + of_fewer(one.test_against_stock, one),
                )
            )
        if NATIVE in ways:
            columns.append(
                (
                    "- native",
                    lambda one: difference(one.test_against_native, test) + of_fewer(one.test_against_native, one),
                )
            )
    title = (
        f"{problem.name}: R = {problem.max_iterations} {problem.unit}s, r = {problem.min_iterations}, final trainings "
        f"of {problem.final_iterations}"
    )
    rows = [[text(one) for _, text in columns] for one in results]
    return StudyTable(title, [head for head, _ in columns], rows)


def times(found: Interval) -> str:
    """Return a ratio with where it is sure to lie."""
    if found.mean is None:
        return DASH
    where = "" if found.low is None or found.high is None else f" ({found.low:.2f}–{found.high:.2f})"
    return f"{found.mean:.2f}{where}"


def count(found: Interval) -> str:
    """Return a mean number."""
    return (
        DASH if found.mean is None else f"{found.mean:.0f}" if found.mean == round(found.mean) else f"{found.mean:.1f}"
    )


def value(found: Interval, metric: Metric) -> str:
    """Return a mean value with its spread over the seeds."""
    if found.mean is None:
        return DASH
    return metric.text(found.mean) if found.spread is None else f"{metric.text(found.mean)} (s {found.spread:.2g})"


def difference(found: Interval, metric: Metric) -> str:
    """Return a paired difference of such values with the half of its interval."""
    if found.mean is None:
        return DASH
    digits = ".2f" if metric.unit == "%" else ".3g"
    reach = "" if found.high is None else f" ± {found.high - found.mean:{digits}}"
    return f"{found.mean:+{digits}}{reach}"


def of_fewer(found: Interval, way: WayResult) -> str:
    """Return of how many seeds a value is, where not all of a way's searches that are done have one."""
    return f", of {found.seeds}" if 0 < found.seeds < way.seeds else ""
