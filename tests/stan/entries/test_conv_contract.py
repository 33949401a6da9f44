"""One contract for every way of computing some entries of a convolution: forward and gradients equal the oracle's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stantune.stan.entries.entries import PATTERNS, Entries, EntryMatrix, Grid
from stantune.stan.entries.fill import (
    memo_at,
    memo_of_exact,
    nearest_computed,
    neighbour_at,
    neighbour_of_exact,
    spread,
)
from stantune.stan.entries.positions import conv2d_at
from stantune.stan.entries.strided import conv2d_on_grid
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d

pytestmark = pytest.mark.usefixtures("one_thread")

GRIDS = [
    Grid(pattern, top, left)
    for pattern in PATTERNS.values()
    for top in range(pattern.rows)
    for left in range(pattern.columns)
]


class Shape(NamedTuple):
    """Shapes and settings of a convolution; padding is left, right, top, bottom."""

    batch: int = 2
    size: tuple[int, int] = (7, 6)
    channels: tuple[int, int] = (4, 4)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True
    channels_last: bool = False


class Convolution(NamedTuple):
    """Arguments of a convolution with random values, and its exact output (B, C_out, H_out, W_out)."""

    arguments: tuple[Tensor, Tensor, Tensor | None, tuple[int, int], tuple[int, ...], tuple[int, int], int]
    exact: Tensor

    @classmethod
    def of(cls, shape: Shape) -> Convolution:
        torch.manual_seed(0)
        inputs, outputs = shape.channels
        input = torch.randn(shape.batch, inputs, *shape.size, dtype=torch.float64)
        if shape.channels_last:
            input = input.to(memory_format=torch.channels_last)
        input.requires_grad_()
        weight = torch.randn(outputs, inputs // shape.groups, *shape.kernel, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(outputs, dtype=torch.float64, requires_grad=True) if shape.bias else None
        padded = F.pad(input, shape.padding)
        exact = F.conv2d(padded, weight, bias, shape.stride, 0, shape.dilation, shape.groups)
        return cls((input, weight, bias, shape.stride, shape.padding, shape.dilation, shape.groups), exact)

    @property
    def leaves(self) -> list[Tensor]:
        return [tensor for tensor in self.arguments[:3] if tensor is not None]


# Each way of computing: (the convolution's arguments, E, what was remembered) -> the filled output (B, C_out, H, W).
Way = Callable[[tuple, Entries, Tensor], Tensor]


def strided(arguments, grid, remembered):
    return conv2d_on_grid(*arguments, grid)


def neighbour_at_positions(arguments, matrix, remembered):
    computed = conv2d_at(*arguments, matrix.entries)
    return neighbour_at(computed, matrix.entries, nearest_computed(matrix.entries))


def spread_from_positions(arguments, matrix, remembered):
    batch, height, width = matrix.entries.shape
    outputs = arguments[1].shape[0]
    scattered = torch.full((batch, height, width, outputs), torch.nan, dtype=torch.float64)
    scattered[matrix.entries] = conv2d_at(*arguments, matrix.entries)
    return spread(scattered.movedim(-1, 1), nearest_computed(matrix.entries))


def memo_at_positions(arguments, matrix, remembered):
    return memo_at(conv2d_at(*arguments, matrix.entries), matrix.entries, remembered)


NEIGHBOUR: dict[str, Way] = {
    "grid by stride": strided,
    "neighbour at positions": neighbour_at_positions,
    "spread from positions": spread_from_positions,
}
MEMO: dict[str, Way] = {"memo at positions": memo_at_positions}
WAYS = {**NEIGHBOUR, **MEMO}


def check(way: str, convolution: Convolution, entries: Entries) -> None:
    """Compare the way's output and gradients with those of its oracle."""
    exact = convolution.exact
    remembered = torch.randn_like(exact)
    wanted = memo_of_exact(exact, entries, remembered) if way in MEMO else neighbour_of_exact(exact, entries)
    output = WAYS[way](convolution.arguments, entries, remembered)
    upstream = torch.randn_like(wanted)
    gradients = torch.autograd.grad(output, convolution.leaves, upstream)
    oracles = torch.autograd.grad(wanted, convolution.leaves, upstream, retain_graph=True)

    assert output.shape == wanted.shape
    torch.testing.assert_close(output, wanted)
    for got, oracle in zip(gradients, oracles, strict=True):
        torch.testing.assert_close(got, oracle)


SHAPES = {
    "plain": Shape(),
    "batch of one": Shape(batch=1),
    "empty batch": Shape(batch=0),
    "odd sides": Shape(size=(9, 5)),
    "asymmetric padding": Shape(padding=(0, 2, 3, 1)),
    "padding on one side": Shape(padding=(0, 0, 0, 2), kernel=(2, 3)),
    "no padding": Shape(padding=(0, 0, 0, 0)),
    "even kernel": Shape(kernel=(4, 2)),
    "one tap": Shape(kernel=(1, 1), padding=(0, 0, 0, 0)),
    "strided": Shape(size=(13, 12), stride=(2, 3)),
    "stride beyond the kernel": Shape(size=(13, 12), kernel=(2, 1), stride=(3, 2), padding=(0, 0, 0, 0)),
    "dilated": Shape(dilation=(2, 3), padding=(3, 3, 2, 2)),
    "dilated and strided": Shape(size=(11, 12), dilation=(3, 1), stride=(2, 1), padding=(1, 2, 3, 0)),
    "groups": Shape(channels=(4, 6), groups=2),
    "depthwise": Shape(channels=(4, 4), groups=4),
    "depthwise with a multiplier": Shape(channels=(3, 6), groups=3, stride=(2, 2)),
    "one channel": Shape(channels=(1, 3)),
    "no bias": Shape(bias=False),
    "channels last": Shape(channels_last=True),
    "smaller than a pattern": Shape(size=(1, 1)),
    "one row": Shape(size=(1, 9), kernel=(1, 3), padding=(1, 1, 0, 0)),
    "one output": Shape(size=(3, 3), padding=(0, 0, 0, 0)),
    "kernel larger than the input": Shape(size=(2, 3), kernel=(5, 5), padding=(2, 2, 2, 2)),
}


def one_each(exact: Tensor) -> Tensor:
    """Return an E of a single computed entry in each sample, a different one in each."""
    batch, _, height, width = exact.shape
    entries = torch.zeros(batch, height * width, dtype=torch.bool)
    entries[torch.arange(batch), torch.arange(batch) * 7 % (height * width)] = True
    return entries.view(batch, height, width)


def random(exact: Tensor, kept: float) -> Tensor:
    """Return an E of independent entries, at least one computed in each sample."""
    batch, _, height, width = exact.shape
    return (torch.rand(batch, height, width) < kept) | one_each(exact)


CHOICES: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda exact: random(exact, 1.0),
    "half": lambda exact: random(exact, 0.5),
    "quarter": lambda exact: random(exact, 0.25),
    "one in each sample": one_each,
    "checkerboard": lambda exact: (
        random(exact, 0.0) | (torch.arange(exact[0, 0].numel()) % 2 == 0).view_as(exact[0, 0])
        if len(exact)
        else random(exact, 0.0)
    ),
}
NONE = {
    "none": lambda exact: random(exact, 0.0) & False,
    "none in the last sample": lambda exact: random(exact, 0.5) & (torch.arange(len(exact)) < 1).view(-1, 1, 1),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("choice", CHOICES)
def test_any_entries(choice, shape):
    convolution = Convolution.of(shape)
    entries = EntryMatrix(CHOICES[choice](convolution.exact))
    for way in ("neighbour at positions", "spread from positions", "memo at positions"):
        check(way, convolution, entries)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("choice", NONE)
def test_samples_of_which_nothing_is_computed(choice, shape):
    convolution = Convolution.of(shape)
    check("memo at positions", convolution, EntryMatrix(NONE[choice](convolution.exact)))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_grids(shape):
    convolution = Convolution.of(shape)
    batch, _, height, width = convolution.exact.shape
    for grid in GRIDS:
        check("grid by stride", convolution, grid)
        if grid.covers(height, width):
            same = EntryMatrix(grid.matrix(height, width).expand(batch, height, width))
            check("neighbour at positions", convolution, same)
            check("memo at positions", convolution, same)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """Draw a convolution that stock PyTorch accepts."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(*[st.integers(0, 4)] * 4))
    around = (padding[2] + padding[3], padding[0] + padding[1])
    least = [max(1, step * (taps - 1) + 1 - pad) for step, taps, pad in zip(dilation, kernel, around, strict=True)]
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    return Convolution.of(
        Shape(
            batch=draw(st.integers(0, 3)),
            size=(least[0] + draw(st.integers(0, 8)), least[1] + draw(st.integers(0, 8))),
            channels=(4, 4 * draw(st.integers(1, 2))),
            kernel=kernel,
            stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=draw(st.booleans()),
            channels_last=draw(st.booleans()),
        )
    )


@settings(max_examples=60)
@given(convolution=convolutions(), grid=st.sampled_from(GRIDS))
def test_grids_of_any_convolution(convolution, grid):
    check("grid by stride", convolution, grid)


@settings(max_examples=40)
@given(convolution=convolutions(), kept=st.sampled_from([0.1, 0.3, 0.6]))
@pytest.mark.parametrize("way", ["neighbour at positions", "spread from positions", "memo at positions"])
def test_any_entries_of_any_convolution(way, convolution, kept):
    check(way, convolution, EntryMatrix(random(convolution.exact, kept)))


def of_class(conv: nn.Module, layer: type[nn.Module], entries: Entries) -> nn.Module:
    """Make `conv` a STAN layer that computes these entries only."""
    conv.__class__ = layer
    conv.grid = entries
    return conv


def check_layer(conv: nn.Module, layer: type[nn.Module], input: Tensor, entries: Entries) -> None:
    """Compare a layer with the neighbour oracle on its own exact output; in one dimension that is one row."""
    line = input.dim() == 3
    exact = conv(input)
    wanted = neighbour_of_exact(exact.unsqueeze(2), entries).squeeze(2) if line else neighbour_of_exact(exact, entries)
    upstream = torch.randn_like(wanted)
    leaves = [input, *conv.parameters()]
    oracle = torch.autograd.grad(wanted, leaves, upstream)
    output = of_class(conv, layer, entries)(input)
    torch.testing.assert_close(output, wanted)
    for got, one in zip(torch.autograd.grad(output, leaves, upstream), oracle, strict=True):
        torch.testing.assert_close(got, one)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", "valid", (2, 1)])
@pytest.mark.parametrize("entries", [Grid(PATTERNS["blocks"], 1, 0), Grid(PATTERNS["columns"], 0, 1), "any"], ids=str)
def test_layers_of_every_padding(entries, padding, mode):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, (4, 3), padding=padding, dilation=(1, 2), padding_mode=mode).double()
    input = torch.randn(3, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    if entries == "any":
        entries = EntryMatrix(random(conv(input), 0.3))
    check_layer(conv, StanConv2d, input, entries)


@pytest.mark.parametrize("entries", [grid for grid in GRIDS if grid.pattern.rows == 1], ids=str)
@pytest.mark.parametrize("length", [4, 9, 15, 32])
@pytest.mark.parametrize(
    "setting",
    [
        {"padding": 1},
        {"stride": 2},
        {"groups": 2, "bias": False},
        {"dilation": 2, "padding": "same"},
        {"padding": 2, "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_layers_of_one_dimension(setting, length, entries):
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 6, 3, **setting).double()
    input = torch.randn(2, 4, length, dtype=torch.float64, requires_grad=True)
    check_layer(conv, StanConv1d, input, entries)


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.pattern.columns < 4], ids=str)
def test_gradients_are_those_of_the_approximate_function(grid):
    conv = of_class(nn.Conv2d(2, 3, 3, padding=1).double(), StanConv2d, grid)
    input = torch.randn(1, 2, 6, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (input, *conv.parameters()))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_computed_entries_are_exact_and_the_others_copies_of_a_nearest_one(grid):
    conv = nn.Conv2d(3, 8, 5, padding=2)
    input = torch.randn(2, 3, 9, 12)
    exact = conv(input)
    entries = grid.matrix(9, 12)
    output = of_class(conv, StanConv2d, grid)(input)
    torch.testing.assert_close(output[..., entries], exact[..., entries])
    places = torch.stack(torch.meshgrid(torch.arange(9), torch.arange(12), indexing="ij"), -1).double()
    computed = places[entries]
    for place, value in zip(places.flatten(0, 1), output.flatten(2).permute(2, 0, 1), strict=True):
        distance = (computed - place).norm(dim=-1)
        nearest = computed[distance == distance.min()].long()
        assert any(torch.allclose(value, exact[:, :, y, x], atol=1e-6) for y, x in nearest)


def test_a_grid_that_does_not_fit_is_computed_exactly():
    conv = nn.Conv2d(3, 4, 3)
    input = torch.randn(2, 3, 3, 3)
    exact = conv(input)
    output = of_class(conv, StanConv2d, Grid(PATTERNS["blocks"], 1, 1))(input)
    # A fill would be off by far more than the order of sums.
    torch.testing.assert_close(output, exact)


def test_unbatched_input():
    conv = of_class(nn.Conv2d(3, 4, 3), StanConv2d, Grid(PATTERNS["blocks"], 0, 1))
    image = torch.randn(3, 8, 8)
    assert torch.equal(conv(image), conv(image[None])[0])


def test_channels_last_stays_channels_last():
    conv = of_class(nn.Conv2d(8, 8, 3, padding=1), StanConv2d, Grid(PATTERNS["blocks"], 1, 0))
    output = conv.to(memory_format=torch.channels_last)(torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert F.relu(output).is_contiguous(memory_format=torch.channels_last)
