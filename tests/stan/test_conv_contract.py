"""One contract for every way of computing a convolution on a grid: forward and gradients equal the oracle's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stantune.stan.entries import PATTERNS, Grid
from stantune.stan.fill import neighbour, neighbour_of_exact, sources
from stantune.stan.layers import StanConv2d

GRIDS = [
    Grid(pattern, top, left)
    for pattern in PATTERNS.values()
    for top in range(pattern.rows)
    for left in range(pattern.columns)
]


def on_grid(conv: nn.Conv2d, grid: Grid) -> nn.Conv2d:
    """Make `conv` compute the grid's entries only."""
    conv.__class__ = StanConv2d
    conv.grid = grid
    return conv


@settings(deadline=None, max_examples=150)
@given(
    grid=st.sampled_from(GRIDS),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(st.tuples(st.integers(0, 4), st.integers(0, 4)), st.sampled_from(["same", "valid"])),
    groups=st.sampled_from([1, 2, 4]),
    batch=st.integers(0, 3),
    bias=st.booleans(),
    mode=st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]),
    channels_last=st.booleans(),
)
def test_forward_and_gradients_equal_the_oracle(
    grid, height, width, kernel, stride, dilation, padding, groups, batch, bias, mode, channels_last
):
    if padding == "same":
        stride = (1, 1)
    conv = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups, bias, mode).double()
    torch.manual_seed(0)
    input = torch.randn(batch, 4, height, width, dtype=torch.float64)
    if channels_last:
        input = input.to(memory_format=torch.channels_last)
    input.requires_grad_()
    try:
        exact = conv(input)
    except RuntimeError:
        return  # stock PyTorch refuses the shape too
    expected = neighbour_of_exact(exact, grid)
    upstream = torch.randn_like(expected)
    leaves = [input, *conv.parameters()]
    wanted = torch.autograd.grad(expected, leaves, upstream)

    output = on_grid(conv, grid)(input)
    got = torch.autograd.grad(output, leaves, upstream)

    assert output.shape == expected.shape
    torch.testing.assert_close(output, expected)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gradients_are_those_of_the_approximate_function(grid):
    conv = on_grid(nn.Conv2d(2, 3, 3, padding=1).double(), grid)
    input = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (input, *conv.parameters()))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_computed_entries_are_exact_and_the_others_copies_of_a_nearest_one(grid):
    conv = nn.Conv2d(3, 8, 5, padding=2)
    input = torch.randn(2, 3, 9, 8)
    exact = conv(input)
    entries = grid.matrix(9, 8)
    output = on_grid(conv, grid)(input)
    torch.testing.assert_close(output[..., entries], exact[..., entries])
    places = torch.stack(torch.meshgrid(torch.arange(9), torch.arange(8), indexing="ij"), -1).double()
    computed = places[entries]
    for place, value in zip(places.flatten(0, 1), output.flatten(2).permute(2, 0, 1), strict=True):
        distance = (computed - place).norm(dim=-1)
        nearest = computed[distance == distance.min()].long()
        assert any(torch.allclose(value, exact[:, :, y, x], atol=1e-6) for y, x in nearest)


@given(length=st.integers(2, 2000), step=st.sampled_from([1, 2]), data=st.data())
@settings(deadline=None)
def test_fill_spreads_as_its_sources_say(length, step, data):
    first = data.draw(st.integers(0, step - 1))
    positions = torch.arange(first, length, step)
    row = neighbour(positions.float().view(1, 1, 1, -1), 1, length).long().flatten()
    assert torch.equal(row, positions[sources(length, len(positions))])
    nearest = (torch.arange(length)[:, None] - positions).abs().amin(1)
    assert torch.equal((row - torch.arange(length)).abs(), nearest)


def test_a_grid_that_does_not_fit_is_computed_exactly():
    conv = nn.Conv2d(3, 4, 3)
    input = torch.randn(2, 3, 3, 3)
    exact = conv(input)
    output = on_grid(conv, Grid(PATTERNS["blocks"], 1, 1))(input)
    assert torch.equal(output, exact)


def test_unbatched_input():
    conv = on_grid(nn.Conv2d(3, 4, 3), Grid(PATTERNS["blocks"], 0, 1))
    image = torch.randn(3, 8, 8)
    assert torch.equal(conv(image), conv(image[None])[0])


def test_channels_last_stays_channels_last():
    conv = on_grid(nn.Conv2d(8, 8, 3, padding=1), Grid(PATTERNS["blocks"], 1, 0)).to(memory_format=torch.channels_last)
    output = conv(torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert F.relu(output).is_contiguous(memory_format=torch.channels_last)
