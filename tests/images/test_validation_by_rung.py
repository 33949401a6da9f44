"""Validation by rung: what each rung is judged by, what is ranked with what, and that all else is as it was."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blobs import blobs_problem

import stantune as st
from stantune.errors import UsageError
from stantune.images.data.parts import part_of
from stantune.images.objective import ProblemObjective
from stantune.images.solving.evaluation import error_percent
from stantune.objectives.choose import find_objective
from stantune.report.text import show_search
from stantune.search.operating.trial_report import trial_report
from stantune.search.plan.standings import incumbent, ranking
from stantune.search.plan.values import TrialRow
from stantune.search.stopping import Stop
from stantune.search.table.looking.look import look
from stantune.search.telling.progress import Progress
from stantune.training.trial import Trial

# Rungs of 1, 3 and 9 iterations, by 2 000, 2 000 and all 3 600 samples: a third of these would be 1 200.
SIZES = {"max_resource": 9, "min_resource": 1, "threads": 1, "seed": 3}
SHARES = {1: 2000 / 3600, 3: 2000 / 3600}
PROBLEM = blobs_problem(4600, validation=3600)


def searched(out: Path, **others: Any) -> st.SearchResult:
    return st.tune(PROBLEM, out=out, **{**SIZES, "validation": "by-rung", **others})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> st.SearchResult:
    return searched(tmp_path_factory.mktemp("by-rung"))


def test_each_rung_is_judged_by_its_part_and_the_top_by_all(found: st.SearchResult) -> None:
    splits = PROBLEM.load()
    judged = 0
    for row in found.state.rows:
        trial = Trial(PROBLEM, row.params, splits, seed=found.settings.trial_seed(row.number), stan=None)
        for stop, error in row.errors.items():
            trial.train(stop, lambda: False, lambda iteration: None)
            part = part_of(splits.validation, 3600 if stop == 9 else 2000, PROBLEM.hold_out_seed)
            assert error_percent(trial.model, part, splits.normaliser) == error
            judged += 1
        assert row.shares == {stop: share for stop, share in SHARES.items() if stop in row.errors}
    assert judged > 20
    assert found.final is not None
    assert found.final.value is not None
    # A 3 600th of 100 %, and not a 2 000th.
    assert found.final.value * 36 == pytest.approx(round(found.final.value * 36))


def test_a_value_by_a_part_is_not_the_best_beside_one_by_the_whole(found: st.SearchResult) -> None:
    ranked = ranking(found.state.rows)
    shares = [standing.share for standing in ranked]
    assert shares == sorted(shares, reverse=True)
    assert found.best is not None
    assert found.best.resource == 9
    rows = [
        TrialRow(0, 1, {"n": 0}, {3: 5.0}, shares={3: 0.3}),
        TrialRow(1, 1, {"n": 1}, {3: 4.0, 9: 9.0}, shares={3: 0.3}),
        TrialRow(2, 0, {"n": 2}, {9: 8.0}),
        TrialRow(3, 1, {"n": 3}, {3: 4.5}, shares={3: 0.3}),
    ]
    assert [standing.number for standing in ranking(rows, 9)] == [2, 1, 3, 0]
    best = incumbent([rows[0]], 9)
    assert best is not None
    assert best.share == 0.3


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_after_a_stop_and_with_workers(found: st.SearchResult, tmp_path: Path, workers: int) -> None:
    # By its file, where other processes find it.
    objective = find_objective(f"{__file__}:PROBLEM", data=None)
    asked = {**SIZES, "validation": "by-rung", "out": tmp_path}
    assert not st.tune(objective, stop=Stop(0.05), **asked).complete
    again = st.tune(objective, workers=workers, **asked)
    assert [(row.errors, row.shares) for row in again.state.rows] == [
        (row.errors, row.shares) for row in found.state.rows
    ]


def test_it_is_part_of_what_a_search_is(tmp_path: Path, found: st.SearchResult) -> None:
    plain = st.tune(PROBLEM, out=tmp_path, **SIZES)
    assert "validation" not in look(tmp_path).identity
    assert all(not row.shares for row in plain.state.rows)
    with pytest.raises(UsageError, match="validation: not set there, by-rung here"):
        searched(tmp_path)
    with pytest.raises(UsageError, match="validation: by-rung there, not set here"):
        searched(found.path, validation="all")
    with pytest.raises(UsageError, match=r"`validation`=some is unknown; give all or by-rung"):
        searched(tmp_path / "other", validation="some")


def test_it_is_told(found: st.SearchResult, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    part = next(row for row in found.state.rows if list(row.errors) == [1])
    told = trial_report(look(found.path), part.number)
    assert told.rungs[0].validation_share == 2000 / 3600
    first = found.summary.leaders[0]
    assert first.validation_share == 1
    show_search(Console(), found.summary, found.path)
    assert "of the validation set" not in capsys.readouterr().out
    leaders = [first, first.model_copy(update={"validation_share": 0.25})]
    show_search(Console(), found.summary.model_copy(update={"leaders": leaders}), found.path)
    assert re.search(r"of the validation set +all +25 %", capsys.readouterr().out)
    progress = Progress(found.state.plan, found.objective.metric)
    progress.update([part], 0)
    assert progress.best_share == 2000 / 3600


def test_few_samples_are_not_divided() -> None:
    objective = ProblemObjective(replace(PROBLEM, validation=900))
    splits, share = objective.compared_by(0.1)
    assert share == 1
    assert len(splits.validation) == 900


def looks(run: st.Run) -> float:
    for _ in run.steps():
        pass
    return run.validation_share


def does_not_look(run: st.Run) -> float:
    for _ in run.steps():
        pass
    return 1.0


def test_a_function_that_looks_has_measured_by_a_part(tmp_path: Path) -> None:
    space = st.Space({"x": st.Float(0, 1)})
    asked = {"max_resource": 9, "min_resource": 3, "minimize": "value", "validation": "by-rung", "threads": 1}
    found = st.tune(looks, space, out=tmp_path / "looks", **asked)
    assert all(row.shares == {3: 3 / 9} for row in found.state.rows if 3 in row.errors)
    assert {row.errors[9] for row in found.state.rows if 9 in row.errors} == {1.0}
    assert found.final is not None
    assert found.final.value == 1
    other = st.tune(does_not_look, space, out=tmp_path / "not", **asked)
    assert all(not row.shares for row in other.state.rows)


def test_by_ask_and_tell(tmp_path: Path) -> None:
    space = st.Space({"x": st.Float(0, 1)})
    with st.open_search(
        space, max_resource=9, min_resource=3, minimize="value", validation="by-rung", out=tmp_path
    ) as search:
        segment = search.ask()
        assert segment is not None
        assert segment.validation_share == 3 / 9
        with pytest.raises(UsageError, match="`validation_share`=0 is no share"):
            search.tell(segment, 1.0, validation_share=0)
        search.tell(segment, 1.0, validation_share=segment.validation_share)
        row = search.result.state.rows[0]
    assert row.shares == {3: 3 / 9}
    assert look(tmp_path).rows[0].shares == {3: 3 / 9}
