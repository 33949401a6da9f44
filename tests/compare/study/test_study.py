"""Studies: the same settings in all ways, known times and errors in the tables, going on, and what cannot be."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from timed_objective import EVALUATION, Timed

import stantune as st
from stantune.compare.study.contract import StudySummary, WayResult
from stantune.compare.study.folder import ask_to_stop, asked_to_stop, study_in
from stantune.compare.study.intervals import quantile
from stantune.compare.study.problems import problem_of
from stantune.errors import StantuneError, UsageError
from stantune.images.problem.built_in import find
from stantune.report.study import show_study
from stantune.search import stopping
from stantune.search.stopping import Stop
from stantune.search.table.looking.look import look
from stantune.stan.config import Stan

# Three trials of 3 iterations, of which one goes on to 9, and two of 9.
SIZES: dict[str, Any] = {"max_resource": "1/10", "min_resource": 3}
WAYS = ("none", "native", "stan:0.5")
TRAINED, EVALUATED = 3 * 3 + 6 + 2 * 9, 3 + 1 + 2


def timed(place: Path, **others: Any) -> Timed:
    return Timed(place / "log", stan=Stan(rate=1), **others)


def lines(place: Path) -> list[list[str]]:
    return [line.split(" ") for line in (place / "log").read_text().splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was asked to end, between two searches, and gone on with."""
    place = tmp_path_factory.mktemp("study")

    def say(line: str) -> None:
        if line.startswith("search 3 of 6"):
            ask_to_stop(place / "out")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping, "REQUEST_SECONDS", 0)
        begun = st.study(timed(place), ways=WAYS, seeds=2, out=place / "out", say=say, stop=Stop(), **SIZES)
    assert begun.interrupted
    assert asked_to_stop(place / "out"), "until somebody takes it back, or it goes on"
    assert not begun.complete
    assert [search.state for search in begun.summary.searches[:2]] == ["done", "done"]
    assert study_in(place / "out") == begun.summary
    st.study(timed(place), ways=WAYS, seeds=2, out=place / "out", **SIZES)
    return place


@pytest.fixture
def summary(place: Path) -> StudySummary:
    """What it came to."""
    return study_in(place / "out")


def result(summary: StudySummary, way: str) -> WayResult:
    return next(one for one in summary.results if one.way == way)


def test_it_is_complete_and_nothing_was_trained_twice(place: Path, summary: StudySummary) -> None:
    assert summary.complete
    assert StudySummary.model_validate(json.loads((place / "out" / "study.json").read_text())) == summary
    order = [(search.seed, search.way) for search in summary.searches]
    assert order == [(seed, way) for seed in (0, 1) for way in WAYS]
    trained = Counter(tuple(line[1:6]) for line in lines(place))
    assert set(trained.values()) == {1}
    assert len(trained) == 6 * (EVALUATED + 1)
    before = (place / "log").read_text()
    again = st.study(timed(place), ways=WAYS, seeds=2, out=place / "out", **SIZES)
    assert again.summary == summary
    assert (place / "log").read_text() == before


def test_all_ways_try_the_same_settings(place: Path, summary: StudySummary) -> None:
    params: dict[tuple[int, str], list[Any]] = {}
    for search in summary.searches:
        params[search.seed, search.way] = [row.params for row in look(place / "out" / search.directory).rows]
    for seed in (0, 1):
        assert params[seed, "none"] == params[seed, "native"] == params[seed, "stan:0.5"]
    assert params[0, "none"] != params[1, "none"]


def test_what_a_search_took(summary: StudySummary) -> None:
    for search in summary.searches:
        pace = {"none": 4000, "native": 2000, "stan:0.5": 1000}[search.way] + search.seed
        assert (search.trials, search.iterations, search.evaluations) == (5, TRAINED, EVALUATED)
        assert (search.diverged, search.failed) == (0, 0)
        assert search.iteration_seconds == pytest.approx(pace)
        assert search.seconds is not None
        assert search.seconds.training == pytest.approx(pace * (TRAINED + 9))
        assert search.seconds.evaluation == pytest.approx(EVALUATION * (EVALUATED + 1))
        assert search.final_seconds == pytest.approx(9 * pace + EVALUATION, abs=60)


def test_ways_are_compared_in_pairs(summary: StudySummary) -> None:
    none, native, stan = (result(summary, way) for way in WAYS)
    assert none.training_faster.mean == pytest.approx(1)
    paces = [(4000 + seed) / (1000 + seed) for seed in (0, 1)]
    assert stan.training_faster.mean == pytest.approx(math.sqrt(paces[0] * paces[1]))
    logs = [math.log(pace) for pace in paces]
    reach = quantile(1) * abs(logs[1] - logs[0]) / math.sqrt(2) / math.sqrt(2)
    assert stan.training_faster.high == pytest.approx(math.exp(sum(logs) / 2 + reach))

    def seconds(pace: float) -> float:
        return pace * (TRAINED + 9) + EVALUATION * (EVALUATED + 1)

    # Starting a process takes some seconds more.
    assert native.faster_than_stock.mean == pytest.approx(seconds(4000.5) / seconds(2000.5), rel=3e-3)
    assert stan.faster_than_native.mean == pytest.approx(seconds(2000.5) / seconds(1000.5), rel=3e-3)
    assert none.seconds.seeds == 2
    assert native.test_against_stock.mean == 0
    assert stan.test_against_stock.mean == pytest.approx(1.0)
    assert stan.test_against_native.spread == pytest.approx(math.sqrt(0.5))
    assert stan.test_against_stock.high == pytest.approx(1 + quantile(1) / 2)
    assert stan.final.mean == none.final.mean == none.test.mean
    # Not a problem's: no layers were timed.
    assert stan.predicted is None


def test_the_table(summary: StudySummary) -> None:
    out = StringIO()
    show_study(Console(file=out, width=250), summary)
    text = out.getvalue()
    assert "timed: R = 9 iterations, r = 3, final trainings of 9" in text
    [row] = [line.split() for line in text.splitlines() if line.strip().startswith("stan:0.5")]
    assert row[:2] == ["stan:0.5", "2"]
    assert "+1.00" in row
    assert "6.35" in row  # the half of the interval
    assert str(TRAINED) in row
    assert "6 of 6 searches are done" in text


def test_more_seeds_and_ways_and_the_control_of_rounding(place: Path) -> None:
    before = len(lines(place))
    found = st.study(timed(place), ways=["native:no-winograd", "native"], seeds=[1], out=place / "out", **SIZES)
    assert found.complete
    # Nothing leaves the table.
    assert found.summary.ways == [*WAYS, "native:no-winograd"]
    seeds = [*((way, 2) for way in WAYS), ("native:no-winograd", 1)]
    assert [(one.way, one.seeds) for one in found.summary.results] == seeds
    new = lines(place)[before:]
    assert len(new) == EVALUATED + 1
    assert {line[6] for line in new} == {"off"}
    assert {line[6] for line in lines(place)[:before]} == {""}


def test_a_failed_search_is_noted_and_the_others_are_run(tmp_path: Path) -> None:
    given: dict[str, Any] = {"ways": WAYS, "seeds": 1, "out": tmp_path / "out", **SIZES}
    found = st.study(timed(tmp_path, broken=1.0), **given)
    assert [search.state for search in found.summary.searches] == ["done", "failed", "done"]
    failed = found.summary.searches[1]
    assert failed.failure is not None
    assert "no more room on the disk" in failed.failure
    assert not found.complete
    assert not found.interrupted
    assert result(found.summary, "stan:0.5").faster_than_native.mean is None
    assert study_in(tmp_path / "out").searches[1].state == "failed"
    assert st.study(timed(tmp_path), **given).complete


def test_final_trainings_as_long_as_the_problem(tmp_path: Path) -> None:
    given: dict[str, Any] = {"ways": "none", "seeds": 1, "out": tmp_path / "out", **SIZES}
    found = st.study(timed(tmp_path), final_resource="1/1", **given)
    assert found.summary.problems[0].final_iterations == 90
    assert {line[4] for line in lines(tmp_path)} == {"3", "9", "90"}


def test_a_budget_ends_it_between_searches(tmp_path: Path) -> None:
    found = st.study(timed(tmp_path), ways=WAYS, seeds=1, out=tmp_path / "out", budget=1e-9, **SIZES)
    assert found.interrupted
    assert {search.state for search in found.summary.searches} == {"waiting"}


@pytest.mark.parametrize("ending", [{"budget": 1e-9, "stop": Stop()}, {"budget": "1h", "stop": Stop(0)}])
def test_a_budget_counts_beside_a_stop(tmp_path: Path, ending: dict[str, Any]) -> None:
    found = st.study(timed(tmp_path), ways=WAYS, seeds=1, out=tmp_path / "out", **ending, **SIZES)
    assert found.interrupted
    assert {search.state for search in found.summary.searches} == {"waiting"}


def test_searches_by_other_workers_are_not_compared(tmp_path: Path) -> None:
    given: dict[str, Any] = {"out": tmp_path / "out", **SIZES}
    first: dict[str, Any] = {"ways": "none", "seeds": [0]}
    st.study(timed(tmp_path), **first, **given)
    file = tmp_path / "out" / "study.json"
    result = file.read_text()
    for others in ({**first, "ways": "native"}, {**first, "seeds": [1]}):
        with pytest.raises(UsageError, match="has searches of timed with workers 1 in place of 2, and only like"):
            st.study(timed(tmp_path), workers=2, **others, **given)
    assert file.read_text() == result
    # Nothing is left to train.
    assert st.study(timed(tmp_path), workers=2, **first, **given).summary == StudySummary.model_validate_json(result)
    # An earlier version did not note it.
    unnoted = json.loads(result)
    for name in ("workers", "threads", "device", "precision"):
        unnoted["problems"][0].pop(name, None)
    file.write_text(json.dumps(unnoted))
    assert st.study(timed(tmp_path), ways="native", seeds=[0], workers=2, budget=1e-9, **given).interrupted


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"ways": "stan,never"}, "`ways`=never is no way of training: nothing is called 'never'"),
        ({"seeds": 0}, "`seeds`=0"),
        ({"seeds": [1, 1]}, r"`seeds`=\[1, 1\] names none, or one twice"),
        ({"max_resource": "1/0"}, "`max_resource`='1/0' is no length"),
        ({"max_resource": "long"}, "`max_resource`='long' is no length"),
        ({"max_resource": 91}, "`max_resource`=91 is out of reach"),
        ({"final_resource": 5}, "`final_resource`=5 is less than `max_resource`=9"),
        ({"final": "continue"}, "`final`=continue takes the weights of a trial's checkpoint"),
        ({"fixed": {"y": 1}}, "`fixed` names y, which no problem has"),
        ({"fixed": 3}, "`fixed`=3 is no dict"),
        ({"workers": 0}, "`workers`=0"),
        ({"out": ""}, "`out`"),
        ({"threads": "many"}, "`threads`='many'"),
        ({"retries": -1}, "`retries`=-1"),
        ({"watching": 3}, "`watching`=3 is no function"),
        ({"stop": 3}, "`stop`=3 is no Stop"),
    ],
)
def test_what_cannot_be(tmp_path: Path, others: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        st.study(timed(tmp_path), **{"ways": WAYS, "out": tmp_path / "out", **SIZES, **others})
    assert not (tmp_path / "out").exists()


def test_problems_that_cannot_be(tmp_path: Path) -> None:
    def studied(objectives: object) -> None:
        st.study(objectives, ways="none", out=tmp_path / "out", **SIZES)

    with pytest.raises(UsageError, match="`objectives` names none"):
        studied([])
    with pytest.raises(UsageError, match="`objectives` names none"):
        studied(None)
    with pytest.raises(UsageError, match="two problems are called timed and timed, and would share"):
        studied([timed(tmp_path), timed(tmp_path)])
    with pytest.raises(UsageError, match="no problem is called 'lenett'"):
        studied("lenett")
    with pytest.raises(UsageError, match="is nothing that can be searched"):
        studied([3])
    assert not (tmp_path / "out").exists()


def test_data_of_a_problem_that_is_given_itself_are_where_it_is_said(tmp_path: Path) -> None:
    problem = find("lenet")
    given: dict[str, Any] = {"min_resource": None, "eta": 3, "brackets": 1, "validation": "all"}
    given |= {"finalists": 1, "final": "scratch", "fixed": {}}
    for thing in ("lenet", problem):
        objective = problem_of(thing, given, None, None, tmp_path, None).objective
        assert isinstance(objective, st.ProblemObjective)
        assert objective.data == tmp_path


def test_another_search_in_the_folder_of_one_is_left_alone(tmp_path: Path) -> None:
    given: dict[str, Any] = {"ways": "none", "seeds": 1, "out": tmp_path / "out"}
    st.study(timed(tmp_path), **given, **SIZES)
    before = (tmp_path / "log").read_text()
    result = (tmp_path / "out" / "study.json").read_text()
    with pytest.raises(UsageError, match="has searches of timed with max_iterations 9 in place of 27"):
        st.study(timed(tmp_path), **given, max_resource=27, min_resource=3)
    # With more brackets a search goes on, with fewer not.
    with pytest.raises(UsageError, match="is that of another search"):
        st.study(timed(tmp_path), **given, **SIZES, brackets=1)
    assert (tmp_path / "log").read_text() == before
    assert (tmp_path / "out" / "study.json").read_text() == result
    with pytest.raises(UsageError, match="is a search's own directory; choose another folder"):
        st.study(timed(tmp_path), **{**given, **SIZES, "out": tmp_path / "out" / "timed-none-seed-0"})


def test_no_search_begins_in_another_order_of_the_parameters(tmp_path: Path) -> None:
    """With one seed all ways are to try the same settings."""
    one, other = (st.Space({name: st.Float(0.1, 1.0) for name in names}) for names in ("xy", "yx"))
    given: dict[str, Any] = {"seeds": 1, "out": tmp_path / "out", **SIZES}
    first = st.study(timed(tmp_path, space=one), ways="none", **given).summary
    result = (tmp_path / "out" / "study.json").read_text()
    order = "has searches of timed that draw its parameters in the order x, y, and here they stand in the order y, x, "
    with pytest.raises(UsageError, match=f"{order}.*; put them in that order, or give another folder"):
        st.study(timed(tmp_path, space=other), ways="none,native", **given)
    assert (tmp_path / "out" / "study.json").read_text() == result
    # What was begun goes on, in its own.
    assert st.study(timed(tmp_path, space=other), ways="none", **given).summary == first
    st.study(timed(tmp_path, space=one), ways="none,native", **given)
    rows = [look(tmp_path / "out" / f"timed-{way}-seed-0").rows for way in ("none", "native")]
    assert [row.params for row in rows[0]] == [row.params for row in rows[1]]


def error_of(run: st.Run) -> float:
    for _ in run.steps():
        run.loss(1.0)
    return float(run.params["x"])


def another_error_of(run: st.Run) -> float:
    for _ in run.steps():
        run.loss(2.0)
    return float(run.params["x"])


def test_another_problem_of_the_same_name_is_not_compared_with_it(tmp_path: Path) -> None:
    def studied(function: Any, ways: str, high: float = 1.0, metric: str = "error", **others: Any) -> StudySummary:
        space, measured = st.Space({"x": st.Float(0, high)}), st.Metric(metric)
        objective = st.FunctionObjective(function, space, measured, name="same", length=3)
        given: dict[str, Any] = {"seeds": 1, "brackets": 1, "out": tmp_path / "out"}
        return st.study(objective, ways=ways, **given, **others).summary

    studied(error_of, "none")
    result = (tmp_path / "out" / "study.json").read_text()
    code = r"has searches of another same \(code: \w+ there, \w+ here\), and .* or say with `accept_changes`"
    with pytest.raises(UsageError, match=code):
        studied(another_error_of, "native")
    with pytest.raises(UsageError, match=r"another same \(space.x.high: 1(.0)? there, 2(.0)? here\), .* with `out`$"):
        studied(error_of, "native", high=2.0)
    with pytest.raises(UsageError, match=r"another same \(metric: error there, loss here\)"):
        studied(error_of, "native", metric="loss", accept_changes=True)
    assert (tmp_path / "out" / "study.json").read_text() == result
    assert not (tmp_path / "out" / "same-native-seed-0").exists()
    # Allowed, and over at once.
    assert studied(another_error_of, "native", accept_changes=True, budget=1e-9).ways == ["none", "native"]
    # What was deleted of it is no hindrance: the study has its numbers.
    shutil.rmtree(tmp_path / "out" / "same-none-seed-0")
    assert studied(another_error_of, "native", budget=1e-9).ways == ["none", "native"]


def test_a_file_that_is_no_study_s(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="is no study's result"):
        st.study(timed(tmp_path), ways="none", out=tmp_path, **SIZES)
    assert (tmp_path / "study.json").read_text() == '{"mine": 1}'
    # Somebody took a problem out of it.
    listed = {"problem": "gone", "way": "none", "seed": 0}
    numbers = dict.fromkeys(("final_seconds", "trials", "diverged", "failed", "iterations", "evaluations"), 0)
    unknown = dict.fromkeys(("failure", "seconds", "iteration_seconds", "best", "final", "test"))
    search = {**listed, **numbers, **unknown, "directory": "gone", "state": "waiting"}
    whole = {"complete": False, "problems": [], "ways": ["none"], "seeds": [0], "searches": [search], "results": []}
    StudySummary.model_validate(whole)
    (tmp_path / "study.json").write_text(json.dumps(whole))
    with pytest.raises(UsageError, match="is no study's result"):
        study_in(tmp_path)
    with pytest.raises(UsageError, match="there is no study in"):
        study_in(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StantuneError, match="cannot be written to"):
        st.study(timed(tmp_path), ways="none", out=tmp_path / "file" / "below", **SIZES)


def test_who_only_looks_needs_no_pytorch() -> None:
    code = "import sys, stantune.compare.study.folder, stantune.report.study; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
