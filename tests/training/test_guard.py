"""The divergence guard: what it lets go on, what it ends, and that only the losses count."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.training.guard import COME_DOWN, LAGS, LOWER, MULTIPLE, PATIENCE, RECENT, Guard

CHANCE = math.log(10)
LIMIT = 23.02585092994046  # ten times the natural logarithm of 10
BEGIN = [2.3] * 5


def verdict(losses: Sequence[float], chance: float | None = CHANCE, cut: int | None = None) -> int | None:
    """Return the place of the loss at which a training is called lost, None where it is not."""
    guard = Guard(chance)
    for place, loss in enumerate(losses):
        if place == cut:
            state, guard = guard.state, Guard(chance)  # as a checkpoint does
            guard.restore(state)
        if guard.diverged(loss):
            return place
    return None


def scattered(level: float, deviation: float, count: int, seed: int = 0) -> list[float]:
    noise = random.Random(seed)
    return [level * math.exp(noise.gauss(0, deviation)) for _ in range(count)]


def test_the_numbers_are_the_stated_ones() -> None:
    assert (MULTIPLE, PATIENCE, COME_DOWN) == (10.0, 20, 0.5)
    assert (RECENT, LOWER, LAGS) == (10, 8, (5, 10))


def test_the_limit_is_ten_times_chance_or_the_beginning_whichever_is_more() -> None:
    guard = Guard(CHANCE)
    assert guard.limit == pytest.approx(LIMIT)
    guard.diverged(1.0)
    guard.diverged(50.0)
    assert guard.limit == pytest.approx(LIMIT)
    guard = Guard(CHANCE)
    guard.diverged(18.8)
    guard.diverged(5.0)
    assert guard.limit == 188.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("chance", [CHANCE, None])
def test_a_loss_that_is_no_number_ends_it_at_once(loss: float, chance: float | None) -> None:
    assert verdict([loss], chance) == 0
    assert verdict([2.3, 2.2, loss], chance) == 2


def test_one_good_loss_begins_the_row_anew() -> None:
    assert verdict([*BEGIN, *[1e3] * 19, 2.3, *[1e3] * 19]) is None
    assert verdict([*BEGIN, *[1e3] * 19, 2.3, *[1e3] * 20]) == 5 + 19 + 1 + 19


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([1e3] * 40, id="constant"),
        pytest.param([30.0 * 1.5**i for i in range(40)], id="exploding"),
        pytest.param([30.0 + i for i in range(40)], id="rising slowly"),
        pytest.param([1e3 if i % 2 else 2e3 for i in range(40)], id="to and fro"),
        pytest.param([1e300] * 40, id="near the end of doubles"),
    ],
)
def test_what_stays_high_and_does_not_fall_ends_with_the_twentieth(losses: list[float]) -> None:
    assert verdict([*BEGIN, *losses]) == 5 + PATIENCE - 1


@pytest.mark.parametrize("deviation", [0.05, 0.3, 1.0])
def test_what_scatters_at_a_high_level_ends_soon(deviation: float) -> None:
    ends = [verdict([*BEGIN, *scattered(1e3, deviation, 400, seed)]) for seed in range(50)]
    assert all(end is not None for end in ends)
    assert sum(end or 0 for end in ends) / 50 < 5 + PATIENCE + 10


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([18.8 * math.exp(-0.011 * i) + 0.2 for i in range(2000)], id="a large beginning that falls"),
        pytest.param([500.0] * 2000, id="a large beginning that stays"),
        pytest.param([1e30 * 0.9**i for i in range(400)], id="a huge beginning that falls"),
        pytest.param(
            [*BEGIN, *(30 * 4.0**i for i in range(7)), *(1e5 * 0.99**i for i in range(2000))], id="up and down"
        ),
        pytest.param([*BEGIN, *(1e6 * 0.999**i for i in range(4000))], id="falling slowly"),
        pytest.param([*BEGIN, *(1e5 / (1 + i / 50) + 9e3 * (i % 2) for i in range(4000))], id="falling to and fro"),
        # A linear network on pixels of 0 to 255 at a large rate: its error is soon that of a good one.
        pytest.param([70.0, *scattered(2e5, 0.3, 10), *scattered(1e4, 0.4, 3000)], id="come down to a high level"),
        pytest.param(
            [70.0, *scattered(2e5, 0.3, 10), *([*scattered(1e4, 0.4, 50), 500.0] * 40)], id="with low ones between"
        ),
        pytest.param([2.3] * 2000, id="a plateau at chance"),
        pytest.param([2.3, *[20.0] * 2000], id="below the limit"),
        pytest.param([0.01 * i for i in range(2000)], id="a slow rise"),
    ],
)
def test_what_may_be_training_goes_on(losses: list[float]) -> None:
    assert verdict(losses) is None


def test_a_beginning_at_nothing_is_measured_by_chance() -> None:
    assert verdict([0.0] * 10 + [5.0] * 100, chance=2.0) is None
    assert verdict([0.0] * 10 + [21.0] * 100, chance=2.0) == 10 + PATIENCE - 1


def test_where_nobody_knows_chance_only_what_is_no_number_ends_it() -> None:
    assert verdict([*[-3.0] * 10, *[1e9] * 500, *[-1e9] * 500], chance=None) is None


def test_losses_below_zero_are_never_high() -> None:
    assert verdict([-5.0 - i for i in range(500)]) is None
    assert verdict([-5.0, *[1e3] * 20]) == PATIENCE


losses = st.lists(st.sampled_from([-1.0, 0.0, 2.3, LIMIT - 0.01, LIMIT + 0.01, 99.0, 1e4, 1e30]), max_size=12)


@given(losses, st.integers(1, 12), st.integers(0, 100))
def test_only_what_was_high_for_twenty_in_a_row_ends_and_cuts_change_nothing(
    losses: list[float], times: int, cut: int
) -> None:
    whole = [each for each in losses for _ in range(times)]
    found = verdict(whole)
    assert verdict(whole, cut=cut) == found
    if found is not None:
        assert found >= PATIENCE - 1
        last = whole[found - PATIENCE + 1 : found + 1]
        assert min(last) > MULTIPLE * max(CHANCE, whole[0])
        assert sum(last[10:]) >= sum(last[:10]) / 2
