"""The poolings that native kernels do by themselves: their bits are PyTorch's, in less time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune.kernels.pays import pool_pays
from stantune.kernels.pool import Pool, fits, pooled
from stantune.stan.eligible import pytorchs
from stantune.stan.layers.stand_in import StandIn, not_compiled

# PyTorch's own. Tools replace them.
_DOES = pytorchs(nn.MaxPool2d.forward, nn.AvgPool2d.forward, F.max_pool2d, F.avg_pool2d)


class StanPool2d(StandIn):
    """What both poolings have in common."""

    def is_native(self, input: Tensor) -> bool:
        """Tell whether native kernels are to do this layer for an input (B, C, H, W)."""
        # Asked at each pass of each layer: what is told at once comes first.
        if torch.compiler.is_compiling() or type(input) is not Tensor or input.is_nested or input.dim() != 4:
            return False
        pool = pool_of(self)
        return (
            pool is not None
            and pool_pays(input.numel(), input.shape[1], pool.average)
            and (nn.MaxPool2d.forward, nn.AvgPool2d.forward, F.max_pool2d, F.avg_pool2d) == _DOES
            and fits(input, pool)
        )

    @not_compiled
    def natively(self, input: Tensor) -> Tensor:
        """Return the pooled input, (B, C, H', W'); where `is_native` alone."""
        pool = pool_of(self)
        assert pool is not None, "is_native has asked"
        return pooled(input, pool)


class StanMaxPool2d(StanPool2d, nn.MaxPool2d):
    """An nn.MaxPool2d that native kernels do where they are faster; PyTorch does all else.

    `stantune.accelerate_` turns an nn.MaxPool2d into one in place. What it computes is the same, bit for bit.
    """

    original = nn.MaxPool2d

    def forward(self, input: Tensor) -> Tensor:
        """Return the maxima of the input's windows, (B, C, H', W')."""
        if not isinstance(self, StanMaxPool2d):
            return type(self).forward(self, input)
        return self.natively(input) if self.is_native(input) else super().forward(input)


class StanAvgPool2d(StanPool2d, nn.AvgPool2d):
    """An nn.AvgPool2d that native kernels do where they are faster; PyTorch does all else.

    `stantune.accelerate_` turns an nn.AvgPool2d into one in place. What it computes is the same, bit for bit.
    """

    original = nn.AvgPool2d

    def forward(self, input: Tensor) -> Tensor:
        """Return the averages of the input's windows, (B, C, H', W')."""
        if not isinstance(self, StanAvgPool2d):
            return type(self).forward(self, input)
        return self.natively(input) if self.is_native(input) else super().forward(input)


def pool_of(layer: nn.Module) -> Pool | None:
    """Return what an nn.MaxPool2d or nn.AvgPool2d does, None for what PyTorch may read in another way, or refuse."""
    assert isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)
    size, stride, padding = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding)
    if size is None or stride is None or padding is None or type(layer.ceil_mode) is not bool:
        return None
    if isinstance(layer, nn.MaxPool2d):
        if layer.return_indices or _pair(layer.dilation) != (1, 1):
            return None
        return Pool(False, size, stride, padding, layer.ceil_mode)
    divisor = layer.divisor_override
    if type(layer.count_include_pad) is not bool or not (divisor is None or (type(divisor) is int and divisor > 0)):
        return None
    return Pool(True, size, stride, padding, layer.ceil_mode, layer.count_include_pad, divisor or 0)


def _pair(value: object) -> tuple[int, int] | None:
    """Return rows and columns of a setting; None for what PyTorch may read in another way, or refuse."""
    several = (value, value) if type(value) is int else value
    if isinstance(several, tuple) and len(several) == 2 and all(type(number) is int for number in several):
        return several[0], several[1]
    return None
