"""The multilayer perceptron of meProp's authors as their C# program trains it, with its solver and loss."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.images.nets.caffe import filled, gaussian_
from stantune.images.solving.solver import Solver
from stantune.stan.layers.meprop import MePropLinear

MEPROP_SOLVER = Solver(kind="adam", lr=1e-3, clip=5.0)
"""Their Adam, whose numbers are the customary ones; each component of the gradient is cut to ±5 before its step."""


def meprop(
    hidden: int = 500,
    hidden_layers: int = 2,
    dropout: float = 0.0,
    top_k: int = 80,
    unified: bool = False,
    sparse_bias: bool = False,
) -> nn.Sequential:
    """Return a new perceptron: images (B, 1, 28, 28), pixels from 0 to 1, to scores (B, 10).

    784 - `hidden_layers` times `hidden` (each meProp with `top_k`, ReLU, dropout) - 10; the output layer is never
    sparsified. top_k = 0, or >= hidden, is ordinary back propagation; `unified` and `sparse_bias` as in MePropLinear.
    Weights are drawn from N(0, 6 / (inputs + outputs)), the second a variance, by torch's global generator; biases are
    zero.

    Raises UsageError for hidden or hidden_layers < 1, dropout outside of [0, 1) or top_k < 0.
    """
    if hidden < 1:
        raise UsageError(f"The hidden layers of meprop have {hidden} neurons: take 1 or more.")
    if hidden_layers < 1:
        raise UsageError(f"meprop has {hidden_layers} hidden layers: take 1 or more.")
    if not 0.0 <= dropout < 1.0:
        raise UsageError(f"The dropout of meprop is {dropout}: take a share from 0 up to, not including, 1.")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = 28 * 28
    for number in range(1, hidden_layers + 1):
        sparse = MePropLinear(inputs, hidden, top_k=top_k, unified=unified, sparse_bias=sparse_bias)
        layers[f"fc{number}"] = _filled(sparse)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"dropout{number}"] = nn.Dropout(dropout)
        inputs = hidden
    layers[f"fc{hidden_layers + 1}"] = _filled(nn.Linear(inputs, 10))
    return nn.Sequential(layers)


def summed_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of outputs, scores (B, 10), and targets, classes (B,): the batch's sum, not its mean."""
    return F.cross_entropy(outputs, targets, reduction="sum")


def _filled(layer: nn.Linear) -> nn.Linear:
    return filled(layer, partial(gaussian_, std=math.sqrt(6.0 / (layer.in_features + layer.out_features))))
