"""Layers in STAN's hands, drawn by chance, and their oracles: PyTorch's layers, and the fill behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from compared import LAST
from hypothesis import strategies as st
from torch import Tensor, nn

from stantune.stan.entries.entries import PLANE, EntryMatrix, Grid
from stantune.stan.entries.fill import memo_of_exact, neighbour_of_exact
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.layers.linear import StanLinear, neuron_block
from stantune.stan.layers.meprop import MePropLinear, largest
from stantune.stan.layers.stan_layer import Recollection


class Remembered:
    """A layer's memory of one batch, of which it forgets what it is told."""

    def __init__(self, entries: Any, values: Tensor) -> None:
        self.entries, self.values = entries, values

    def recall(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Recollection:
        return Recollection(self.entries, self.values.to(dtype, copy=True, memory_format=torch.preserve_format))

    def remember(self, output: Tensor, entries: object) -> None:
        pass


class Chosen(torch.autograd.Function):
    """What meProp makes of a gradient."""

    @staticmethod
    def forward(output: Tensor, top_k: int) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.top_k = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows = gradient.reshape(-1, gradient.shape[-1])
        return rows.where(largest(rows, ctx.top_k), 0).view_as(gradient), None


Fill = Callable[[Tensor], Tensor]


class Made(NamedTuple):
    """A stock layer, what STAN makes of its output, and how it is put into STAN's hands."""

    stock: nn.Module
    fill: Fill
    accelerate: Callable[[nn.Module], None]


def filled(layer: nn.Module, entries: Grid | EntryMatrix | None, memory: Remembered | None = None) -> Made:
    """Return a convolution that computes some entries."""
    flat = isinstance(layer, nn.Conv1d)

    def fill(exact: Tensor) -> Tensor:
        if entries is None:
            return exact
        plane = exact.unsqueeze(-2) if flat else exact
        whole = plane if plane.dim() == 4 else plane.unsqueeze(0)
        values = None if memory is None else memory.values.to(exact.dtype)
        found = neighbour_of_exact(whole, entries) if values is None else memo_of_exact(whole, entries, values)
        return found.view(exact.shape) if found.is_contiguous() else found.reshape(exact.shape)

    def accelerate(layer: nn.Module) -> None:
        layer.__class__ = StanConv1d if flat else StanConv2d
        layer.grid, layer.memory = (entries, None) if memory is None else (None, memory)

    return Made(layer, fill, accelerate)


GRIDS = (None, *(Grid(PLANE[name], 0, 0) for name in ("columns", "rows", "blocks")), Grid(PLANE["blocks"], 1, 1))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Made, tuple[int, ...]]:
    """A convolution of any settings, alone or with what STAN does along with it, and its input's shape."""
    kind = draw(st.sampled_from(["plain", "plain", "settings", "flat", "entries", "memo"]))
    batch, channels, filters = draw(st.sampled_from([0, 1, 2, 3])), draw(st.sampled_from([1, 2, 4])), 4
    flat = kind == "flat"
    sides = (draw(st.integers(1, 11)),) if flat else (draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    given_: dict[str, Any] = {
        "kernel_size": draw(st.sampled_from([1, 3, 5])),
        "padding": draw(st.sampled_from([0, 1, "same"])),
        "bias": draw(st.booleans()),
    }
    if given_["padding"] != "same":
        given_["stride"] = draw(st.sampled_from([1, 1, 2]))
    if kind in ("settings", "flat"):
        given_["groups"] = draw(st.sampled_from([1, channels]))
        given_["dilation"] = draw(st.sampled_from([1, 2]))
        given_["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "circular"]))
    torch.manual_seed(0)
    layer = (nn.Conv1d if flat else nn.Conv2d)(channels, filters, **given_)
    shape = (batch, channels, *sides)
    grid = draw(st.sampled_from(GRIDS))
    if flat and grid is not None:
        grid = Grid(PLANE["columns"], 0, 1)
    if kind not in ("entries", "memo"):
        return filled(layer, grid), shape
    try:
        size = layer(torch.zeros(shape)).shape
    except RuntimeError:
        return filled(layer, grid), shape
    entries = torch.rand(size[0], *size[2:]) < 0.5
    entries[:, :1, :1] = True
    if kind == "entries":
        return filled(layer, EntryMatrix(entries)), shape
    values = torch.randn(size).contiguous(memory_format=LAST)
    return filled(
        layer, grid if grid is not None else EntryMatrix(entries), Remembered(grid or EntryMatrix(entries), values)
    ), shape


@st.composite
def linears(draw: st.DrawFn) -> tuple[Made, tuple[int, ...]]:
    """A linear layer of which some neurons are computed, or under meProp."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 8, bias=draw(st.booleans()))
    shape = draw(st.sampled_from([(3, 6), (1, 6), (0, 6), (2, 3, 6), (6,), (3, 5)]))
    if draw(st.booleans()):
        block, values = neuron_block(8, 2, 1), torch.randn(*shape[:-1], 8)

        def fill(exact: Tensor) -> Tensor:
            if exact.dim() != 2 or not len(exact):
                return exact
            return torch.cat([values.to(exact.dtype)[:, : block.start], exact[:, block]], 1)

        def remember(layer: nn.Module) -> None:
            layer.__class__ = StanLinear
            layer.memory = Remembered(block, values)

        return Made(layer, fill, remember), shape

    def choose(layer: nn.Module) -> None:
        layer.__class__ = MePropLinear
        layer.top_k, layer.sparse_bias = 3, True

    return Made(layer, lambda exact: Chosen.apply(exact, 3), choose), shape


FOLLOWING: dict[str, Callable[[], list[nn.Module]]] = {
    "nothing": list,
    "relu": lambda: [nn.ReLU()],
    "maximum": lambda: [nn.ReLU(), nn.MaxPool2d(2)],
    "average": lambda: [nn.AvgPool2d(3, 2, ceil_mode=True), nn.ReLU()],
    "normalised": lambda: [nn.BatchNorm2d(4), nn.ReLU()],
}
