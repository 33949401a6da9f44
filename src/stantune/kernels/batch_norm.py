"""Batch norm in training, and the ReLU behind it, as one native operation."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.derivatives import gradients_of
from stantune.kernels.gate import readable
from stantune.kernels.library import loaded, suits


def fits(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> bool:
    """Tell whether `normalise` can take these: float32 on the CPU, (B, C, H, W) in channels-last memory."""
    return (
        suits(x, running_mean, running_var, weight, bias)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > x.shape[1] > 0  # PyTorch's own form has the message for a single position, or for none
        and (running_mean is None) == (running_var is None)
        # They have no gradient, and PyTorch says so.
        and not any(each is not None and each.requires_grad for each in (running_mean, running_var))
        and all(
            each is None or (each.shape == x.shape[1:2] and each.is_contiguous())
            for each in (running_mean, running_var, weight, bias)
        )
    )


def normalise(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) · weight + bias, and ReLU of it where that is asked for.

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

    Returns:
        As x, in the memory format that F.batch_norm would give.
    """
    if not fits(x, running_mean, running_var, weight, bias):
        y = F.batch_norm(x, running_mean, running_var, weight, bias, training=True, momentum=momentum, eps=eps)
        return F.relu(y) if relu else y
    result: Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, running_mean, running_var, momentum, eps, relu
    )
    return result


class _StanBatchNorm(ctypes.Structure):
    """StanBatchNorm of native/api.hpp."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("relu", ctypes.c_int32),
        ("eps", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
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
    ) -> Tensor:
        channels = x.shape[1]
        y = torch.empty_like(x, memory_format=_format(x))
        # Mean, and inverse of the standard deviation.
        statistics = torch.empty(2, channels, dtype=torch.float32, device="cpu")
        # The shift's values alone: as in PyTorch, the bias may have changed before the backward pass.
        shift = None if bias is None else bias.detach().clone()
        ctx.save_for_backward(x, statistics, weight, shift)
        ctx.eps, ctx.relu, ctx.bias = eps, relu, bias
        norm = _described(x, statistics, weight, bias, eps, relu)
        norm.momentum, norm.output = momentum, y.data_ptr()
        norm.running_mean, norm.running_var = _address(running_mean), _address(running_var)
        loaded().stan_batch_norm_forward(ctypes.byref(norm))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, statistics, weight, shift = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if (
            torch.is_grad_enabled()
            or not readable(x, statistics, weight, shift, gradient)
            or not x.is_contiguous(memory_format=torch.channels_last)
            or x.shape != gradient.shape
            or statistics.shape != (2, x.shape[1])
            or not all(
                each is None or (each.shape == x.shape[1:2] and each.is_contiguous()) for each in (weight, shift)
            )
        ):

            def again(x: Tensor, weight: Tensor | None, shift: Tensor | None) -> Tensor:
                y = F.batch_norm(x, None, None, weight, shift, training=True, eps=ctx.eps)
                return F.relu(y) if ctx.relu else y

            if ctx.relu and shift is not None:
                # To autograd, what ReLU cuts off depends on the bias, if with a slope of zero.
                shift = torch.where(torch.ones_like(shift, dtype=torch.bool), shift, ctx.bias)
            return (*gradients_of(again, (x, weight, shift), wanted, gradient), None, None, None, None, None)
        gradient, statistics = gradient.contiguous(memory_format=torch.channels_last), statistics.contiguous()
        of_input = torch.empty_like(x, memory_format=_format(x)) if wanted[0] else None
        of_weight = torch.empty_like(weight) if wanted[1] else None
        of_bias = torch.empty_like(shift) if wanted[2] else None
        norm = _described(x, statistics, weight, shift, ctx.eps, ctx.relu)
        norm.output_gradient, norm.input_gradient = gradient.data_ptr(), _address(of_input)
        norm.weight_gradient, norm.bias_gradient = _address(of_weight), _address(of_bias)
        loaded().stan_batch_norm_backward(ctypes.byref(norm))
        return of_input, of_weight, of_bias, None, None, None, None, None


def _described(
    x: Tensor, statistics: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool
) -> _StanBatchNorm:
    channels = x.shape[1]
    mean = statistics.data_ptr()
    return _StanBatchNorm(
        rows=x.numel() // channels,
        channels=channels,
        threads=torch.get_num_threads(),
        relu=relu,
        eps=eps,
        input=x.data_ptr(),
        mean=mean,
        inverse=mean + statistics.element_size() * channels,
        weight=_address(weight),
        bias=_address(bias),
    )


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _format(x: Tensor) -> torch.memory_format:
    # Where a side is 1, both orders may be the same memory.
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
