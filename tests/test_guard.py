"""The divergence guard against its own words: not finite, or above ten times chance level twenty times in a row."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.training.guard import CHANCE_MULTIPLE, PATIENCE, Guard

CHANCE = math.log(10)
LIMIT = 23.02585092994046  # ten times the natural logarithm of 10


def test_the_limits_are_the_stated_ones() -> None:
    assert (CHANCE_MULTIPLE, PATIENCE) == (10.0, 20)
    assert Guard(CHANCE).limit == pytest.approx(LIMIT)
    assert Guard(math.log(100)).limit == pytest.approx(2 * LIMIT)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_it_at_once(loss: float) -> None:
    assert Guard(CHANCE).diverged(loss)


def test_one_good_loss_begins_the_row_anew() -> None:
    guard = Guard(CHANCE)
    assert not any(guard.diverged(loss) for loss in [1e3] * 19 + [2.3] + [1e3] * 19)
    assert guard.diverged(1e3)


losses = st.lists(st.sampled_from([0.0, 2.3, LIMIT - 0.01, LIMIT + 0.01, 1e30]), max_size=60)


@given(losses=losses | st.integers(0, 40).map(lambda n: [2.3] * 5 + [1e3] * n + [2.3]), cut=st.integers(0, 60))
def test_it_ends_with_the_twentieth_high_loss_in_a_row(losses: list[float], cut: int) -> None:
    expected = next(
        (i for i in range(19, len(losses)) if all(loss > LIMIT for loss in losses[i - 19 : i + 1])),
        None,
    )
    guard, found = Guard(CHANCE), None
    for place, loss in enumerate(losses):
        if place == cut:
            guard = Guard(CHANCE, above=guard.above)  # as a checkpoint does
        if guard.diverged(loss):
            found = place
            break
    assert found == expected
