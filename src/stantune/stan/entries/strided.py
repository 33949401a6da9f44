"""A convolution at the entries of a grid alone, by stride: the arithmetic shrinks to the pattern's rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from stantune.stan.entries.entries import Grid
from stantune.stan.entries.fill import neighbour


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


def output_size(
    input: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    """Return (H_out, W_out) of the exact convolution; for the arguments see `conv2d_kept`."""
    left, right, top, bottom = padding
    kernel = weight.shape[-2:]
    return (
        output_side(input.shape[-2], top + bottom, kernel[0], dilation[0], stride[0]),
        output_side(input.shape[-1], left + right, kernel[1], dilation[1], stride[1]),
    )


def conv2d_kept(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    grid: Grid,
) -> Tensor:
    """Convolve at the grid's entries alone (STAN, ours).

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
        grid: the entries to compute; it must cover the output (`Grid.covers`).

    Returns:
        (B, C_out, h, w), the computed entries; (h, w) is `grid.kept_size(H_out, W_out)`.
    """
    left, right, top, bottom = padding
    kernel = weight.shape[-2:]
    height, width = output_size(input, weight, stride, padding, dilation)
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
    return F.conv2d(input, weight, bias, larger, (down, across), tuple(dilation), groups)


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
        (B, C_out, H_out, W_out), the size of the exact output; computed exactly where that is too small (`Grid.fills`).
    """
    height, width = output_size(input, weight, stride, padding, dilation)
    if not grid.fills(height, width):
        return F.conv2d(F.pad(input, list(padding)), weight, bias, tuple(stride), 0, tuple(dilation), groups)
    kept = conv2d_kept(input, weight, bias, stride, padding, dilation, groups, grid)
    return neighbour(kept, height, width, grid)
