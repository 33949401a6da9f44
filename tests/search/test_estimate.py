"""How long a plan takes on several workers, against small plans worked out by hand and bounds that always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.search.estimate import seconds_of
from stantune.search.plan.hyperband import Bracket, Rung, plan, trained_iterations


def plainly(start: int, stop: int) -> float:
    """Every iteration takes a second."""
    return float(stop - start)


def test_by_hand() -> None:
    # Four trials of 1 iteration, one of them to 4; then two of 4. An iteration takes 1 s, an evaluation 0.5 s.
    small = (Bracket(1, (Rung(1, 4), Rung(4, 1))), Bracket(0, (Rung(4, 2),)))
    assert seconds_of(small, plainly, lambda stop: 0.5, 1) == pytest.approx(4 * 1.5 + 3.5 + 2 * 4.5)
    # Two workers: the first rung takes 3 s; then the promoted one to 6.5 s beside one of the last bracket to 7.5 s; the
    # other begins at 6.5 s.
    assert seconds_of(small, plainly, lambda stop: 0.5, 2) == pytest.approx(6.5 + 4.5)
    # Six workers: the last bracket does not wait for the first.
    assert seconds_of(small, plainly, lambda stop: 0.5, 6) == pytest.approx(1.5 + 3.5)


@given(st.integers(1, 200), st.integers(2, 4), st.integers(1, 9), st.sampled_from([0.0, 0.25]))
def test_bounds(maximum: int, eta: int, workers: int, evaluation: float) -> None:
    brackets = plan(maximum, 1, eta)
    work = trained_iterations(brackets).continued + evaluation * sum(
        rung.trials for bracket in brackets for rung in bracket.rungs
    )
    alone, together = (
        seconds_of(brackets, plainly, lambda stop: evaluation, 1),
        seconds_of(brackets, plainly, lambda stop: evaluation, workers),
    )
    assert alone == pytest.approx(work)
    longest = maximum + evaluation * max(len(bracket.rungs) for bracket in brackets)
    assert together >= max(work / workers, maximum) - 1e-6
    # Graham's bound: never idle while there is something to do.
    assert together <= work / workers + longest * (1 - 1 / workers) + 1e-6
