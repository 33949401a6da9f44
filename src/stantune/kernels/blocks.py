"""A convolution at some of its entries, the fill of the others, ReLU and pooling, as one differentiable operation."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.derivatives import Gradients, gradients_of
from stantune.kernels.gate import device_of, readable
from stantune.kernels.library import kernels, loaded, suits

POOLS = ("none", "max", "average")
# Of an output that a maximum follows: an entry's number is kept in 16 bits, and one number stands for "no entry".
MOST_ENTRIES = 2**16 - 2
# Of one image, its output or the weight: native code counts them in 32 bits, with room for what it pads.
MOST_NUMBERS = 2**28
_LAST = torch.channels_last


class Follow(NamedTuple):
    """What is done to a convolution's filled output.

    Attributes:
        pool: of POOLS; windows are counted from the top left corner, without padding.
        size: of its windows, rows and columns.
        stride: between windows, rows and columns.
        ceil: whether a last window that reaches beyond the border counts.
        relu: ReLU, before or after the pooling.
    """

    pool: str = "none"
    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    ceil: bool = False
    relu: bool = False

    def pooled(self, height: int, width: int) -> tuple[int, int]:
        """Return the output's rows and columns, for a convolution's output of `height` x `width`."""
        if self.pool == "none":
            return height, width
        return tuple(  # type: ignore[return-value]  # of two
            _windows(length, size, stride, self.ceil)
            for length, size, stride in zip((height, width), self.size, self.stride, strict=True)
        )


class Lists(NamedTuple):
    """Which entries are computed, and which of them fills each place of the output.

    Attributes:
        positions: row * W_out + column of each computed entry, int32: (n,) where all images share them, otherwise those
            of one image after the other's.
        sources: which of its image's computed entries fills each place, int32: (H_out * W_out,), or (B, H_out * W_out);
            -1 for a place that `convolve_into` leaves as it is.
        begins: where each image's entries begin in `positions`, int32 (B + 1,); None where all images share them.
        most: the largest number of entries that an image has.
        grid: where the entries form a grid: rows and columns from one to the next, and the first one's.
    """

    positions: Tensor
    sources: Tensor
    begins: Tensor | None
    most: int
    grid: tuple[int, int, int, int] | None = None


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
    made for (`library.suits`, `_shapes`) plain PyTorch computes, every entry of it first, or refuses in its words.

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, kernel height, kernel width).
        bias: (C_out,) or None.
        stride: of rows and columns.
        padding: zeros at the left, right, top and bottom, in F.pad's order.
        lists: the entries; None for all.
        follow: what is done to the filled output; a maximum over more than MOST_ENTRIES places is PyTorch's own.
        last: whether the output is to be channels last in memory, if native code makes it; None as PyTorch would.

    Returns:
        (B, C_out, H_out, W_out), (H_out, W_out) being `follow.pooled` of the convolution's.

    Raises:
        ValueError: the lists are not of this batch and output.
    """
    stride, padding = tuple(stride), tuple(padding)
    shapes = _native_shapes(input, weight, bias, stride, padding, lists, follow)
    if shapes is None:
        return _plainly(input, weight, bias, stride, padding, lists, follow)
    if follow.pool == "max" and shapes.places > MOST_ENTRIES:
        # ReLU and the maximum may change places.
        output = convolve(input, weight, bias, stride, padding, lists, Follow(relu=follow.relu), last)
        return F.max_pool2d(output, follow.size, follow.stride, ceil_mode=follow.ceil)
    return _applied(input, weight, bias, _Call(stride, padding, lists, follow, shapes), None, last)


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
    shapes = _native_shapes(input, weight, bias, stride, padding, lists, Follow())
    if shapes is None or not (
        suits(remembered)
        and remembered.shape == (len(input), len(weight), *shapes.out)
        and remembered.is_contiguous(memory_format=_LAST)
    ):
        computed = _plainly(input, weight, bias, stride, padding, lists, Follow())
        return remembered.copy_(torch.where(_listed(lists, computed), computed, remembered))
    return _applied(input, weight, bias, _Call(stride, padding, lists, Follow(), shapes), remembered)


def _fields() -> list[tuple[str, Any]]:
    """The fields of native/api.hpp's StanBlock, in its order."""
    numbers = (
        "batch height width channels filters kernel_h kernel_w stride_h stride_w pad_top pad_left out_h out_w entries "
        "shared grid_h grid_w grid_top grid_left relu_before relu_after pool pool_h pool_w pool_stride_h pool_stride_w "
        "pooled_h pooled_w input_planes output_planes input_gradient_planes winograd threads"
    )
    pointers = (
        "input weight bias begins positions sources output winners kept output_gradient input_gradient "
        "weight_gradient bias_gradient"
    )
    return [(name, ctypes.c_int32) for name in numbers.split()] + [(name, ctypes.c_void_p) for name in pointers.split()]


class _StanBlock(ctypes.Structure):
    _fields_ = _fields()


class _Shapes(NamedTuple):
    """What a convolution's shapes determine, asked for again and again.

    Attributes:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, kernel height, kernel width).
        out: rows and columns of the convolution's output.
        places: their product.
        output: of what follows, (B, C_out, H_out, W_out).
        block: a StanBlock with all sizes, without entries, threads and pointers.
    """

    input: tuple[int, ...]
    weight: tuple[int, ...]
    out: tuple[int, int]
    places: int
    output: tuple[int, ...]
    block: _StanBlock


class _Call(NamedTuple):
    """What a pass was asked to do; for the attributes see `convolve`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    lists: Lists | None
    follow: Follow
    shapes: _Shapes


def _native_shapes(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    lists: Lists | None,
    follow: Follow,
) -> _Shapes | None:
    """Return the shapes of a convolution that native code can do, None where it is PyTorch's to do or to refuse."""
    if not suits(input, weight, bias) or not (lists is None or _lists_are_read(lists)):
        return None
    filters = len(weight) if bias is None else tuple(bias.shape)
    shapes = _shapes(input.shape, weight.shape, filters, stride, padding, follow)
    if shapes is not None and lists is not None and not _lists_fit(lists, len(input), shapes.places):
        raise ValueError(
            f"lists of {len(lists.positions)} entries for {tuple(lists.sources.shape)} places are not those of "
            f"{len(input)} images of {shapes.out[0]}x{shapes.out[1]} places"
        )
    return shapes


def _lists_are_read(lists: Lists) -> bool:
    """Tell whether native code can read the lists; an empty one would be taken for that of all entries."""
    return lists.positions.is_cpu and lists.sources.is_cpu and len(lists.positions) > 0


def _lists_fit(lists: Lists, batch: int, places: int) -> bool:
    if lists.begins is None:
        return lists.sources.numel() == places and len(lists.positions) == lists.most
    return len(lists.begins) == batch + 1 and lists.sources.numel() == batch * places


@lru_cache(maxsize=4096)
def _shapes(
    input: tuple[int, ...],
    weight: tuple[int, ...],
    filters: int | tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    follow: Follow,
) -> _Shapes | None:
    """Return what the shapes determine; None where native code was not made for them.

    Args:
        input: its shape.
        weight: its shape.
        filters: how many the weight has, or the bias's shape.
        stride: as in `convolve`.
        padding: as in `convolve`.
        follow: as in `convolve`.
    """
    if len(input) != 4 or len(weight) != 4 or len(stride) != 2 or len(padding) != 4:
        return None
    numbers = (*stride, *padding, *follow.size, *follow.stride)
    if any(type(number) is not int for number in numbers):
        return None
    batch, channels, height, width = input
    kernel = weight[2:]
    if (
        min(*input, *weight) < 1
        or min(*stride, *follow.size, *follow.stride) < 1
        or min(padding) < 0
        or channels != weight[1]
        or filters not in (weight[0], (weight[0],))
    ):
        return None
    left, right, top, bottom = padding
    out = (
        (height + top + bottom - kernel[0]) // stride[0] + 1,
        (width + left + right - kernel[1]) // stride[1] + 1,
    )
    padded = (height + top + bottom) * (width + left + right) * channels
    if min(out) < 1 or max(padded, math.prod(out) * weight[0], math.prod(weight), *numbers) > MOST_NUMBERS:
        return None
    pooled = follow.pooled(*out)
    if min(pooled) < 1:
        return None
    before = follow.relu and follow.pool != "max"  # ReLU and the maximum may change places
    block = _StanBlock(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        filters=weight[0],
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=stride[0],
        stride_w=stride[1],
        pad_top=top,
        pad_left=left,
        out_h=out[0],
        out_w=out[1],
        entries=math.prod(out),
        shared=1,
        grid_h=1,
        grid_w=1,
        relu_before=before,
        relu_after=follow.relu and not before,
        pool=POOLS.index(follow.pool),
        pool_h=follow.size[0],
        pool_w=follow.size[1],
        pool_stride_h=follow.stride[0],
        pool_stride_w=follow.stride[1],
        pooled_h=pooled[0],
        pooled_w=pooled[1],
    )
    return _Shapes(input, weight, out, math.prod(out), (batch, weight[0], *pooled), block)


def _plainly(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    lists: Lists | None,
    follow: Follow,
) -> Tensor:
    """Do as `convolve` in operations of PyTorch, differentiable as often as those; -1 as a source gives any value."""
    left, right, top, bottom = padding
    if (left, top) != (right, bottom):
        input, left, top = F.pad(input, padding), 0, 0
    output = F.conv2d(input, weight, bias, stride, (top, left))
    if lists is not None:
        output = _filled(output, lists)
    if follow.relu:
        output = output.relu()
    if follow.pool == "max":
        return F.max_pool2d(output, follow.size, follow.stride, ceil_mode=follow.ceil)
    if follow.pool == "average":
        return F.avg_pool2d(output, follow.size, follow.stride, ceil_mode=follow.ceil)
    return output


def _filled(output: Tensor, lists: Lists) -> Tensor:
    """Return the listed entries of an output (B, C, H, W) at all places that they fill."""
    places = lists.sources.clamp(min=0).view(-1, output.shape[2] * output.shape[3])
    if lists.begins is not None:
        places = places + lists.begins[:-1, None]
    if not len(lists.positions):
        return output
    # Of each place the one that fills it, in its own image: (B or 1, H * W).
    sources = lists.positions[places.clamp(max=len(lists.positions) - 1)].long().to(output.device)
    index = sources.unsqueeze(1).expand(len(output), output.shape[1], -1)
    return output.flatten(2).gather(2, index).view_as(output)


def _listed(lists: Lists, output: Tensor) -> Tensor:
    """Return which places of an output (B, C, H, W) are filled by an entry, bool (B or 1, 1, H, W)."""
    return (lists.sources >= 0).view(-1, 1, *output.shape[2:]).to(output.device)


class _Orders(NamedTuple):
    """Whether the output, the input's and the weight's gradient are channels last in memory."""

    output: bool
    input: bool
    weight: bool


def _applied(
    input: Tensor, weight: Tensor, bias: Tensor | None, call: _Call, into: Tensor | None, last: bool | None = None
) -> Tensor:
    # Within `forward` nothing has a graph any more.
    wanted = torch.is_grad_enabled()
    natural = is_last(input) or is_last(weight)  # as PyTorch decides for its own
    orders = _Orders(natural if last is None else last, natural, natural if last is None else is_last(weight))
    output: Tensor = _Block.apply(input, weight, bias, call, into, orders, wanted)  # type: ignore[no-untyped-call]
    return output


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        call: _Call,
        into: Tensor | None,
        orders: _Orders,
        wanted: bool,
    ) -> Tensor:
        shapes, follow = call.shapes, call.follow
        filters = len(weight)
        # All of these must live until the library has returned.
        read, read_weight = _in_order(input), weight.contiguous(memory_format=_LAST)
        read_bias = None if bias is None else bias.contiguous()
        # Operations on single numbers, such as ReLU, take what is contiguous in any sense for contiguous.
        output_last = orders.output and not (follow.relu and (filters == 1 or shapes.places == 1))
        output = _empty(shapes.output, output_last) if into is None else into
        winners = kept = None
        if wanted and any(ctx.needs_input_grad[:3]):
            if follow.pool == "max":
                winners = torch.empty_like(output, dtype=torch.int16, memory_format=_LAST)  # read as uint16
            if follow.relu and follow.pool != "max":
                kept = torch.empty(_entries(call, len(input)), filters, dtype=torch.float32, device="cpu")
            # Where ReLU and maximum decide, a second derivative needs to know of the bias. That is all it needs: a copy
            # is as good as the bias, which PyTorch would not look at again.
            ctx.bias = None if bias is None or follow == _NOTHING else bias.detach().clone()
            # Those that were given, not those that were read: autograd then knows when they were changed meanwhile.
            ctx.save_for_backward(input, weight, winners, kept)
            ctx.call, ctx.orders, ctx.biased = call, orders, bias is not None
        block = _described(call)
        block.input, block.weight, block.bias = read.data_ptr(), read_weight.data_ptr(), _pointer(read_bias)
        block.output, block.winners, block.kept = output.data_ptr(), _pointer(winners), _pointer(kept)
        block.input_planes, block.output_planes = _in_planes(read), _in_planes(output)
        loaded().stan_block_forward(ctypes.byref(block))
        if into is not None:
            ctx.mark_dirty(into)
            return into
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Whatever lay between the passes (hooks on saved tensors, checkpoints, other data) shows here.
        input, weight, winners, kept = ctx.saved_tensors
        call: _Call = ctx.call
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not _unchanged(call, input, weight, winners, kept, gradient):
            return (*_plain_gradients(ctx, input, weight, gradient), None, None, None, None)
        # All of these must live until the library has returned.
        read, read_weight = _in_order(input), weight.contiguous(memory_format=_LAST)
        read_gradient = _in_order(gradient)
        kept = None if kept is None else kept.contiguous()
        winners = None if winners is None else winners.contiguous(memory_format=_LAST)
        orders: _Orders = ctx.orders
        of_input = _empty(call.shapes.input, orders.input) if wanted[0] else None
        of_weight = torch.empty_like(weight, memory_format=_LAST) if wanted[1] else None
        of_bias = weight.new_empty(len(weight)) if wanted[2] else None
        block = _described(call)
        block.input, block.weight = read.data_ptr(), read_weight.data_ptr()
        block.output_gradient = read_gradient.data_ptr()
        block.input_planes, block.output_planes = _in_planes(read), _in_planes(read_gradient)
        block.input_gradient_planes = of_input is not None and _in_planes(of_input)
        block.winners, block.kept = _pointer(winners), _pointer(kept)
        block.input_gradient, block.weight_gradient = _pointer(of_input), _pointer(of_weight)
        block.bias_gradient = _pointer(of_bias)
        loaded().stan_block_backward(ctypes.byref(block))
        if of_weight is not None and not orders.weight:
            of_weight = of_weight.contiguous()
        return of_input, of_weight, of_bias, None, None, None, None


_NOTHING = Follow()


def _described(call: _Call) -> _StanBlock:
    """Return a pass with all sizes and lists, and without the tensors of one pass."""
    block = _StanBlock.from_buffer_copy(call.shapes.block)
    block.winograd, block.threads = kernels().winograd, torch.get_num_threads()
    lists = call.lists
    if lists is not None:
        block.entries, block.shared = lists.most, lists.begins is None
        block.grid_h, block.grid_w, block.grid_top, block.grid_left = lists.grid or (0, 0, 0, 0)
        block.positions, block.sources = lists.positions.data_ptr(), lists.sources.data_ptr()
        block.begins = _pointer(lists.begins)
    return block


def _entries(call: _Call, batch: int) -> int:
    """Return how many entries all images have together."""
    lists = call.lists
    if lists is None:
        return batch * call.shapes.places
    return len(lists.positions) if lists.begins is not None else batch * lists.most


def _unchanged(
    call: _Call, input: Tensor, weight: Tensor, winners: Tensor | None, kept: Tensor | None, gradient: Tensor
) -> bool:
    """Tell whether the backward pass was handed what native code can read, of the shapes that the forward pass had."""
    shapes = call.shapes
    return (
        readable(input, weight, kept, gradient)
        and input.shape == shapes.input
        and weight.shape == shapes.weight
        and gradient.shape == shapes.output
        and (kept is None or kept.shape == (_entries(call, len(input)), len(weight)))
        and (
            winners is None
            or (device_of(winners) == "CPU" and winners.dtype is torch.int16 and winners.shape == gradient.shape)
        )
    )


def _plain_gradients(ctx: Any, input: Tensor, weight: Tensor, gradient: Tensor) -> Gradients:
    """Return the gradients of input, weight and bias by autograd's own, which goes through the layer once more."""
    call: _Call = ctx.call
    bias: Tensor | None = ctx.bias
    if bias is None and ctx.biased:
        bias = weight.new_zeros(len(weight))  # of a sum alone the bias does not matter

    def again(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output = _plainly(input, weight, bias, call.stride, call.padding, call.lists, call.follow)
        if call.lists is None:
            return output
        # Remembered entries have no gradient.
        return torch.where(_listed(call.lists, output), output, 0) if call.follow == _NOTHING else output

    return gradients_of(again, (input, weight, bias), ctx.needs_input_grad[:3], gradient)


def _empty(shape: tuple[int, ...], last: bool) -> Tensor:
    # In full: the default dtype and device are the user's.
    order = _LAST if last else torch.contiguous_format
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=order)


def _in_order(tensor: Tensor) -> Tensor:
    """Return a tensor (B, C, H, W) in one of the two orders that native code reads."""
    return tensor if tensor.is_contiguous() else tensor.contiguous(memory_format=_LAST)


def _in_planes(tensor: Tensor) -> bool:
    """Tell whether a tensor in one of the two orders has its channels apart, and not just one of them or one place."""
    return not tensor.is_contiguous(memory_format=_LAST)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def is_last(tensor: Tensor) -> bool:
    """Tell whether PyTorch takes a tensor (B, C, H, W) for channels last: c10's `suggest_memory_format`, by strides."""
    sizes, strides = tensor.shape, tensor.stride()
    least = 0
    if strides[1] == 0:
        return False
    for side in (1, 3, 2, 0):
        stride = strides[side]
        if stride < least or (side == 0 and least == strides[1]):  # the latter are sides of 1, and ambiguous
            return False
        least = stride * sizes[side] if sizes[side] > 1 else stride
    return True


def _windows(length: int, size: int, stride: int, ceil: bool) -> int:
    """Return how many windows a pooling without padding has on a side, as PyTorch counts them."""
    over = length - size
    if not ceil:
        return over // stride + 1
    number = -(-over // stride) + 1
    # The last window must begin inside of the image.
    return number if (number - 1) * stride < length else number - 1
