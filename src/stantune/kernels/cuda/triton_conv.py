"""A convolution at some of its entries with the fill of the others, by Triton, as one differentiable operation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from stantune.kernels.cuda import triton_kernels
from stantune.kernels.cuda.rows import Rows, Window
from stantune.kernels.derivatives import differentiable_once

_LAST = torch.channels_last
# Triton's interpreter runs the same programs on the CPU: for tests, and without the speed.
INTERPRETED = not isinstance(triton_kernels.forward, triton.runtime.JITFunction)
# So many programs fill today's devices a few times over; the weight's gradient is summed in parts to have as many.
PROGRAMS = 512
# So many terms of a sum are multiplied at a time: of float32 as it is (sums then live in each thread's registers), of
# tf32 and of bfloat16 on tensor cores.
TERMS = EXACT, TF32, BF16 = 16, 32, 64


class Tiles(NamedTuple):
    """What one program computes at a time; powers of 2, at least 16.

    Attributes:
        rows: entries or pixels.
        columns: filters or channels.
        depth: of a step of the product.
        warps: of 32 threads.
    """

    rows: int
    columns: int
    depth: int
    warps: int


def convolve_rows(input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, rows: Rows) -> Tensor:
    """Convolve at the listed entries and fill the others from them: STAN's reduced layer (ours).

    Products are summed in float32, of float32 numbers as `precision` says. The backward pass is the exact adjoint, once
    differentiable, and without atomics: one input, one result.

    Args:
        input: (B, C_in, H, W), float32 or bfloat16, fewer than 2^31 numbers; B is a multiple of `rows.images`.
        weight: (C_out, C_in, kernel height, kernel width), of the input's dtype.
        bias: (C_out,) or None, of the input's dtype.
        window: the convolution.
        rows: the entries.

    Returns:
        (B, C_out, H_out, W_out), channels last in memory, of the input's dtype.
    """
    result: Tensor = _Convolution.apply(input, weight, bias, window, rows)  # type: ignore[no-untyped-call]
    return result


def precision() -> str:
    """Return how float32 numbers are multiplied: as PyTorch is told for its own convolutions, "tf32" or "ieee"."""
    convolutions = getattr(torch.backends.cudnn, "conv", None)  # PyTorch 2.9
    allowed = torch.backends.cudnn.allow_tf32 if convolutions is None else convolutions.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"


def tiles_of_output(filters: int, depth: int, terms: int) -> Tiles:
    """Return the tiles of the product of patches and weight, whose rows are entries.

    These and the two below were the fastest or near it in a sweep on an H100, as `benchmarks/kernels/tiles.py` does.

    Args:
        filters: of the weight.
        depth: terms of a sum, those of one tap where there are many channels.
        terms: one of TERMS.
    """
    return Tiles(64, _power(filters, 64), _power(depth, terms), 4)


def tiles_of_weight(filters: int, columns: int, terms: int) -> Tiles:
    """Return the tiles of the product of gradient and patches, whose sums go over the entries.

    Args:
        filters: of the weight.
        columns: of the patches, those of one tap where there are many channels.
        terms: one of TERMS.
    """
    rows, most = {EXACT: (16, 64), TF32: (64, 32), BF16: (64, 64)}[terms]
    return Tiles(rows, _power(filters, most), _power(columns, most), 4)


def tiles_of_input(channels: int, filters: int, terms: int) -> Tiles:
    """Return the tiles of the product of gradient and weight, whose rows are pixels.

    Args:
        channels: of the input's gradient.
        filters: terms of a sum for each tap.
        terms: one of TERMS.
    """
    return Tiles(64 if terms == EXACT else 128, _power(channels, 64), _power(filters, terms), 4)


def _power(length: int, most: int) -> int:
    """Return the power of 2 that holds so many, from 16 to `most`."""
    return min(max(16, 1 << (length - 1).bit_length()), most)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        window: Window,
        rows: Rows,
    ) -> Tensor:
        input, weight = _in_order(input), _in_order(weight)
        bias = None if bias is None else bias.contiguous()
        job = _Job(input, weight, window, rows)
        output = torch.empty(
            (len(input), len(weight), *window.out), dtype=input.dtype, device=input.device, memory_format=_LAST
        )
        with torch.cuda.device_of(input):  # type: ignore[no-untyped-call]  # Triton launches on the current one
            job.forward(input, weight, bias, output)
        ctx.save_for_backward(input, weight)
        ctx.job = job
        return output

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Hooks on saved tensors may return the same numbers in another order.
        input, weight = map(_in_order, ctx.saved_tensors)
        job: _Job = ctx.job
        with torch.cuda.device_of(input):  # type: ignore[no-untyped-call]
            folded = job.fold(_in_order(gradient.to(input.dtype)))
            of_input = job.input_gradient(folded, weight, torch.empty_like(input)) if ctx.needs_input_grad[0] else None
            of_weight = job.weight_gradient(input, folded, weight) if ctx.needs_input_grad[1] else None
        of_bias = folded.sum(0, dtype=torch.float32).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return of_input, of_weight, of_bias, None, None


class _Job:
    """The sizes of one call, and its programs."""

    def __init__(self, input: Tensor, weight: Tensor, window: Window, rows: Rows, tiles: Tiles | None = None) -> None:
        self.window, self.lists = window, rows
        self.filters, self.channels = weight.shape[:2]
        self.taps = window.kernel[0] * window.kernel[1]
        self.listed = len(rows.positions)
        self.repeats = len(input) // rows.images
        self.rows = self.repeats * self.listed
        self.places = window.out[0] * window.out[1]
        self.precision = precision()
        self.flat = self.channels < 16
        terms = BF16 if input.dtype is torch.bfloat16 else TF32 if self.precision == "tf32" else EXACT
        # Sums of few channels are short, and tiles of more columns than there are waste.
        of_a_step, few = (self.taps * self.channels, min(terms, TF32)) if self.flat else (self.channels, terms)
        self.tiles = tiles or tiles_of_output(self.filters, of_a_step, few)
        self.tiles_of_weight = tiles or tiles_of_weight(self.filters, of_a_step, few)
        self.tiles_of_input = tiles or tiles_of_input(self.channels, self.filters, terms)

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor) -> None:
        """Fill `output`."""
        tiles = self.tiles
        triton_kernels.forward[_cells(self.rows, tiles.rows), _cells(self.filters, tiles.columns)](
            input,
            weight,
            weight if bias is None else bias,
            output,
            self.lists.positions,
            self.lists.begins,
            self.lists.copies,
            self.rows,
            self.listed,
            self.lists.images,
            self.places,
            self.window.out[1],
            *self._geometry(),
            biased=bias is not None,
            flat=self.flat,
            **self._constants(),
            **self._tiled(tiles),
        )

    def fold(self, gradient: Tensor) -> Tensor:
        """Return the computed entries' gradient, (rows, filters), from the output's."""
        folded = torch.empty(self.rows, self.filters, dtype=gradient.dtype, device=gradient.device)
        tiles = self.tiles
        block_rows = max(16, tiles.rows // 4)  # each holds its sums in registers, and waits for memory alone
        triton_kernels.fold[_cells(self.rows, block_rows), _cells(self.filters, tiles.columns)](
            gradient,
            folded,
            self.lists.begins,
            self.lists.copies,
            self.rows,
            self.listed,
            self.lists.images * self.places,
            filters=self.filters,
            block_rows=block_rows,
            block_filters=tiles.columns,
            num_warps=tiles.warps,
        )
        return folded

    def weight_gradient(self, input: Tensor, folded: Tensor, weight: Tensor) -> Tensor:
        """Return it, as `weight` is."""
        tiles = self.tiles_of_weight
        per_tap = _cells(self.channels, tiles.depth)
        steps = _cells(self.taps * self.channels, tiles.depth) if self.flat else self.taps * per_tap
        blocks = _cells(self.filters, tiles.columns) * steps
        each = _cells(self.rows, max(1, PROGRAMS // blocks))
        each = _cells(each, tiles.rows) * tiles.rows
        parts = torch.empty(
            (_cells(self.rows, each), self.filters, *self.window.kernel, self.channels), device=input.device
        )
        triton_kernels.weight_gradient[_cells(self.filters, tiles.columns), steps, len(parts)](
            input,
            folded,
            parts,
            self.lists.positions,
            self.rows,
            each,
            self.listed,
            self.lists.images,
            self.places,
            self.window.out[1],
            *self._geometry(),
            flat=self.flat,
            **self._constants(),
            **self._tiled(tiles),
        )
        return parts.sum(0).permute(0, 3, 1, 2).to(weight.dtype)

    def input_gradient(self, folded: Tensor, weight: Tensor, result: Tensor) -> Tensor:
        """Fill `result`, and return it."""
        tiles = self.tiles_of_input
        total = self.repeats * len(self.lists.pixels)
        triton_kernels.input_gradient[_cells(total, tiles.rows), _cells(self.channels, tiles.columns)](
            folded,
            weight,
            result,
            self.lists.pixels,
            self.lists.numbers,
            total,
            self.repeats,
            self.listed,
            self.lists.images,
            self.places,
            *self.window.out,
            *self._geometry(),
            **self._constants(),
            block_rows=tiles.rows,
            block_channels=tiles.columns,
            depth=tiles.depth,
            num_warps=tiles.warps,
        )
        return result

    def _geometry(self) -> tuple[int, ...]:
        window = self.window
        return *window.size, *window.stride, *window.corner, *window.dilation

    def _constants(self) -> dict[str, Any]:
        return {
            "channels": self.channels,
            "filters": self.filters,
            "kernel_w": self.window.kernel[1],
            "taps": self.taps,
            "precision": self.precision,
            "widen": INTERPRETED,
        }

    def _tiled(self, tiles: Tiles) -> dict[str, int]:
        return {
            "block_rows": tiles.rows,
            "block_filters": tiles.columns,
            "depth": tiles.depth,
            "num_warps": tiles.warps,
        }


def _in_order(tensor: Tensor) -> Tensor:
    """Return a tensor in the order that the programs read: they are told of no strides."""
    return tensor.contiguous(memory_format=_LAST)


def _cells(length: int, size: int) -> int:
    """Return how many pieces of this size cover the length."""
    return -(-length // size)
