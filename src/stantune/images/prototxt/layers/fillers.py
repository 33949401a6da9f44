"""Caffe's fillers that the built-in networks do not need."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Fan = Literal["in", "out", "average"]


def constant_(tensor: Tensor, value: float = 0.0) -> Tensor:
    """Fill `tensor`, of any shape, in place with one value, Caffe's `constant`; return it."""
    return nn.init.constant_(tensor, value)


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Fill `tensor`, of any shape, in place, uniformly distributed on [low, high), Caffe's `uniform`; return it."""
    return nn.init.uniform_(tensor, low, high)


def normal_(tensor: Tensor, mean: float, std: float) -> Tensor:
    """Fill `tensor`, of any shape, in place from N(mean, std²), Caffe's `gaussian` with a mean; return it."""
    return nn.init.normal_(tensor, mean, std)


def fan_xavier_(weight: Tensor, fan: Fan) -> Tensor:
    """Fill `weight` (out, in, ...) from the uniform distribution on ±sqrt(3 / fan), Caffe's `xavier`; return it."""
    bound = math.sqrt(3.0 / _fan(weight, fan))
    return nn.init.uniform_(weight, -bound, bound)


def msra_(weight: Tensor, fan: Fan = "in") -> Tensor:
    """Fill `weight` (out, in, ...) from N(0, 2 / fan), Caffe's `msra`; return it."""
    return nn.init.normal_(weight, 0.0, math.sqrt(2.0 / _fan(weight, fan)))


def unit_ball_(weight: Tensor) -> Tensor:
    """Fill `weight` (out, ...) with numbers of 0 to 1 of sum 1 for each output, Caffe's `positive_unitball`."""
    with torch.no_grad():
        weight.uniform_(0.0, 1.0)
        return weight.div_(weight.flatten(1).sum(1).view(-1, *[1] * (weight.dim() - 1)))


def _fan(weight: Tensor, fan: Fan) -> float:
    # As Caffe counts them: all values by outputs, and by the inputs of a group.
    into, out = weight.numel() / weight.shape[0], weight.numel() / weight.shape[1]
    return {"in": into, "out": out, "average": (into + out) / 2.0}[fan]
