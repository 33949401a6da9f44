"""How long a search of a problem takes, from the times of exact and reduced iterations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stantune.images import estimate
from stantune.images.estimate import estimate_seconds
from stantune.images.objective import ProblemObjective
from stantune.images.problems import find
from stantune.outcome import Cost
from stantune.search.plan.hyperband import plan
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan


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
    def time(objective: Any, settings: Any, stan: Stan | None, evaluate: bool) -> Cost:
        if stan is None or stan.rate == 1:
            return Cost(exact=5, exact_seconds=20.0, evaluation_seconds=0.5 if evaluate else 0.0)
        return Cost(reduced=8, reduced_seconds=8 * 4.0 * float(stan.rate))

    monkeypatch.setattr(estimate, "_time", time)
    settings = SearchSettings(0, 9, 1, 3, rates=rates, finalists=99)
    lenet = ProblemObjective(find("lenet"), stan)
    # A whole trial is the last bracket's job; there is one on each of many workers.
    monkeypatch.setattr(SearchSettings, "plan", lambda self: plan(9, 1, 3)[2:])
    estimated = estimate_seconds(lenet, settings, 99)
    assert estimated == pytest.approx(trial + 0.5 + 9 * 4 + 2 * 0.5)
    # One finalist more than there are workers is trained after the others.
    estimated = estimate_seconds(lenet, replace(settings, finalists=100), 99)
    assert estimated == pytest.approx(trial + 0.5 + 2 * (9 * 4 + 2 * 0.5))
