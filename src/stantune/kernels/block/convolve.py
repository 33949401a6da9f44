"""A convolution at some of its entries, the fill of the others, ReLU and pooling, as one differentiable operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stantune.kernels.block.follow import Follow
from stantune.kernels.block.layout import LAST
from stantune.kernels.block.lists import Lists
from stantune.kernels.block.native import Call, applied
from stantune.kernels.block.plain import listed, plainly, pooled
from stantune.kernels.block.shapes import MOST_ENTRIES, MOST_SEEN, native_shapes
from stantune.kernels.library import suits


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    lists: Lists | None = None,
    follow: Follow = Follow(),  # noqa: B008  (immutable)
    last: bool | None = None,
) -> Tensor:
    """Convolve at the listed entries, fill the others, and do what follows: STAN's reduced layer (ours).

    Each image is padded, convolved, filled and pooled before the next, so that what lies between the layers stays in
    the processor's caches. The backward pass is the exact adjoint, and differentiable again. What native code was not
    made for (`shapes.native_shapes`) plain PyTorch computes, every entry of it first, or refuses in its words.

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, kernel height, kernel width).
        bias: (C_out,) or None.
        stride: of rows and columns.
        padding: zeros at the left, right, top and bottom, in F.pad's order.
        lists: the entries; None for all.
        follow: what is done to the filled output; a maximum over more than MOST_ENTRIES places is PyTorch's own, and so
            is a pooling whose windows see more than MOST_SEEN places.
        last: whether the output is to be channels last in memory, if native code makes it; None as PyTorch would.

    Returns:
        (B, C_out, H_out, W_out), (H_out, W_out) being `follow.pooled` of the convolution's.

    Raises:
        ValueError: the lists are not of this batch and output.
    """
    stride, padding = tuple(stride), tuple(padding)
    shapes = native_shapes(input, weight, bias, stride, padding, lists, follow)
    if shapes is None:
        return plainly(input, weight, bias, stride, padding, lists, follow)
    if follow.pool != "none" and (shapes.seen > MOST_SEEN or (follow.pool == "max" and shapes.places > MOST_ENTRIES)):
        # ReLU comes before an average, and may change places with a maximum.
        return pooled(convolve(input, weight, bias, stride, padding, lists, Follow(relu=follow.relu), last), follow)
    return applied(input, weight, bias, Call(stride, padding, lists, follow, shapes), None, last)


def convolve_into(
    remembered: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    lists: Lists,
) -> Tensor:
    """Convolve at the listed entries and put them among remembered ones: the memo fill of a reduced layer (ours).

    What is remembered is a constant: neither pass reads or writes it. As `convolve` otherwise.

    Args:
        remembered: what all entries had, (B, C_out, H_out, W_out), channels last in memory; it is written into. Not a
            view that autograd follows: it would make its whole base's gradient.
        input: (B, C_in, H, W).
        weight: (C_out, C_in, kernel height, kernel width).
        bias: (C_out,) or None.
        stride: of rows and columns.
        padding: zeros at the left, right, top and bottom, in F.pad's order.
        lists: the entries; the source of each other place is -1.

    Returns:
        `remembered`.
    """
    stride, padding = tuple(stride), tuple(padding)
    shapes = native_shapes(input, weight, bias, stride, padding, lists, Follow())
    if shapes is None or not (
        suits(remembered)
        and remembered.shape == (len(input), len(weight), *shapes.out)
        and remembered.is_contiguous(memory_format=LAST)
    ):
        computed = plainly(input, weight, bias, stride, padding, lists, Follow())
        return remembered.copy_(torch.where(listed(lists, computed), computed, remembered))
    return applied(input, weight, bias, Call(stride, padding, lists, Follow(), shapes), remembered)
