"""benchmarks/stopping/curves.py: its figures by hand, and its searches on made-up curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.stopping import curves
from benchmarks.stopping import curves_results as results
from stantune.parameters import Float
from stantune.space import Space


class MadeUp:
    """Curves on which each setting keeps its place from the first epoch on, or has another one there."""

    space = Space({"x": Float(0.0, 1.0)})

    def __init__(self, turned: bool) -> None:
        self._turned = turned
        self._drawn = [{"x": float(x)} for x in np.random.default_rng(5).random(400)]

    def errors(self, task: str, settings: Sequence[Mapping[str, Any]], epochs: Sequence[int]) -> Any:
        x = np.array([setting["x"] for setting in settings])
        return np.stack([100 * (1 - x if self._turned and epoch == 1 else x) + 10 / epoch for epoch in epochs], 1)

    def best(self, task: str) -> float:
        return 10 / 52

    def drawn(self, seed: int) -> Sequence[Mapping[str, Any]]:
        return self._drawn

    def of_drawn(self, task: str, seed: int, stops: Sequence[int]) -> list[Any]:
        return []


def test_budgets() -> None:
    # 27 + 9·4 + 3·12 + 35, 12·5 + 4·12 + 35, 6·17 + 2·35 and 4·52.
    assert curves.whole(1) == 134 + 143 + 172 + 208
    assert curves.trials_for(1, 134) == 27
    assert curves.trials_for(1, 133) == 0
    # Twice as many settings, twice the iterations.
    assert curves.trials_for(1, 268) == 54


def test_where_a_regret_is_reached() -> None:
    points = [(0.25, 4.0), (0.5, 3.0), (1.0, 1.0)]
    assert results.reached(points, 4.5) == 0.25
    assert results.reached(points, 3.0) == 0.5
    assert results.reached(points, 2.0) == pytest.approx(math.sqrt(0.5))
    assert results.reached(points, 0.5) == math.inf
    assert results.interval(list(range(1001))) == (25, 975)


@pytest.mark.parametrize("turned", [False, True])
def test_searches(turned: bool) -> None:
    world = MadeUp(turned)
    found = {
        name: curves.regrets(world, "task", name, "random", 1, 0.0, 0, (0.1, 0.5, 1.0))
        for name in ("hyperband", "wide", "measured", "asha")
    }
    assert all(regrets[0] is None for regrets in found.values()), "nothing gets to R with so little"
    best = min(setting["x"] for setting in world._drawn[: curves.trials_for(1, curves.whole(1))]) * 100
    if not turned:
        assert found["wide"][-1] == pytest.approx(best)
    else:
        assert found["measured"][-1] < found["wide"][-1]
