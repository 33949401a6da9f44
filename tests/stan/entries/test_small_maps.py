"""Outputs too small to be filled from neighbours: computed whole, gradients no larger than exact ones, and reported."""

from __future__ import annotations

import statistics

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stantune import Stan, accelerate_, restore_
from stantune.stan.config import Memo
from stantune.stan.entries.entries import PATTERNS, PERIODS, Grid

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = "its output of {0}x{0} entries is smaller than 3 periods of its patterns"


def network(*sides: int) -> nn.Sequential:
    """Return convolutions with batch norm whose outputs have these sides, and a classifier."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for place, side in enumerate(sides):
        layers += [
            nn.AdaptiveAvgPool2d(side),
            nn.Conv2d(8 if place else 3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def gradient(model: nn.Module, batch: int) -> float:
    """Return the norm of all parameters' gradients."""
    loss = F.cross_entropy(model(images(batch)), torch.arange(batch) % 5)
    found = torch.autograd.grad(loss, list(model.parameters()))
    return float(torch.stack([each.norm() for each in found]).norm())


@given(
    side=st.integers(1, 20), other=st.integers(1, 20), name=st.sampled_from(list(PATTERNS)), offset=st.integers(0, 3)
)
def test_an_output_is_filled_where_each_side_has_some_whole_periods_of_what_is_skipped(side, other, name, offset):
    pattern = PATTERNS[name]
    grid = Grid(pattern, offset % pattern.rows, offset % pattern.columns)
    rows, columns = (side // pattern.rows, other // pattern.columns)
    wanted = (pattern.rows == 1 or rows >= PERIODS) and (pattern.columns == 1 or columns >= PERIODS)
    assert grid.fills(side, other) is wanted
    if wanted:
        assert grid.covers(side, other)
        kept = grid.kept_size(side, other)
        assert kept[0] >= (PERIODS if pattern.rows > 1 else 1)
        assert kept[1] >= (PERIODS if pattern.columns > 1 else 1)


@pytest.mark.parametrize("side", [2, 3, 4, 6])
@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_gradients_of_reduced_iterations_are_hardly_larger_than_exact_ones(side, batch, rate):
    model = network(side, side, side)
    exact = gradient(model, batch)
    handle = accelerate_(model, Stan(rate=rate, period=None))
    ratios = []
    for _ in range(9):
        ratios.append(gradient(model, batch) / exact)
        handle.step()
    # As if entries were drawn by chance from a gradient that is all noise.
    assert statistics.median(ratios) <= rate**-0.5
    assert max(ratios) < 3


def test_the_report_says_what_is_left_alone_and_why_once_a_reduced_iteration_has_met_it():
    handle = accelerate_(model := network(8, 4, 2), Stan(rate=0.5, period=1))
    assert [line.reason for line in handle.report] == ["", "", ""]
    model(images())  # a refresh
    handle.step()
    model(images())
    handle.step()
    assert [line.reason.split(":")[0] for line in handle.report] == ["", SMALL.format(4), SMALL.format(2)]
    assert [bool(line.patterns) for line in handle.report] == [True, False, False]
    assert handle.kept == pytest.approx((0.5 + 1 + 1) / 3)
    model(torch.randn(2, 3, 16, 16))
    model[4] = nn.Identity()  # from now on the second layer sees larger maps
    model(images())
    handle.step()
    model(images())
    assert [bool(line.reason) for line in handle.report] == [False, False, True]
    restore_(model)
    assert [bool(line.reason) for line in handle.report] == [False, False, True]


def test_an_example_tells_the_report_before_the_first_iteration():
    handle = accelerate_(network(8, 4, 2), Stan(rate=0.5), example=images())
    assert [line.reason.split(":")[0] for line in handle.report] == ["", SMALL.format(4), SMALL.format(2)]
    line = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.AvgPool1d(4), nn.Conv1d(3, 3, 3, padding=1))
    handle = accelerate_(line, Stan(rate=0.25), example=torch.randn(2, 2, 16))
    assert [each.reason.split(":")[0] for each in handle.report] == ["", SMALL.replace("{0}x{0}", "1x4")]


def test_a_tolerance_chooses_among_the_patterns_that_fit():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d((8, 2)), nn.Conv2d(4, 4, 3, padding=1))
    handle = accelerate_(model, Stan(rate=0.25, tolerance=100.0))
    model(images())
    chosen = {choice.layer: choice for choice in handle.history}
    assert chosen["0"].pattern == PATTERNS["blocks"]
    assert list(chosen["2"].errors) == [chosen["2"].pattern] == [PATTERNS["rows"]]
    handle = accelerate_(model := network(8, 4), Stan(rate=0.25, tolerance=100.0))
    model(images())
    assert [choice.pattern for choice in handle.history] == [PATTERNS["blocks"], None]
    assert [line.reason.split(":")[0] for line in handle.report] == ["", SMALL.format(4)]


def test_the_memo_fill_needs_no_neighbours():
    stan = Stan(rate=0.25, memo=Memo(samples=4, epoch=1))
    handle = accelerate_(model := network(8, 2), stan, example=images())
    for _ in range(2):
        handle.visit(torch.arange(4))
        model(images())
        handle.step()
    assert [line.reason for line in handle.report] == ["", ""]
    assert handle.kept == 0.25
