"""How long a plan takes on several workers, against small plans worked out by hand and bounds that always hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.images.problems import find
from stantune.outcome import Cost
from stantune.search import estimate
from stantune.search.estimate import estimate_seconds, seconds_of
from stantune.search.plan.hyperband import Bracket, Rung, plan, trained_iterations
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan


def plainly(start: int, stop: int) -> float:
    """Every iteration takes a second."""
    return float(stop - start)


def test_by_hand() -> None:
    # Four trials of 1 iteration, one of them to 4; then two of 4. An iteration takes 1 s, an evaluation 0.5 s.
    small = (Bracket(1, (Rung(1, 4), Rung(4, 1))), Bracket(0, (Rung(4, 2),)))
    assert seconds_of(small, plainly, 0.5, 1) == pytest.approx(4 * 1.5 + 3.5 + 2 * 4.5)
    # Two workers: the first rung takes 3 s; then the promoted one to 6.5 s beside one of the last bracket to 7.5 s; the
    # other begins at 6.5 s.
    assert seconds_of(small, plainly, 0.5, 2) == pytest.approx(6.5 + 4.5)
    # Six workers: the last bracket does not wait for the first.
    assert seconds_of(small, plainly, 0.5, 6) == pytest.approx(1.5 + 3.5)


@given(st.integers(1, 200), st.integers(2, 4), st.integers(1, 9), st.sampled_from([0.0, 0.25]))
def test_bounds(maximum: int, eta: int, workers: int, evaluation: float) -> None:
    brackets = plan(maximum, 1, eta)
    work = trained_iterations(brackets).continued + evaluation * sum(
        rung.trials for bracket in brackets for rung in bracket.rungs
    )
    alone, together = seconds_of(brackets, plainly, evaluation, 1), seconds_of(brackets, plainly, evaluation, workers)
    assert alone == pytest.approx(work)
    longest = maximum + evaluation * max(len(bracket.rungs) for bracket in brackets)
    assert together >= max(work / workers, maximum) - 1e-6
    # Graham's bound: never idle while there is something to do.
    assert together <= work / workers + longest * (1 - 1 / workers) + 1e-6


@pytest.mark.parametrize(
    ("stan", "rates", "trial"),
    [
        # An exact iteration takes 4 s, one at 1/2 takes 2 s and one at 1/4 takes 1 s; the trial is 9 iterations long.
        (None, (), 9 * 4),
        (Stan(period=None), (), 9 * 2),
        (Stan(period=2), (), 3 * 4 + 6 * 2),
        (Stan(period=2, tail=4, iterations=9), (), (2 + 4) * 4 + 3 * 2),
        (Stan(rate=0.25, period=None), (0.25, 0.5, 1.0), 1 * 1 + 2 * 2 + 6 * 4),
        (Stan(rate=0.25, period=2), (0.25, 0.5), (1 + 2) * 4 + 2 * 1 + 4 * 2),
    ],
)
def test_rates(monkeypatch: pytest.MonkeyPatch, stan: Stan | None, rates: tuple[float, ...], trial: float) -> None:
    def time(problem: Any, settings: Any, splits: Any, stan: Stan | None, evaluate: bool) -> Cost:
        if stan is None or stan.rate == 1:
            return Cost(exact=5, exact_seconds=20.0, evaluation_seconds=0.5 if evaluate else 0.0)
        return Cost(reduced=8, reduced_seconds=8 * 4.0 * float(stan.rate))

    monkeypatch.setattr(estimate, "_time", time)
    settings = SearchSettings(0, 9, 1, 3, stan=stan, rates=rates, finalists=99)
    # A whole trial is the last bracket's job; there is one on each of many workers.
    monkeypatch.setattr(SearchSettings, "plan", lambda self: plan(9, 1, 3)[2:])
    estimated = estimate_seconds(find("lenet"), settings, None, 99)  # type: ignore[arg-type]
    assert estimated == pytest.approx(trial + 0.5 + 9 * 4 + 2 * 0.5)
    # One finalist more than there are workers is trained after the others.
    estimated = estimate_seconds(find("lenet"), replace(settings, finalists=100), None, 99)  # type: ignore[arg-type]
    assert estimated == pytest.approx(trial + 0.5 + 2 * (9 * 4 + 2 * 0.5))
