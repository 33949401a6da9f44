"""Batch norm in training, the ReLU behind it and a maximum pooling behind that, as one native operation."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.derivatives import gradients_of
from stantune.kernels.gate import readable
from stantune.kernels.library import address, loaded, suits
from stantune.kernels.pool import belong

# Places of a window: each is a byte, and one of those stands for none.
PLACES = 255
# Of an image's channels, rows and columns: native code counts in 32 bits what up to 64 positions have together.
MOST = 2**24


def fits(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    pool: tuple[int, int] | None = None,
) -> bool:
    """Tell whether `normalise` can take these: float32 on the CPU, (B, C, H, W) in channels-last memory.

    So that a pooled output is channels last, too, the input must not be both that and contiguous. Arguments are those
    of `normalise`: tensors are (C,), all but x.
    """
    return (
        suits(x, running_mean, running_var, weight, bias)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and max(x.shape[1:]) <= MOST
        and x.numel() > x.shape[1] > 0  # PyTorch's own form has the message for a single position, or for none
        and (running_mean is None) == (running_var is None)
        # They have no gradient, and PyTorch says so.
        and not any(each is not None and each.requires_grad for each in (running_mean, running_var))
        and all(
            each is None or (each.shape == x.shape[1:2] and each.is_contiguous())
            for each in (running_mean, running_var, weight, bias)
        )
        and (pool is None or (_parts(x, pool) and not x.is_contiguous()))
    )


def _parts(x: Tensor, pool: tuple[int, int]) -> bool:
    rows, columns = pool
    # A row of a window, too, is counted in 32 bits, with a vector more of channels than there are.
    small = rows * columns <= PLACES and columns * x.shape[1] <= 2 * MOST
    return small and 0 < rows <= x.shape[2] and 0 < columns <= x.shape[3]


def normalise(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    relu: bool = False,
    pool: tuple[int, int] | None = None,
) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) · weight + bias, and ReLU and a pooling of it where those are asked for.

    Mean and biased variance are those of each channel of the batch (Ioffe & Szegedy 2015, algorithm 1). The running
    statistics move by `momentum` towards the mean and the unbiased variance, in place, as in F.batch_norm, which
    computes what does not fit.

    Args:
        x: (B, C, H, W); see `fits`.
        running_mean: (C,), updated; None for none.
        running_var: (C,), updated; None for none.
        momentum: 0 to 1.
        eps: above 0.
        weight: (C,); None for ones.
        bias: (C,); None for zeros.
        relu: whether what is below zero becomes zero.
        pool: rows and columns of windows side by side, each of which becomes its maximum; None for no pooling.

    Returns:
        As x, or (B, C, H', W'), in the memory format that PyTorch's operations would give.
    """
    if not fits(x, running_mean, running_var, weight, bias, pool):
        y = F.batch_norm(x, running_mean, running_var, weight, bias, training=True, momentum=momentum, eps=eps)
        return _followed(y, relu, pool)
    result: Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, running_mean, running_var, momentum, eps, relu, pool
    )
    return result


def _followed(y: Tensor, relu: bool, pool: tuple[int, int] | None) -> Tensor:
    y = F.relu(y) if relu else y
    return y if pool is None else F.max_pool2d(y, pool)


class _StanBatchNorm(ctypes.Structure):
    """StanBatchNorm of native/api.hpp."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("relu", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("pool_h", ctypes.c_int32),
        ("pool_w", ctypes.c_int32),
        ("eps", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("winners", ctypes.c_void_p),
        ("mean", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("running_mean", ctypes.c_void_p),
        ("running_var", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("output_gradient", ctypes.c_void_p),
        ("input_gradient", ctypes.c_void_p),
        ("weight_gradient", ctypes.c_void_p),
        ("bias_gradient", ctypes.c_void_p),
    ]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        relu: bool,
        pool: tuple[int, int] | None,
    ) -> Tensor:
        channels, winners = x.shape[1], None
        if pool is None:
            y = torch.empty_like(x, memory_format=_format(x))
        else:
            y = torch.empty(_shape(x, pool), dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
            if any(ctx.needs_input_grad[:3]):
                winners = torch.empty_like(y, dtype=torch.uint8)
        # Mean, and inverse of the standard deviation.
        statistics = torch.empty(2, channels, dtype=torch.float32, device="cpu")
        # The shift's values alone: as in PyTorch, the bias may have changed before the backward pass.
        shift = None if bias is None else bias.detach().clone()
        ctx.save_for_backward(x, statistics, weight, shift, winners)
        ctx.eps, ctx.relu, ctx.pool, ctx.bias = eps, relu, pool, bias
        norm = _described(x, statistics, weight, bias, eps, relu, pool)
        norm.momentum, norm.output = momentum, y.data_ptr()
        norm.winners = address(winners)
        norm.running_mean, norm.running_var = address(running_mean), address(running_var)
        loaded().stan_batch_norm_forward(ctypes.byref(norm))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, statistics, weight, shift, winners = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        pool: tuple[int, int] | None = ctx.pool
        if (
            torch.is_grad_enabled()
            or not readable(x, statistics, weight, shift, gradient)
            or not x.is_contiguous(memory_format=torch.channels_last)
            or gradient.shape != _shape(x, pool)
            or (pool is not None and not belong(winners, gradient.shape))
            or statistics.shape != (2, x.shape[1])
            or not all(
                each is None or (each.shape == x.shape[1:2] and each.is_contiguous()) for each in (weight, shift)
            )
        ):

            def again(x: Tensor, weight: Tensor | None, shift: Tensor | None) -> Tensor:
                y = F.batch_norm(x, None, None, weight, shift, training=True, eps=ctx.eps)
                return _followed(y, ctx.relu, pool)

            if ctx.relu and shift is not None:
                # To autograd, what ReLU cuts off depends on the bias, if with a slope of zero.
                shift = torch.where(torch.ones_like(shift, dtype=torch.bool), shift, ctx.bias)
            return (*gradients_of(again, (x, weight, shift), wanted, gradient), *[None] * 6)
        gradient, statistics = gradient.contiguous(memory_format=torch.channels_last), statistics.contiguous()
        of_input = torch.empty_like(x, memory_format=_format(x)) if wanted[0] else None
        of_weight = torch.empty_like(weight) if wanted[1] else None
        of_bias = torch.empty_like(shift) if wanted[2] else None
        norm = _described(x, statistics, weight, shift, ctx.eps, ctx.relu, pool)
        norm.winners = address(winners)
        norm.output_gradient, norm.input_gradient = gradient.data_ptr(), address(of_input)
        norm.weight_gradient, norm.bias_gradient = address(of_weight), address(of_bias)
        loaded().stan_batch_norm_backward(ctypes.byref(norm))
        return of_input, of_weight, of_bias, *[None] * 6


def _shape(x: Tensor, pool: tuple[int, int] | None) -> tuple[int, ...]:
    return tuple(x.shape) if pool is None else (*x.shape[:2], x.shape[2] // pool[0], x.shape[3] // pool[1])


def _described(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
    pool: tuple[int, int] | None,
) -> _StanBatchNorm:
    _, channels, height, width = x.shape
    pool_h, pool_w = pool or (0, 0)
    mean = statistics.data_ptr()
    return _StanBatchNorm(
        rows=x.numel() // channels,
        channels=channels,
        threads=torch.get_num_threads(),
        relu=relu,
        height=height,
        width=width,
        pool_h=pool_h,
        pool_w=pool_w,
        eps=eps,
        input=x.data_ptr(),
        mean=mean,
        inverse=mean + statistics.element_size() * channels,
        weight=address(weight),
        bias=address(bias),
    )


def _format(x: Tensor) -> torch.memory_format:
    # Where a side is 1, both orders may be the same memory.
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
