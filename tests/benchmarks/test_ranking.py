"""benchmarks/stopping/ranking.py: its figures by hand; who is trained in which ways; nothing is trained twice."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stopping import ranking

STOPS = (30, 90, 270)


def test_spearman_by_hand() -> None:
    assert ranking.ranks([3.0, 1.0, 2.0, 1.0, math.inf]) == [4, 1.5, 3, 1.5, 5]
    # 1 - 6 · (1 + 1 + 0 + 4 + 4) / (5 · 24)
    assert ranking.spearman([1, 2, 3, 4, 5], [2, 1, 3, 6, 4]) == pytest.approx(1 - 6 * 4 / 120)
    assert ranking.spearman([1, 2, 3], [5, 7, math.inf]) == pytest.approx(1)
    assert ranking.spearman([1, 2, 3], [30, 20, 10]) == pytest.approx(-1)
    assert math.isnan(ranking.spearman([1, 2], [4, 4]))
    assert math.isnan(ranking.spearman([1], [4]))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=12))
def test_spearman_is_between_and_symmetric(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    found = ranking.spearman(one, other)
    assert math.isnan(found) == (len(set(one)) == 1 or len(set(other)) == 1)
    if not math.isnan(found):
        assert -1 - 1e-9 <= found <= 1 + 1e-9
        assert ranking.spearman(other, one) == pytest.approx(found)
        # Orders alone count.
        assert ranking.spearman([value**3 + 5 for value in one], other) == pytest.approx(found)


def test_halving_by_hand() -> None:
    # Nine settings: three go on, then one. Number 8 is the best at the top and out at the first rung.
    first = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    second = [30, 10, 20, 0, 0, 0, 0, 0, 0]
    errors = {n: {30: first[n], 90: second[n], 270: 9 - n} for n in range(9)}
    assert ranking.halving(errors, STOPS) == 1
    errors[1] = {30: 20}  # diverged on the way to the second rung
    assert ranking.halving(errors, STOPS) == 2
    assert ranking.halving({4: {30: 1.0}}, STOPS) == 4


def trained(*errors: float, seconds: float = 1.0) -> Any:
    return ranking.Trained(
        dict(zip(STOPS, errors, strict=False)), {stop: seconds * stop for stop in STOPS[: len(errors)]}, None
    )


def test_lines_by_hand() -> None:
    exact = {0: trained(50, 30, 10), 1: trained(60, 20, 11), 2: trained(70, 40, 15)}
    half = {
        0: trained(66, 33, 14, seconds=0.5),
        1: trained(61, 23, 12, seconds=0.5),
        2: trained(75, seconds=0.5),
    }
    found = ranking.lines_of({7: {"exact": exact, "0.5": half}}, ["0.5"], STOPS)
    assert found["exact", 90].same_rung == [pytest.approx(1)]
    assert found["exact", 90].top == [pytest.approx(0.5)], "at R the first two have changed places"
    assert found["exact", 90].regret == [1], "number 1 is the best there, and 11 % in the end"
    assert found["exact", 270].regret == [0]
    top = found["0.5", 270]
    assert (top.same_rung, top.regret, top.above) == ([pytest.approx(0.5)], [1], [4])
    assert top.faster == [pytest.approx(2)]
    assert found["0.5", 30].above == [5]
    assert ranking.halving_regrets({7: {"exact": exact, "0.5": half}}, "0.5", STOPS) == [1]
    assert ranking.halving_regrets({7: {"exact": exact, "0.5": half}}, "exact", STOPS) == [0]
    # At 1/2 number 1 is first, and number 0, the best, second.
    assert (top.of_two, found["exact", 270].of_two) == ([0], [0])
    assert [ranking.regret([14, 12, math.inf], [10, 11, 15], finalists) for finalists in (1, 2, 9)] == [1, 0, 0]
    # Of ten settings, nine are in a bracket; the best of all is the worst at first, and is never chosen.
    late = {n: trained(50 + n, 40 + n, 30 - n) for n in range(10)}
    (regret,) = ranking.halving_regrets({7: {"exact": late}}, "exact", STOPS)
    # The three that go on are the first of those there; the first alone gets to R, eight above the best or nine.
    assert 8 < regret < 9


class Here:
    """A pool of processes that does everything at once, in this one."""

    def __init__(self, *ignored: Any, **also: Any) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *ignored: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*arguments))
        return future


def test_who_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done: list[tuple[int, int, str]] = []
    cut_at = 8

    def train(run: Any, learning: float, device: str) -> Any:
        assert (learning, device) == (0.9, "cpu")
        if len(done) == cut_at:
            raise KeyboardInterrupt
        done.append((run.seed, run.number, run.way))
        if run.number == 0:
            return ranking.Trained({}, {}, 3)
        if run.number == 1:
            return ranking.Trained({30: 88.0}, {30: 1.0}, None)
        return trained(50, 30 + run.number, 10 + run.number + run.seed)

    monkeypatch.setattr(ranking, "train", train)
    monkeypatch.setattr(ranking, "ProcessPoolExecutor", Here)
    typed = ["ranking.py", "--problem", "lenet", "--iterations", "270", "--settings", "4", "--seeds", "2"]
    keep = tmp_path / "keep.json"
    monkeypatch.setattr(sys, "argv", [*typed, "--rates", "0.5", "stan:auto", "--workers", "2", "--keep", str(keep)])
    with pytest.raises(KeyboardInterrupt):
        ranking.main()
    assert 0 < len(json.loads(keep.read_text())) <= cut_at
    cut_at = -1
    ranking.main()
    learn = [(seed, number, way) for seed in (0, 1) for number in (2, 3) for way in ("exact", "0.5", "stan:auto")]
    lost = [(seed, number, "exact") for seed in (0, 1) for number in (0, 1)]
    # What was under way when it was cut, two trainings at most, was begun again.
    assert sorted(set(done)) == sorted(learn + lost)
    assert len(done) - len(set(done)) <= 2
    printed = capsys.readouterr().out
    assert "2 seeds, 8 settings: 4 learn, 2 diverged, 2 do not learn" in printed
    assert "| stan:auto | 270 | 1.00 ± 0.00 | 1.00 ± 0.00 | 0.00 |" in printed
    # Another rate needs nothing else; "auto" is kept under the rates that it stands for.
    before = len(done)
    monkeypatch.setattr(sys, "argv", [*typed, "--rates", "0.25", "stan:0.25,0.5,1", "--keep", str(keep)])
    ranking.main()
    assert {way for _, _, way in done[before:]} == {"0.25"}


def test_rates_that_make_no_sense(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for rate, said in (("0.3", "rate=0.3"), ("half", "half"), ("stan:0.3,1", "rate=0.3"), ("0.5/x", "0.5/x is no way")):
        monkeypatch.setattr(sys, "argv", ["ranking.py", "--rates", rate])
        with pytest.raises(SystemExit):
            ranking.main()
        assert said in capsys.readouterr().err


def test_ways_are_those_of_a_search() -> None:
    def stan(way: str) -> Any:
        return ranking.Run("cq", 4000, 3, 0, way).searched.objective.stan

    def settings(way: str) -> Any:
        return ranking.Run("cq", 4000, 3, 0, way).searched.settings

    assert (stan("exact").rate, settings("exact").rates) == (1, ())
    assert (stan("0.25").rate, settings("0.25").rates_from()) == (0.25, ())
    assert settings("stan:auto").rates_from() == ((0, 0.25), (444, 0.5), (1333, 1.0))
    assert stan("0.5").layers == ("conv2",)
    assert [stan(way).period for way in ("0.5", "0.5/9", "stan:auto/2")] == [1, 9, 2]
    assert (stan("stan:auto").period, stan("stan:auto").layers) == (9, ("*",))
    assert settings("stan:auto/2").rates == settings("stan:auto").rates
    auto = ranking.Run("cq", 4000, 3, 0, "stan:auto")
    assert stan("stan:auto/9@conv*").layers == ("conv*",)
    ways = ("exact", "0.5", "0.5/9", "stan:auto/2", "stan:auto/9@*")
    assert [replace(auto, way=way).key.rpartition(" / ")[2] for way in ways] == [
        "exact",
        "0.5/1",
        "0.5/9",
        "stan:0.25,0.5,1/2@*",
        "stan:0.25,0.5,1/9@*",
    ]
    assert [rung.iterations for rung in settings("0.5").plan()[0].rungs] == list(ranking.stops_of(4000))
