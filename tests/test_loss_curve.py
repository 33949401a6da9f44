"""A training's losses as a curve of few points."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.loss_curve import KEPT, POINTS, LossCurve, LossMeans


def taken(losses, state=None):
    means = LossMeans(state)
    for loss in losses:
        means.take(loss)
    return means


def test_few_losses_are_there_one_by_one():
    means = taken([2.0, 1.0, 0.5])
    assert means.points == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert means.curve == LossCurve(1, 3, (2.0, 1.0, 0.5))
    assert means.curve.points == means.points
    assert means.curve.after(1) == [(2, 1.0), (3, 0.5)]
    assert (LossMeans().points, LossMeans().curve, LossCurve().points) == ([], LossCurve(), [])


@pytest.mark.parametrize("count", [KEPT, KEPT + 1, POINTS - 1, POINTS, POINTS + 1, 1000, 100_001])
def test_many_losses_are_few_points_whose_means_are_right(count):
    """The mean of 0, 1, … from one point to the next is half of what is at both ends."""
    means = taken(map(float, range(count)))
    for points, most in ((means.points, POINTS), (means.curve.points, KEPT)):
        assert min(count, most / 2) <= len(points) <= most
        assert points[-1][0] == count
        for (before, _), (at, mean) in pairwise([(0, 0.0), *points]):
            assert mean == pytest.approx((before + at - 1) / 2, rel=1e-5, abs=1e-5)
    assert len({at - before for (before, _), (at, _) in pairwise([(0, 0.0), *means.curve.points[:-1]])}) == 1


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40), st.integers(0, 40), st.integers(1, 60))
def test_a_curve_goes_on_as_if_it_had_not_been_cut_and_is_json(losses, cut, times):
    losses = losses * times
    whole = taken(losses)
    assert taken(losses[cut:], json.loads(json.dumps(taken(losses[:cut]).state))).curve == whole.curve
    assert LossCurve.from_plain(json.loads(json.dumps(whole.curve.plain(), allow_nan=False))) == whole.curve


def test_losses_that_nobody_noted_are_counted():
    curve = taken([1.0] * 3, {"begin": 5}).curve
    assert curve.points == [(6, 1.0), (7, 1.0), (8, 1.0)]
    assert taken([1.0] * 1000, {"begin": 5}).curve.points[0] == (13, 1.0)
    assert taken([1.0] * 1000, {"begin": 5}).curve.points[-1] == (1005, 1.0)
