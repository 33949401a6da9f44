"""conv2d_at: a convolution computed at listed output positions only, forward and backward, in stock PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from stantune.kernels.derivatives import gradients_of
from stantune.stan.entries.entries import check_entries
from stantune.stan.entries.strided import output_size

# Numbers held at a time: a processor gathers and multiplies within its cache, an accelerator wants few, large products.
CHUNK = 1 << 21
LARGE_CHUNK = 1 << 26

# From this share of computed entries on, the input's gradient is a dense convolution of the scattered gradient; below
# it, products of what is computed and their sum. Dense against sum, on one thread, batch 100, 5x5: at 1/2 25 and 28 ms
# for 3 -> 32 channels on 32x32, 18 and 22 for 32 -> 32 on 16x16, 8.7 and 10.9 for 32 -> 64 on 8x8; at 1/4 25 and 20, 18
# and 12, 8.1 and 4.5.
DENSE_FROM = 0.45


class Geometry(NamedTuple):
    """Sizes of one convolution; pairs are of rows and columns.

    Attributes:
        size: of the input without padding.
        padded: of the input with it.
        corner: zeros above and left of the input.
        kernel: taps of the weight.
        stride: as in F.conv2d.
        dilation: as in F.conv2d.
        groups: as in F.conv2d.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    corner: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class Chunk(NamedTuple):
    """Samples that are worked on together, and the computed entries that are theirs."""

    samples: slice
    entries: slice


def conv2d_at(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    entries: Tensor,
) -> Tensor:
    """Convolve at the true entries of E only (STAN, ours).

    The patches under the computed entries are gathered and multiplied with the weight, a few samples at a time, so
    that the multiply-adds shrink to `kept` and no more than a chunk of patches is ever held. In the backward pass so do
    those of the weight's gradient, and those of the input's where `kept` is below DENSE_FROM.

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in / groups, kernel height, kernel width).
        bias: (C_out,) or None.
        stride: of rows and columns.
        padding: zeros at the left, right, top and bottom, in F.pad's order.
        dilation: of rows and columns.
        groups: as in F.conv2d.
        entries: E, bool (B, H_out, W_out).

    Returns:
        (n, C_out): the convolution at the n true entries, in the row-major order of `entries.nonzero()`; in the dtype
        that F.conv2d would return, under autocast too. Differentiable with respect to input, weight and bias; second
        derivatives go through the whole convolution.

    Raises:
        ValueError: E is not boolean or not of the output's shape, or the kernel is larger than the padded input.
    """
    left, right, top, bottom = padding
    height, width = input.shape[-2:]
    geometry = Geometry(
        size=(height, width),
        padded=(height + top + bottom, width + left + right),
        corner=(top, left),
        kernel=(weight.shape[-2], weight.shape[-1]),
        stride=(stride[0], stride[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )
    sides = output_size(input, weight, stride, padding, dilation)
    if min(sides) < 1:
        raise ValueError(f"the kernel {geometry.kernel} is larger than the padded input {geometry.padded}")
    check_entries(entries, (len(input), *sides))
    kind = input.device.type
    if torch.is_autocast_enabled(kind):
        # As autocast does for F.conv2d; without it the products would be cast one by one, after the gathering.
        dtype = torch.get_autocast_dtype(kind)
        input, weight = _cast(input, dtype), _cast(weight, dtype)
        bias = None if bias is None else _cast(bias, dtype)
    with torch.autocast(kind, enabled=False):
        result: Tensor = _ConvolutionAt.apply(input, weight, bias, entries, geometry)  # type: ignore[no-untyped-call]
    return result


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


class _ConvolutionAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, entries: Tensor, geometry: Geometry
    ) -> Tensor:
        sample, row, column = entries.nonzero().unbind(1)
        (down, across), (whole, line) = geometry.stride, geometry.padded
        start = (sample * whole + row * down) * line + column * across
        counts = entries.flatten(1).sum(1).tolist()
        matrices = _as_matrices(weight, geometry)
        groups, channels, _ = matrices.shape
        output = input.new_empty(len(start), groups, channels)
        for chunk in _chunks(counts, input, geometry):
            patches = _patches(input, start, chunk, geometry)
            target = output[chunk.entries].transpose(0, 1)
            if bias is None:
                torch.bmm(patches, matrices.transpose(1, 2), out=target)
            else:
                torch.baddbmm(bias.view(groups, 1, channels), patches, matrices.transpose(1, 2), out=target)
        ctx.save_for_backward(input, weight, start, entries)
        ctx.geometry, ctx.counts = geometry, counts
        return output.flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, start, entries = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        if torch.is_grad_enabled():
            # The bias is of no consequence to derivatives of a convolution.
            bias = weight.new_zeros(len(weight)) if ctx.needs_input_grad[2] else None
            again = partial(_at_of_whole, entries=entries, geometry=geometry)
            return *gradients_of(again, (input, weight, bias), ctx.needs_input_grad[:3], gradient), None, None
        matrices = _as_matrices(weight, geometry)
        by_group = gradient.view(len(start), *matrices.shape[:2]).transpose(0, 1)
        dense = len(start) >= DENSE_FROM * entries.numel()
        of_input = torch.empty_like(input) if ctx.needs_input_grad[0] else None
        # Sums over chunks are kept in single precision at least.
        exact = torch.promote_types(weight.dtype, torch.float32)
        of_matrices = torch.zeros_like(matrices, dtype=exact) if ctx.needs_input_grad[1] else None
        with torch.autocast(input.device.type, enabled=False):
            for chunk in _chunks(ctx.counts, input, geometry):
                part = by_group[:, chunk.entries]
                if of_matrices is not None:
                    # Gathered anew: to keep the patches from the forward pass on would hold one for each computed
                    # entry, many times the input's size, while gathering takes a fraction of the product's time.
                    of_matrices += torch.bmm(part.transpose(1, 2), _patches(input, start, chunk, geometry))
                if of_input is not None and dense:
                    of_input[chunk.samples] = _dense_gradient(
                        gradient[chunk.entries], weight, entries[chunk.samples], geometry
                    )
                elif of_input is not None:
                    of_patches = torch.bmm(F.pad(part, (0, 0, 0, 1)), matrices)
                    of_input[chunk.samples] = _sum_patches(of_patches, start, chunk, geometry)
        return (
            of_input,
            None if of_matrices is None else _as_weight(of_matrices, weight),
            gradient.sum(0) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def _at_of_whole(input: Tensor, weight: Tensor, bias: Tensor | None, *, entries: Tensor, geometry: Geometry) -> Tensor:
    """Do as `conv2d_at` by a convolution of every entry, differentiable as often as PyTorch's is."""
    (top, left), (height, width), (whole, line) = geometry.corner, geometry.size, geometry.padded
    padded = F.pad(input, (left, line - width - left, top, whole - height - top))
    output = F.conv2d(padded, weight, bias, geometry.stride, 0, geometry.dilation, geometry.groups)
    return output.movedim(1, -1)[entries]


def _chunks(counts: list[int], input: Tensor, geometry: Geometry) -> Iterator[Chunk]:
    """Yield chunks of whole samples that hold little enough; `counts` are the samples' computed entries."""
    limit = CHUNK if input.device.type == "cpu" else LARGE_CHUNK
    channels, taps = input.shape[1], geometry.kernel[0] * geometry.kernel[1]
    whole = geometry.padded[0] * geometry.padded[1] * (channels + taps)  # the padded sample, the rows of `_sum_patches`
    first = begin = held = end = 0
    for sample, count in enumerate(counts):
        needed = count * taps * channels + whole
        if sample > first and held + needed > limit:
            yield Chunk(slice(first, sample), slice(begin, end))
            first, begin, held = sample, end, 0
        held += needed
        end += count
    if counts:
        yield Chunk(slice(first, len(counts)), slice(begin, end))


def _local_start(start: Tensor, chunk: Chunk, geometry: Geometry) -> Tensor:
    """Return where the patches of the chunk's entries begin in the chunk's padded samples, flat, (entries,)."""
    before: int = chunk.samples.start * geometry.padded[0] * geometry.padded[1]
    return start[chunk.entries] - before


def _taps(geometry: Geometry, device: torch.device) -> Tensor:
    """Return how far each tap of the kernel lies behind the first in a padded sample, flat, (height, width)."""
    height, width = geometry.kernel
    step, line = geometry.dilation[1], geometry.dilation[0] * geometry.padded[1]
    down = torch.arange(0, height * line, line, device=device)
    across = torch.arange(0, width * step, step, device=device)
    return down[:, None] + across


def _patches(input: Tensor, start: Tensor, chunk: Chunk, geometry: Geometry) -> Tensor:
    """Return what the kernel meets at the chunk's computed entries, (groups, entries, taps * C_in / groups)."""
    samples = input[chunk.samples].permute(0, 2, 3, 1)
    number, channels = samples.shape[0], samples.shape[3]
    if geometry.padded == geometry.size:
        padded = samples.contiguous()
    else:
        (top, left), (height, width) = geometry.corner, geometry.size
        padded = samples.new_zeros(number, *geometry.padded, channels)
        padded[:, top : top + height, left : left + width] = samples
    # Undilated taps of one row lie side by side and are copied in one piece.
    together = geometry.kernel[1] if geometry.dilation[1] == 1 else 1
    offsets = _taps(geometry, input.device)[:, ::together].flatten()
    places = number * geometry.padded[0] * geometry.padded[1] - together + 1
    pieces = padded.as_strided((places, together * channels), (channels, 1))
    local = _local_start(start, chunk, geometry)
    patches = pieces.index_select(0, (local[:, None] + offsets).flatten())
    shape = (len(local), geometry.kernel[0] * geometry.kernel[1], geometry.groups, channels // geometry.groups)
    return patches.view(shape).permute(2, 0, 1, 3).flatten(2)


def _sum_patches(patches: Tensor, start: Tensor, chunk: Chunk, geometry: Geometry) -> Tensor:
    """Return the sum of the patches where they overlap, the adjoint of `_patches`, (samples, C_in, H, W).

    `patches`, (groups, entries + 1, taps * C_in / groups), ends with zeros: what a tap brings that reaches a place from
    no computed entry.
    """
    groups, number, _ = patches.shape
    samples = chunk.samples.stop - chunk.samples.start
    (height, width), (whole, line) = geometry.size, geometry.padded
    (down, across), (top, left) = geometry.dilation, geometry.corner
    taps = geometry.kernel[0] * geometry.kernel[1]
    # For each place of the padded samples, behind a margin, the number of the first row of the patch that begins there.
    margin = (geometry.kernel[0] - 1) * down * line + (geometry.kernel[1] - 1) * across
    count = partial(torch.arange, dtype=torch.int32, device=patches.device)
    none = (number - 1) * taps
    first = torch.full((margin + samples * whole * line,), none, dtype=torch.int32, device=patches.device)
    first[margin + _local_start(start, chunk, geometry)] = count(0, none, taps)
    # A flat view that steps back by each tap runs over the side of a sample only into places where no patch fits.
    back = first.as_strided(
        (samples, height, width, *geometry.kernel), (whole * line, line, 1, down * line, across), top * line + left
    )
    last_first = count(taps - 1, -1, -1).view(geometry.kernel)
    rows = torch.add(back, last_first, out=torch.empty(back.shape, dtype=back.dtype, device=back.device))
    values = patches.view(groups, number, taps, -1).permute(1, 2, 0, 3).flatten(0, 1).flatten(1)
    # A bag of rows for each place: several times quicker than index_add_, and the order of its sums is fixed.
    summed = F.embedding_bag(rows.view(-1, taps), values, mode="sum")
    return summed.view(samples, height, width, -1).permute(0, 3, 1, 2)


def _dense_gradient(gradient: Tensor, weight: Tensor, entries: Tensor, geometry: Geometry) -> Tensor:
    """Return the input's gradient by a dense convolution, zero at the skipped entries, (samples, C_in, H, W)."""
    scattered = gradient.new_zeros(*entries.shape, gradient.shape[1])
    scattered[entries] = gradient
    (height, width), (whole, line), (top, left) = geometry.size, geometry.padded, geometry.corner
    # What both ends have in common is padding, the rest belongs to a larger input.
    around = min(top, whole - height - top), min(left, line - width - left)
    larger: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
        (len(entries), weight.shape[1] * geometry.groups, whole - 2 * around[0], line - 2 * around[1]),
        weight.contiguous(memory_format=torch.channels_last),
        scattered.permute(0, 3, 1, 2),
        geometry.stride,
        around,
        geometry.dilation,
        geometry.groups,
    )
    return larger[..., top - around[0] :, left - around[1] :][..., :height, :width]


def _as_matrices(weight: Tensor, geometry: Geometry) -> Tensor:
    """Return the weight in the order of `_patches`, (groups, C_out / groups, taps * C_in / groups)."""
    split = weight.view(geometry.groups, len(weight) // geometry.groups, *weight.shape[1:])
    return split.permute(0, 1, 3, 4, 2).flatten(2)


def _as_weight(matrices: Tensor, weight: Tensor) -> Tensor:
    """Undo `_as_matrices`: return (C_out, C_in / groups, kernel height, kernel width), as `weight` is."""
    inputs, height, width = weight.shape[1:]
    split = matrices.view(len(weight), height, width, inputs)
    return split.permute(0, 3, 1, 2).to(weight.dtype)
