"""The operation by native code, forward and backward, as autograd takes it."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stantune.kernels.block.follow import Follow
from stantune.kernels.block.layout import LAST, empty, in_order, in_planes, is_last
from stantune.kernels.block.lists import Lists
from stantune.kernels.block.plain import listed, plainly
from stantune.kernels.block.shapes import Shapes, StanBlock
from stantune.kernels.derivatives import Gradients, gradients_of
from stantune.kernels.gate import device_of, is_somewhere, readable
from stantune.kernels.library import address, kernels, loaded


class Call(NamedTuple):
    """What a pass was asked to do; for the attributes see `convolve`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    lists: Lists | None
    follow: Follow
    shapes: Shapes


class _Orders(NamedTuple):
    """Whether the output, the input's and the weight's gradient are channels last in memory."""

    output: bool
    input: bool
    weight: bool


def applied(
    input: Tensor, weight: Tensor, bias: Tensor | None, call: Call, into: Tensor | None, last: bool | None = None
) -> Tensor:
    """Do a call natively, differentiably; the arguments are those of `convolve`, or with `into` of `convolve_into`.

    Returns:
        (B, C_out, H_out, W_out): `into` where it is given.
    """
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
        call: Call,
        into: Tensor | None,
        orders: _Orders,
        wanted: bool,
    ) -> Tensor:
        shapes, follow = call.shapes, call.follow
        filters = len(weight)
        # All of these must live until the library has returned.
        read, read_weight = in_order(input), weight.contiguous(memory_format=LAST)
        read_bias = None if bias is None else bias.contiguous()
        # Operations on single numbers, such as ReLU, take what is contiguous in any sense for contiguous.
        output_last = orders.output and not (follow.relu and (filters == 1 or shapes.places == 1))
        output = empty(shapes.output, output_last) if into is None else into
        winners = kept = None
        if wanted and any(ctx.needs_input_grad[:3]):
            if follow.pool == "max":
                winners = torch.empty_like(output, dtype=torch.int16, memory_format=LAST)  # read as uint16
            if follow.relu and follow.pool != "max":
                kept = torch.empty(_entries(call, len(input)), filters, dtype=torch.float32, device="cpu")
            # Where ReLU and maximum decide, a second derivative needs to know of the bias: its values as they are now,
            # and what it is to autograd.
            ctx.bias = None if bias is None or follow == _NOTHING else (bias.detach().clone(), bias)
            # Those that were given, not those that were read: autograd then knows when they were changed meanwhile.
            ctx.save_for_backward(input, weight, winners, kept)
            ctx.call, ctx.orders, ctx.biased = call, orders, bias is not None
        block = _described(call)
        block.input, block.weight, block.bias = read.data_ptr(), read_weight.data_ptr(), address(read_bias)
        block.output, block.winners, block.kept = output.data_ptr(), address(winners), address(kept)
        block.input_planes, block.output_planes = in_planes(read), in_planes(output)
        loaded().stan_block_forward(ctypes.byref(block))
        if into is not None:
            ctx.mark_dirty(into)
            return into
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Whatever lay between the passes (hooks on saved tensors, checkpoints, other data) shows here.
        input, weight, winners, kept = ctx.saved_tensors
        call: Call = ctx.call
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not _unchanged(call, input, weight, winners, kept, gradient):
            return (*_plain_gradients(ctx, input, weight, gradient), None, None, None, None)
        # All of these must live until the library has returned.
        read, read_weight = in_order(input), weight.contiguous(memory_format=LAST)
        read_gradient = in_order(gradient)
        kept = None if kept is None else kept.contiguous()
        winners = None if winners is None else winners.contiguous(memory_format=LAST)
        orders: _Orders = ctx.orders
        of_input = empty(call.shapes.input, orders.input) if wanted[0] else None
        of_weight = torch.empty_like(weight, memory_format=LAST) if wanted[1] else None
        of_bias = weight.new_empty(len(weight)) if wanted[2] else None
        block = _described(call)
        block.input, block.weight = read.data_ptr(), read_weight.data_ptr()
        block.output_gradient = read_gradient.data_ptr()
        block.input_planes, block.output_planes = in_planes(read), in_planes(read_gradient)
        block.input_gradient_planes = of_input is not None and in_planes(of_input)
        block.winners, block.kept = address(winners), address(kept)
        block.input_gradient, block.weight_gradient = address(of_input), address(of_weight)
        block.bias_gradient = address(of_bias)
        loaded().stan_block_backward(ctypes.byref(block))
        if of_weight is not None and not orders.weight:
            of_weight = of_weight.contiguous()
        return of_input, of_weight, of_bias, None, None, None, None


_NOTHING = Follow()


def _described(call: Call) -> StanBlock:
    """Return a pass with all sizes and lists, and without the tensors of one pass."""
    block = StanBlock.from_buffer_copy(call.shapes.block)
    block.winograd, block.threads = kernels().winograd, torch.get_num_threads()
    lists = call.lists
    if lists is not None:
        block.entries, block.shared = lists.most, lists.begins is None
        block.grid_h, block.grid_w, block.grid_top, block.grid_left = lists.grid or (0, 0, 0, 0)
        block.positions, block.sources = lists.positions.data_ptr(), lists.sources.data_ptr()
        block.begins = address(lists.begins)
    return block


def _entries(call: Call, batch: int) -> int:
    """Return how many entries all images have together."""
    lists = call.lists
    if lists is None:
        return batch * call.shapes.places
    return len(lists.positions) if lists.begins is not None else batch * lists.most


def _unchanged(
    call: Call, input: Tensor, weight: Tensor, winners: Tensor | None, kept: Tensor | None, gradient: Tensor
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
            or (
                device_of(winners) == "CPU"
                and winners.dtype is torch.int16
                and winners.shape == gradient.shape
                and is_somewhere(winners)
            )
        )
    )


def _plain_gradients(ctx: Any, input: Tensor, weight: Tensor, gradient: Tensor) -> Gradients:
    """Return the gradients of input, weight and bias by autograd's own, which goes through the layer once more."""
    call: Call = ctx.call
    bias: Tensor | None = None
    if ctx.bias is not None:
        # To autograd, what they decide depends on the bias, if with a slope of zero.
        values, own = ctx.bias
        bias = torch.where(torch.ones_like(values, dtype=torch.bool), values, own)
    elif ctx.biased:
        bias = weight.new_zeros(len(weight))  # of a sum alone the bias does not matter

    def again(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output = plainly(input, weight, bias, call.stride, call.padding, call.lists, call.follow)
        if call.lists is None:
            return output
        # Remembered entries have no gradient.
        return torch.where(listed(call.lists, output), output, 0) if call.follow == _NOTHING else output

    return gradients_of(again, (input, weight, bias), ctx.needs_input_grad[:3], gradient)
