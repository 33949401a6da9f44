"""The batch norm that native kernels do in training, with the ReLU and the maximum pooling that follow it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune.kernels.batch_norm import fits, normalise
from stantune.kernels.pays import norm_pays
from stantune.stan.eligible import pytorchs
from stantune.stan.layers.stand_in import StandIn, not_compiled

# PyTorch's own. Tools replace them.
_DOES = pytorchs(nn.BatchNorm2d.forward, F.batch_norm)


class StanBatchNorm2d(StandIn, nn.BatchNorm2d):
    """An nn.BatchNorm2d that native kernels do in training, where they are faster; PyTorch does all else.

    `stantune.accelerate_` turns an nn.BatchNorm2d into one in place: Parameters, buffers, hooks and names stay what
    they were, and what it computes is the same but for rounding.
    """

    original = nn.BatchNorm2d

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, (B, C, H, W)."""
        if not isinstance(self, StanBatchNorm2d):
            return type(self).forward(self, input)
        return self.followed(input, False, None) if self.is_native(input, False, None) else super().forward(input)

    def is_native(self, input: Tensor, relu: bool, pool: tuple[int, int] | None) -> bool:
        """Tell whether native kernels are to do this layer, and what is behind it, for an input (B, C, H, W)."""
        # Asked at each pass of each layer: what is told at once comes first.
        return (
            self.training
            and not torch.compiler.is_compiling()
            and type(input) is Tensor
            and not input.is_nested
            and input.dim() == 4
            and input.shape[1] == self.num_features
            and norm_pays(input.numel() // max(1, self.num_features), self.num_features, relu, pool is not None)
            and type(self.momentum) is float
            and 0.0 <= self.momentum <= 1.0
            and type(self.eps) is float
            and self.eps > 0.0
            and (nn.BatchNorm2d.forward, F.batch_norm) == _DOES
            and "parametrizations" not in self._modules
            and fits(input, *self._running(), self.weight, self.bias, pool)
        )

    @not_compiled
    def followed(self, input: Tensor, relu: bool, pool: tuple[int, int] | None) -> Tensor:
        """Return the normalised input, (B, C, H, W), or ReLU of it, or its pooling; where `is_native` alone.

        Args:
            input: (B, C, H, W).
            relu: whether ReLU comes next.
            pool: rows and columns of the maximum pooling's windows that comes then, None for none.
        """
        assert self.momentum is not None, "is_native has asked"
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return normalise(input, *self._running(), self.momentum, self.eps, self.weight, self.bias, relu, pool)

    def _running(self) -> tuple[Tensor | None, Tensor | None]:
        return (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
