"""Caffe's fillers and layers where they differ from PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stantune.errors import UsageError
from stantune.kernels import batch_norm, lrn
from stantune.kernels.library import suits

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def xavier_(weight: Tensor) -> Tensor:
    """Fill `weight` (out, in, ...) in place from the uniform distribution on ±sqrt(3 / fan_in); return it.

    This is Caffe's `xavier` filler; PyTorch's `xavier_uniform_` counts fan_out too. Draws from torch's global
    generator.
    """
    fan_in = weight[0].numel()
    bound = math.sqrt(3.0 / fan_in)
    return nn.init.uniform_(weight, -bound, bound)


def gaussian_(weight: Tensor, std: float) -> Tensor:
    """Fill `weight` of any shape in place from N(0, std²), Caffe's `gaussian` filler; return it.

    Draws from torch's global generator.
    """
    return nn.init.normal_(weight, 0.0, std)


def filled(
    layer: Layer, filler: Callable[[Tensor], Tensor], bias: Callable[[Tensor], Tensor] = nn.init.zeros_
) -> Layer:
    """Return `layer` with its weight filled by `filler` and its bias, if any, by `bias`: zero, Caffe's default."""
    filler(layer.weight)
    if layer.bias is not None:
        bias(layer.bias)
    return layer


def max_pool(size: int, stride: int) -> nn.MaxPool2d:
    """Caffe's max pooling, (B, C, H, W) to (B, C, ceil((H - size) / stride) + 1, same for W).

    Raises UsageError where stride > size: Caffe's last window could then lie outside of the image.
    """
    _check_pool(size, stride)
    return nn.MaxPool2d(size, stride, ceil_mode=True)


def average_pool(size: int, stride: int) -> nn.AvgPool2d:
    """Caffe's average pooling, (B, C, H, W) to (B, C, ceil((H - size) / stride) + 1, same for W).

    A window that is clipped by the border is divided by its clipped size. Raises UsageError where stride >
    size.
    """
    _check_pool(size, stride)
    return nn.AvgPool2d(size, stride, ceil_mode=True)


def _check_pool(size: int, stride: int) -> None:
    if not 1 <= stride <= size:
        raise UsageError(f"A pooling stride of {stride} does not suit windows of {size}: take 1 to {size}.")


class _WithinChannelLRN(torch.autograd.Function):
    """y = x · d^-power with d = 1 + scale · mean(x²), and its exact gradient.

    Written out by hand because autograd's own backward of `pow` evaluates a second power; this form takes
    about half the time in channels_last. The mean always divides by the whole window, so that the operation
    is its own adjoint: dL/dx = g·d^-power - 2·scale·power · x · mean(g·x·d^(-power-1)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, power: float, size: int) -> Tensor:
        d = F.avg_pool2d(x * x, size, 1, size // 2).mul_(scale).add_(1.0)
        factor = d.log().mul_(-power).exp_()
        ctx.save_for_backward(x, d, factor)
        ctx.scale, ctx.power, ctx.size = scale, power, size
        return x * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, d, factor = ctx.saved_tensors
        direct = grad * factor
        through_mean = F.avg_pool2d((direct * x).div_(d), ctx.size, 1, ctx.size // 2)
        return direct.addcmul_(through_mean, x, value=-2.0 * ctx.scale * ctx.power), None, None, None


class WithinChannelLRN(nn.Module):
    """Caffe's local response normalisation WITHIN_CHANNEL, (B, C, H, W) to the same shape.

    y = x · (1 + scale · mean of x² over the size x size window)^-power; the window is padded with zeros and
    the mean is always over size² positions, padding counted. `scale` is Caffe's alpha, `power` its beta. Much
    faster in channels_last than in contiguous format on a CPU. Without native kernels differentiable once.

    Raises UsageError for a negative or non-finite scale or power, or an even size.
    """

    def __init__(self, scale: float = 5e-5, power: float = 0.75, size: int = 3) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("power", power)):
            if not (math.isfinite(value) and value >= 0.0):
                raise UsageError(f"The {name} of an LRN layer is {value}: take a finite number of 0 or more.")
        if size < 1 or size % 2 == 0:
            raise UsageError(f"The size of an LRN layer's window is {size}: take an odd number of 1 or more.")
        self.scale = scale
        self.power = power
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        if suits(x) and x.dim() == 4:
            return lrn.normalise(x, self.scale, self.power, self.size)
        # PyTorch leaves apply without types.
        y: Tensor = _WithinChannelLRN.apply(x, self.scale, self.power, self.size)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        """Give the settings for the module's printed form."""
        return f"scale={self.scale}, power={self.power}, size={self.size}"


class CaffeBatchNorm2d(nn.Module):
    """Caffe's BatchNorm layer, (B, C, H, W) to the same shape: no learned scale and shift.

    Training normalises by the batch's own mean and (biased) variance. Evaluation uses moving averages over
    the training batches, the variance unbiased, in which batch k of n weighs fraction^(n-k), divided by the
    sum of those weights (Caffe's scale factor): unlike PyTorch's they do not lean towards 0 and 1 in the
    beginning. The buffers hold the undivided averages; the division takes place in evaluation. Before the
    first training batch they are zero, as in Caffe.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, fraction: float = 0.999) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.fraction = fraction
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.zeros(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W); in training mode, take it into the moving averages too."""
        if self.training:
            self.num_batches_tracked.add_(1)
            momentum = 1.0 - self.fraction
            if batch_norm.fits(x, self.running_mean, self.running_var):
                return batch_norm.normalise(x, self.running_mean, self.running_var, momentum, self.eps)
            return F.batch_norm(x, self.running_mean, self.running_var, training=True, momentum=momentum, eps=self.eps)
        # The weights sum to 1 - fraction^n; written with expm1 since that is a difference of near-equal
        # numbers at first. All on the device, so that no training step ever waits for a counter.
        total = -torch.expm1(self.num_batches_tracked.to(self.running_mean) * math.log(self.fraction))
        total = torch.where(total > 0.0, total, 1.0)
        return F.batch_norm(x, self.running_mean / total, self.running_var / total, eps=self.eps)

    def extra_repr(self) -> str:
        """Give the settings for the module's printed form."""
        return f"{self.channels}, eps={self.eps}, fraction={self.fraction}"
