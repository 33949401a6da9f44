"""The guard that calls no training lost that could be trained."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.objectives.function.losses import FIRST, MULTIPLE, PATIENCE, Losses


def verdict(losses, state=None):
    """Return after how many losses a training is called lost, None where it is not."""
    guard = Losses(state)
    return next((count for count, loss in enumerate(losses, 1) if guard.diverged(loss)), None)


BEGIN = [2.3] * FIRST


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_the_end_at_once(bad):
    assert verdict([bad]) == 1
    assert verdict([*BEGIN, 2.0, bad, 2.0]) == FIRST + 2


def test_a_loss_that_stays_far_above_its_beginning_is_the_end():
    assert verdict([*BEGIN, *[1e6] * 1000]) == FIRST + PATIENCE
    noise = random.Random(0)
    assert verdict([*BEGIN, *(1e6 * noise.uniform(0.5, 2) for _ in range(4000))]) is not None
    assert verdict([*BEGIN, *(1e6 * 1.01**i for i in range(1000))]) == FIRST + PATIENCE


def test_no_verdict_while_it_falls():
    assert verdict([*BEGIN, *(1e6 * 0.999**i for i in range(20_000))]) is None
    assert verdict([*BEGIN, *(1e9 / (i + 1) for i in range(20_000))]) is None


@pytest.mark.parametrize(
    "losses",
    [
        # A spike, a peak as long as patience allows, a plateau, a slow rise, a loss that is just large.
        [*BEGIN, *[1e9] * (PATIENCE - 1), 2.0, *[1e9] * (PATIENCE - 1), 2.0],
        [*BEGIN, *[2.3] * 5000],
        [2.3 + 0.01 * i for i in range(5000)],
        [1e12] * 5000,
        # It begins at nothing, or below; it is a likelihood, a game's.
        [0.0] * FIRST + [5.0] * 5000,
        [-1000.0 + i for i in range(5000)],
        [-1e-3] * FIRST + [-50.0] * 5000,
        [0.01 * i for i in range(5000)],
        # Early losses differ by orders of magnitude.
        [1e-4, *[10.0] * 5000],
    ],
)
def test_trainable_losses_are_let_go_on(losses):
    assert verdict(losses) is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=FIRST, max_size=2000))
def test_what_stays_near_its_beginning_is_never_called_lost(losses):
    largest = max(map(abs, losses[:FIRST]))
    assert verdict([min(loss, MULTIPLE * largest) for loss in losses]) is None


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.integers(0, 60), st.integers(1, 40))
def test_it_goes_on_as_if_it_had_not_been_cut(losses, cut, times):
    losses = losses * times
    whole, first = Losses(), Losses()
    found = [whole.diverged(loss) for loss in losses]
    said = [first.diverged(loss) for loss in losses[:cut]]
    second = Losses(first.state)
    said += [second.diverged(loss) for loss in losses[cut:]]
    assert said == found
    assert second.state == whole.state
    assert second.means.points == whole.means.points
