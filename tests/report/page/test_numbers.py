"""The numbers of the report's page are the search's, and its pictures are Plotly's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from read_page import ODD, numbers_in

import stantune as st
from stantune.protocols import Metric
from stantune.report.page import numbers
from stantune.report.page.contract import ReportNumbers
from stantune.report.page.importance import importance_of
from stantune.report.page.pictures.figures import compared, pictures_of, resolved
from stantune.report.page.pictures.parameters import _marks
from stantune.report.page.writing import write_report
from stantune.search.plan.values import TrialRow


def test_numbers_are_those_of_the_result(result: st.SearchResult, text: str) -> None:
    [search] = numbers_in(text)["searches"]
    assert search["summary"] == json.loads((result.path / "result.json").read_text(encoding="utf-8"))
    trials = result.trials()
    assert search["trials"]["status"] == [trial.status for trial in trials]
    assert {"dropped", "diverged", "failed", "finished"} == set(search["trials"]["status"])
    assert search["trials"]["reached"] == [trial.resource for trial in trials]
    values = [trial.value for trial in trials]
    assert search["trials"]["value"] == [None if value is None else float(f"{value:.6g}") for value in values]
    columns = {column["name"]: column for column in search["trials"]["params"]}
    assert columns["width"]["values"] == [trial.params["width"] for trial in trials]
    kinds = [ODD, True, 2]
    for place, trial in zip(columns["kind"]["values"], trials, strict=True):
        there = kinds[int(place)]
        assert type(there) is type(trial.params["kind"])
        assert there == trial.params["kind"]
    assert columns["never"]["untried"] == ["other"]
    assert [value is None for value in columns["depth"]["values"]] == ["depth" not in t.params for t in trials]
    points = {}
    for curves in search["curves"]:
        for at, value, trial in zip(curves["at"], curves["value"], curves["trial"], strict=True):
            if at is not None:
                points[trial, at] = value
    assert points == {
        (trial.number, at): float(f"{value:.6g}") for trial in trials for at, value in trial.curve.items()
    }


def test_losses_are_those_of_the_trainings(result: st.SearchResult, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few trials all; of many the best, and evenly of the others; trials that failed at once have none."""

    def shown(search: dict[str, Any]) -> dict[tuple[str, int], list[tuple[int, float]]]:
        found: dict[tuple[str, int], list[tuple[int, float]]] = {}
        for losses in search["losses"]:
            for at, mean, trial in zip(losses["at"], losses["mean"], losses["trial"], strict=True):
                if at is not None:
                    found.setdefault((losses["status"], trial), []).append((at, mean))
        return found

    [search] = numbers_in(text)["searches"]
    rows = [row for row in result.state.rows if row.losses]
    all_ = {(search["trials"]["status"][row.number], row.number): row.loss_curve.points for row in rows}
    assert shown(search) == all_
    assert {status for status, _ in all_} == {"dropped", "diverged", "finished"}
    assert search["losses_shown"] == len(rows) < len(result.state.rows)
    monkeypatch.setattr(numbers, "LOSSES", 8)
    monkeypatch.setattr(numbers, "BEST_OF_LOSSES", 4)
    [search] = numbers_in(result.report().read_text(encoding="utf-8"))["searches"]
    some = shown(search)
    assert search["losses_shown"] == len(some) == 8
    assert all(all_[place] == points for place, points in some.items())
    assert {leader["trial"] for leader in search["summary"]["leaders"][:4]} <= {trial for _, trial in some}


def test_the_directory_tells_what_the_result_does(result: st.SearchResult, text: str, tmp_path: Path) -> None:
    file = write_report([result.path], tmp_path / "again.html")
    assert numbers_in(file.read_text(encoding="utf-8")) == numbers_in(text)


def test_the_flow_has_each_trial_of_each_rung_once(result: st.SearchResult, text: str) -> None:
    [search] = numbers_in(text)["searches"]
    kinds = ("promoted", "finished", "dropped", "diverged", "failed", "open")
    before = None
    for rung in search["flow"]:
        members = sum(rung[kind] for kind in kinds)
        if before is not None and before["bracket"] == rung["bracket"]:
            assert members == before["promoted"]
        before = rung
    counts = result.summary.counts
    for kind in ("dropped", "diverged", "failed"):
        assert sum(rung[kind] for rung in search["flow"]) == getattr(counts, kind)


def test_the_best_so_far_ends_with_all_that_was_trained(result: st.SearchResult, text: str) -> None:
    [search] = numbers_in(text)["searches"]
    best = search["best"]
    assert best["iterations"][-1] == result.summary.iterations_trained
    assert best["value"][-1] == min(value for trial in result.trials() for value in trial.curve.values())
    assert best["value"] == sorted(best["value"], reverse=True)
    assert best["seconds"] == sorted(best["seconds"])


def test_plotly_takes_every_picture(text: str) -> None:
    graphs = pytest.importorskip("plotly.graph_objects")
    plain = numbers_in(text)
    report = ReportNumbers.model_validate(plain)
    pictures = [*pictures_of(report, 0), *compared(report)]
    names = [picture.name for picture in pictures]
    assert names[:7] == ["curves", "losses", "best-iterations", "best-seconds", "flow", "importance", "parallel"]
    for picture in pictures:
        data = resolved(picture.data, plain)
        for trace in data:
            # What the script is told: to take the logarithm.
            for axis in trace.get("dimensions", ()):
                assert len(axis["values"]) == len(plain["searches"][0]["sample"])
        graphs.Figure(data, picture.layout)
        assert picture.caption or picture.name.startswith("slice")


def test_importance_finds_the_parameter_that_matters(text: str) -> None:
    [search] = numbers_in(text)["searches"]
    important = search["importance"]
    assert important["names"][0] == "lr"
    assert sum(important["shares"]) == pytest.approx(1)
    # Not in all settings, or the same in all.
    assert not {"depth", "never"} & set(important["names"])


@pytest.mark.parametrize(
    ("high", "value", "why"),
    [
        (1e40, float, "fANOVA has none for such values (Input X contains infinity"),
        (1.0, lambda at: at * 1e-170, "fANOVA has none for such values (Encountered zero total variance"),
        (1.0, lambda at: at * 1e200, "the values of loss are too far apart for fANOVA"),
    ],
    ids=["a parameter", "equal", "apart"],
)
def test_values_that_have_no_importance_are_said_and_fail_nothing(
    high: float, value: Callable[[int], float], why: str
) -> None:
    pytest.importorskip("sklearn")
    space = st.Space({"a": st.Float(0.0, high), "b": st.Float(0.0, 1.0)}).as_json()
    rows = [TrialRow(at, 0, {"a": high * at / 20, "b": at % 7 / 7}, {9: value(at)}) for at in range(20)]
    assert str(importance_of(rows, space, Metric("loss"))).startswith(why)


def test_logarithmic_axes_have_marks_where_no_power_of_ten_lies() -> None:
    assert [text for _, text in _marks(16, 64)] == ["16", "64"]
    assert [text for _, text in _marks(32, 256)] == ["32", "100", "256"]
    assert [text for _, text in _marks(1e-4, 1)] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert [text for _, text in _marks(9e-4, 1)] == ["0.0009", "0.01", "0.1", "1"]


def test_the_sample_has_the_best_and_some_of_all(monkeypatch: pytest.MonkeyPatch, result: st.SearchResult) -> None:
    monkeypatch.setattr(numbers, "SAMPLE", 10)
    monkeypatch.setattr(numbers, "BEST_OF_SAMPLE", 4)
    best = [trial.number for trial in result.trials() if trial.value is not None]
    assert len(best) > 10
    sample = numbers._sample(result.state)
    assert len(set(sample)) == 10
    assert set(sample) <= set(best)
    leaders = {leader.trial for leader in result.summary.leaders[:4]}
    assert leaders <= set(sample)
