"""A study's page: the tables of the terminal, each in two, since both together are wider than a page."""

from __future__ import annotations

import pytest

from stantune.compare.study.contract import StudiedProblem, StudySummary
from stantune.compare.study.numbers import summary_of, waiting
from stantune.report.page.page import _study
from stantune.report.study import study_sentences, study_tables
from stantune.search.results.contract import MetricResult, Seconds


def summary(ways: list[str], lost: tuple[str, int] | None = None) -> StudySummary:
    """Return two seeds in each way; of the search `lost` the final training diverged."""
    problem = StudiedProblem(
        name="p<q>",
        source=None,
        metric=MetricResult(name="validation error", direction="minimize", unit="%"),
        test="test error",
        unit="iteration",
        max_iterations=9,
        min_iterations=3,
        final_iterations=9,
        predicted={},
    )
    seconds = Seconds(total=3.0, training=1.0, evaluation=1.0, coordination=1.0)
    done = {"state": "done", "seconds": seconds, "iteration_seconds": 0.1, "best": 5.0, "final": 6.0}
    searches = [
        waiting("p<q>", way, seed, f"p-{way}-{seed}").model_copy(update={**done, "test": 7.0 + seed})
        for seed in (0, 1)
        for way in ways
    ]
    searches = [
        search.model_copy(update={"final": None, "test": None}) if (search.way, search.seed) == lost else search
        for search in searches
    ]
    return summary_of([problem], ways, [0, 1], searches)


def test_all_columns_are_on_the_page_once_but_for_the_ways() -> None:
    found = summary(["none", "native"])
    [table] = study_tables(found)
    page = _study(found)
    assert page.count("<table") == 2
    for head in table.heads:
        assert page.count(f">{head}</th>") == (2 if head == "way" else 1), head
    assert "p&lt;q&gt;: R = 9" in page
    for row in table.rows:
        assert all(f">{cell}<" in page for cell in row)


def test_what_columns_are_is_said_where_there_are_such() -> None:
    several, alone = study_sentences(summary(["none", "native"])), study_sentences(summary(["none"]))
    assert any("behind a minus stands whose test error (the lower the better) is taken off" in line for line in several)
    assert not any("behind a minus" in line for line in alone)
    assert any("s is the standard deviation" in line for line in alone)


def test_what_a_diverged_final_training_leaves_out_is_said() -> None:
    found = summary(["none", "native"], lost=("native", 1))
    [table] = study_tables(found)
    stock, native = (dict(zip(table.heads, row, strict=True)) for row in table.rows)
    assert (stock["test error"], stock["- native"]) == ("7.50 % (s 0.71)", "+0.00, of 1")
    assert (native["test error"], native["- stock"]) == ("7.00 %, of 1", "+0.00, of 1")
    assert native["best trial"] == "5.00 % (s 0)"
    said = "p<q>, native, seed 1: the final training diverged; its trial had 5.00 %"
    assert said in study_sentences(found)
    assert not any("diverged" in line for line in study_sentences(summary(["none", "native"])))


def test_differences_of_what_is_no_percentage_are_not_rounded_away() -> None:
    found = summary(["none", "native"])
    [problem] = found.problems
    metric = MetricResult(name="accuracy", direction="maximize", unit="")
    problem = problem.model_copy(update={"metric": metric, "test": "test accuracy"})
    values = {("none", 0): 0.8757, ("none", 1): 0.8761, ("native", 0): 0.8712, ("native", 1): 0.8715}
    searches = [one.model_copy(update={"test": values[one.way, one.seed]}) for one in found.searches]
    found = summary_of([problem], found.ways, [0, 1], searches)
    [table] = study_tables(found)
    _, native = (dict(zip(table.heads, row, strict=True)) for row in table.rows)
    assert native["- stock"] == "-0.00455 ± 0.000635"
    assert any("whose test accuracy (the higher the better) is taken off" in line for line in study_sentences(found))


def test_searches_are_compared_with_those_of_their_own_seed() -> None:
    found = summary(["none", "native"])
    # Stock's seed 0 is not through yet.
    totals = {("none", 1): 8.0, ("native", 0): 2.0, ("native", 1): 4.0}
    searches = [
        one.model_copy(update={"seconds": one.seconds.model_copy(update={"total": totals[one.way, one.seed]})})
        for one in found.searches
        if (one.way, one.seed) in totals
    ]
    _, native = summary_of(found.problems, found.ways, found.seeds, searches).results
    assert (native.faster_than_stock.mean, native.faster_than_stock.seeds) == (pytest.approx(2), 1)
    assert (native.test_against_stock.mean, native.test_against_stock.seeds) == (0, 1)
