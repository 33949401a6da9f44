"""StanConv2d: a convolution that computes only the entries of its current grid and fills the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from stantune.stan.entries import Grid
from stantune.stan.fill import neighbour


class Span(NamedTuple):
    """How one side of the input is prepared so that a strided convolution meets just the computed places.

    Attributes:
        crop: places dropped at the start.
        before: zeros put before it.
        after: zeros put after it.
    """

    crop: int
    before: int
    after: int


def span(size: int, low: int, kernel: int, dilation: int, stride: int, first: int, step: int, kept: int) -> Span:
    """Return the `Span` of an input side of `size` places, padded by `low` in front, for the places first + i * step.

    Place p of the output reads the input from p * stride - low to p * stride - low + (kernel - 1) * dilation.
    """
    begin = first * stride - low
    end = begin + (kept - 1) * step * stride + (kernel - 1) * dilation + 1
    return Span(max(begin, 0), max(-begin, 0), max(end - size, 0))


def output_side(size: int, padding: int, kernel: int, dilation: int, stride: int) -> int:
    """Return the length of a convolution's output side; `padding` is that of both ends together."""
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def conv2d_on_grid(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    grid: Grid,
) -> Tensor:
    """Convolve at the grid's entries and fill the others from their nearest computed neighbour (STAN, ours).

    A grid of period (r, c) is a convolution with r, c times the stride whose input starts where the offset says, so
    the multiply-adds shrink to the pattern's rate, forward and backward.

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in / groups, kernel height, kernel width).
        bias: (C_out,) or None.
        stride: of rows and columns.
        padding: zeros at the left, right, top and bottom, in F.pad's order.
        dilation: of rows and columns.
        groups: as in F.conv2d.
        grid: the entries to compute.

    Returns:
        (B, C_out, H_out, W_out), the size of the exact output; computed exactly where the grid does not cover it.
    """
    left, right, top, bottom = padding
    kernel = weight.shape[-2:]
    height = output_side(input.shape[-2], top + bottom, kernel[0], dilation[0], stride[0])
    width = output_side(input.shape[-1], left + right, kernel[1], dilation[1], stride[1])
    if not grid.covers(height, width):
        return F.conv2d(F.pad(input, list(padding)), weight, bias, tuple(stride), 0, tuple(dilation), groups)
    pattern = grid.pattern
    rows, columns = grid.kept_size(height, width)
    vertical = span(input.shape[-2], top, kernel[0], dilation[0], stride[0], grid.top, pattern.rows, rows)
    horizontal = span(input.shape[-1], left, kernel[1], dilation[1], stride[1], grid.left, pattern.columns, columns)
    if vertical.crop or horizontal.crop:
        input = input[..., vertical.crop :, horizontal.crop :]
    # The convolution pads both ends alike and for free; only what one end needs beyond that costs a copy. More zeros
    # than needed after the last place do no harm while they are no more than the exact convolution has there.
    down = vertical.before if vertical.after <= vertical.before <= bottom else min(vertical.before, vertical.after)
    across = (
        horizontal.before
        if horizontal.after <= horizontal.before <= right
        else min(horizontal.before, horizontal.after)
    )
    extra = (
        horizontal.before - across,
        max(horizontal.after - across, 0),
        vertical.before - down,
        max(vertical.after - down, 0),
    )
    if any(extra):
        input = F.pad(input, extra)
    larger = (stride[0] * pattern.rows, stride[1] * pattern.columns)
    kept = F.conv2d(input, weight, bias, larger, (down, across), tuple(dilation), groups)
    return neighbour(kept, height, width)


class StanConv2d(nn.Conv2d):
    """An nn.Conv2d that computes only the entries of `grid` while it trains; exact in evaluation or with no grid.

    `stantune.accelerate_` turns an nn.Conv2d into one in place, so that Parameters, hooks, names and every reference to
    the layer stay what they were.
    """

    grid: Grid | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, C_out, H_out, W_out), of an input (B, C_in, H, W) or (C_in, H, W)."""
        if self.grid is None or not self.training:
            return super().forward(input)
        if input.dim() == 3:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        left, right, top, bottom = self._reversed_padding_repeated_twice
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            left = right = top = bottom = 0
        return conv2d_on_grid(
            input,
            self.weight,
            self.bias,
            self.stride,
            (left, right, top, bottom),
            self.dilation,
            self.groups,
            self.grid,
        )
