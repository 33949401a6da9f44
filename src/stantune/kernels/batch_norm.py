"""Batch norm in training, without learned scale and shift, as one native operation, differentiable once."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stantune.kernels.library import kernels, suits


def fits(x: Tensor, running_mean: Tensor, running_var: Tensor) -> bool:
    """Tell whether `normalise` can take these: float32 on the CPU, (B, C, H, W) in channels-last memory."""
    return (
        suits(x, running_mean, running_var)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > x.shape[1] > 0  # PyTorch's own form has the message for a single position, or for none
        and running_mean.shape == running_var.shape == x.shape[1:2]
        and running_mean.is_contiguous()
        and running_var.is_contiguous()
    )


def normalise(x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps), mean and biased variance of each channel of the batch.

    The running statistics move by `momentum` towards the mean and the unbiased variance, in place, as in F.batch_norm.

    Args:
        x: (B, C, H, W); see `fits`.
        running_mean: (C,), updated.
        running_var: (C,), updated.
        momentum: 0 to 1.
        eps: above 0.

    Returns:
        As x, channels last in memory.
    """
    result: Tensor = _BatchNorm.apply(x, running_mean, running_var, momentum, eps)  # type: ignore[no-untyped-call]
    return result


class _StanBatchNorm(ctypes.Structure):
    """StanBatchNorm of native/api.hpp."""

    _fields_ = [
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("eps", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("mean", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("running_mean", ctypes.c_void_p),
        ("running_var", ctypes.c_void_p),
        ("output_gradient", ctypes.c_void_p),
        ("input_gradient", ctypes.c_void_p),
    ]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float) -> Tensor:
        channels = x.shape[1]
        y = torch.empty_like(x, memory_format=torch.channels_last)
        statistics = torch.empty(2, channels)  # mean, and inverse of the standard deviation
        mean = statistics.data_ptr()
        ctx.save_for_backward(x, statistics)
        norm = _StanBatchNorm(
            rows=x.numel() // channels,
            channels=channels,
            threads=torch.get_num_threads(),
            eps=eps,
            momentum=momentum,
            input=x.data_ptr(),
            output=y.data_ptr(),
            mean=mean,
            inverse=mean + statistics.element_size() * channels,
            running_mean=running_mean.data_ptr(),
            running_var=running_var.data_ptr(),
        )
        ctx.norm = norm
        _library().stan_batch_norm_forward(ctypes.byref(norm))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_input = torch.empty_like(x, memory_format=torch.channels_last)
        norm = ctx.norm
        norm.input, norm.threads = x.data_ptr(), torch.get_num_threads()
        norm.mean = statistics.data_ptr()
        norm.inverse = norm.mean + statistics.element_size() * x.shape[1]
        norm.output_gradient, norm.input_gradient = gradient.data_ptr(), of_input.data_ptr()
        _library().stan_batch_norm_backward(ctypes.byref(norm))
        return of_input, None, None, None, None


def _library() -> ctypes.CDLL:
    library = kernels().library
    assert library is not None, "callers ask library.suits() first"
    return library
