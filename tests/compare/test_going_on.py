"""A comparison that was cut goes on, and trains nothing again that is in its directory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stantune.compare.comparison import Comparison
from stantune.compare.turns import TURN


class Stop:
    """Asks for the end after so many questions."""

    def __init__(self, after: float) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.usefixtures("errors_are_digests")
def test_what_is_finished_is_not_trained_again(bench: Any, turns: list[tuple[float, int, int]], tmp_path: Path) -> None:
    stans = {"0.5": bench.stans["0.5"]}
    whole = bench.compared(stans=stans, directory=tmp_path / "whole")
    turns.clear()

    def go(after: float) -> Comparison | None:
        return bench.comparer(stans=stans, directory=tmp_path / "cut", stop_early=Stop(after)).compare(2)

    # 39 questions or fewer for each training, none in the warm-up: the end comes in the second seed.
    assert go(100) is None
    assert sorted(file.name for file in (tmp_path / "cut").glob("*.json")) == ["plans.json", "seed-0.json"]
    first = json.loads((tmp_path / "cut" / "seed-0.json").read_text())
    turns.clear()
    cut = go(math.inf)
    assert cut is not None
    assert [stop for _, start, stop in turns if start == 0].count(TURN) == 2, "one seed, two trainings"
    assert bench.errors(cut.exact) == bench.errors(whole.exact)
    assert bench.errors(cut.arms[0].trainings) == bench.errors(whole.arms[0].trainings)
    assert cut.exact[0].seconds == first["content"]["exact"]["seconds"]
    turns.clear()
    assert go(math.inf) == cut
    assert not turns, "all is there"
    # More seeds are no other comparison.
    more = bench.comparer(stans=stans, directory=tmp_path / "cut").compare(3)
    assert more is not None
    assert more.exact[:2] == cut.exact
    assert [stop for _, start, stop in turns if start == 0].count(TURN) == 2


def test_the_order_of_the_arms_is_no_other_comparison(bench: Any, tmp_path: Path) -> None:
    both = bench.compared(seeds=1, directory=tmp_path)
    turned = bench.compared(seeds=1, directory=tmp_path, stans=dict(reversed(bench.stans.items())))
    assert [arm.name for arm in turned.arms] == ["0.25", "0.5"]
    assert turned == replace(both, arms=both.arms[::-1])


@pytest.mark.usefixtures("own_clock")
def test_equal_time_goes_on_too(bench: Any, tmp_path: Path) -> None:
    stans = {"0.5": bench.stans["0.5"]}
    before = bench.compared(stans=stans, directory=tmp_path)
    assert bench.comparer(stans=stans, directory=tmp_path, stop_early=Stop(40)).compare(2, True) is None
    kept = {"plans.json", "seed-0.json", "seed-1.json", "exact-27-of-40-seed-0.json"}
    assert {file.name for file in tmp_path.glob("*.json")} == kept
    titles: list[tuple[str, int]] = []

    @contextmanager
    def progress(title: str, iterations: int) -> Iterator[Callable[[int], None]]:
        titles.append((title, iterations))
        yield lambda done: None

    after = bench.compared(stans=stans, directory=tmp_path, equal_time=True, progress=progress)
    assert titles == [("seed 1: exact, as long as 0.5", 27)]
    assert after.exact == before.exact
    assert after.arms[0].equal_time is not None
    assert len(after.arms[0].equal_time.trainings) == 2
