"""The multilayer perceptron of the meProp study, with its solver."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from stantune.errors import UsageError
from stantune.images.solving.solver import Solver
from stantune.stan.layers.meprop import MePropLinear

MLP_SOLVER = Solver(kind="adam", lr=1e-3)
"""Adam with its customary settings, as in the meProp study (Sun et al., 2017)."""


def mlp(
    hidden: int = 500, dropout: float = 0.0, top_k: int = 0, unified: bool = False, sparse_bias: bool = False
) -> nn.Sequential:
    """Return a new perceptron with one hidden layer: images (B, 1, 28, 28) to scores (B, 10).

    784 - `hidden` (meProp with `top_k`, ReLU, dropout) - 10; the output layer is never sparsified. top_k = 0, or >=
    hidden, is ordinary back propagation; `unified` and `sparse_bias` as in MePropLinear. The source names no filler:
    weights and biases have PyTorch's default for nn.Linear, uniform in ±1/sqrt(fan_in), drawn from torch's global
    generator.

    Raises UsageError for hidden < 1, dropout outside of [0, 1) or top_k < 0.
    """
    if hidden < 1:
        raise UsageError(f"The hidden layer of mlp has {hidden} neurons: take 1 or more.")
    if not 0.0 <= dropout < 1.0:
        raise UsageError(f"The dropout of mlp is {dropout}: take a share from 0 up to, not including, 1.")
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=MePropLinear(28 * 28, hidden, top_k=top_k, unified=unified, sparse_bias=sparse_bias),
            relu1=nn.ReLU(),
            dropout1=nn.Dropout(dropout),
            fc2=nn.Linear(hidden, 10),
        )
    )
