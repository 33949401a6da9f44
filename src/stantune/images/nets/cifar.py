"""The three CIFAR-10 networks of Caffe's examples/cifar10, with their solvers."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from stantune.errors import UsageError
from stantune.images.nets.caffe import (
    CaffeBatchNorm2d,
    WithinChannelLRN,
    average_pool,
    filled,
    gaussian_,
    max_pool,
)
from stantune.images.solving.solver import Multiplier, MultiStep, Solver

CQ_SOLVER = Solver(
    lr=1e-3,
    momentum=0.9,
    weight_decay=4e-3,
    policy=MultiStep((4000,), gamma=0.1),
    multipliers={"*.bias": Multiplier(lr=2.0)},
)
"""Caffe's cifar10_quick_solver (4 000 iterations) and cifar10_quick_solver_lr1 (1 000 more at a tenth)."""

ALEXLRN_SOLVER = Solver(
    lr=1e-3,
    momentum=0.9,
    weight_decay=4e-3,
    policy=MultiStep((60_000, 65_000), gamma=0.1),
    multipliers={
        "conv[12].bias": Multiplier(lr=2.0),
        "fc1.weight": Multiplier(decay=250.0),
        "fc1.bias": Multiplier(lr=2.0, decay=0.0),
    },
)
"""Caffe's cifar10_full_solver (60 000 iterations), _lr1 and _lr2 (5 000 more at a tenth, at a hundredth)."""

ALEXBN_SOLVER = Solver(lr=1e-3, momentum=0.9, multipliers={"fc1.bias": Multiplier(decay=0.0)})
"""Caffe's cifar10_full_sigmoid_solver_bn: no weight decay, a constant rate (`step` with gamma 1)."""


def cq() -> nn.Sequential:
    """Return a new "CIFAR-10 quick" network: images (B, 3, 32, 32) to scores (B, 10).

    Pixels are 0 to 255 minus the training mean image. Weights are drawn from torch's global generator.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=_conv(3, 32, std=1e-4),
            pool1=max_pool(3, 2),
            relu1=nn.ReLU(),
            conv2=_conv(32, 32, std=0.01),
            relu2=nn.ReLU(),
            pool2=average_pool(3, 2),
            conv3=_conv(32, 64, std=0.01),
            relu3=nn.ReLU(),
            pool3=average_pool(3, 2),
            flatten=nn.Flatten(),
            fc1=_linear(64 * 4 * 4, 64, std=0.1),
            fc2=_linear(64, 10, std=0.1),
        )
    )


def alexlrn(lrn_scale: float = 5e-5, lrn_power: float = 0.75) -> nn.Sequential:
    """Return a new "CIFAR-10 full" network: images (B, 3, 32, 32), as for `cq`, to scores (B, 10).

    `lrn_scale` and `lrn_power` are alpha and beta of both within-channel LRN layers. Weights are drawn from
    torch's global generator. Raises UsageError for a negative scale or power.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=_conv(3, 32, std=1e-4),
            pool1=max_pool(3, 2),
            relu1=nn.ReLU(),
            norm1=WithinChannelLRN(lrn_scale, lrn_power),
            conv2=_conv(32, 32, std=0.01),
            relu2=nn.ReLU(),
            pool2=average_pool(3, 2),
            norm2=WithinChannelLRN(lrn_scale, lrn_power),
            conv3=_conv(32, 64, std=0.01),
            relu3=nn.ReLU(),
            pool3=average_pool(3, 2),
            flatten=nn.Flatten(),
            fc1=_linear(64 * 4 * 4, 10, std=0.01),
        )
    )


def alexbn(activation: str = "relu", order: str = "source") -> nn.Sequential:
    """Return a new "CIFAR-10 full" network with batch norm: images (B, 3, 32, 32) to scores (B, 10).

    Pixels as for `cq`. The convolutions have no bias. Weights are drawn from torch's global generator.

    Args:
        activation: "relu", or "sigmoid" as in Caffe's file.
        order: "source": batch norm closes each of the three blocks, after activation and pooling; "caffe": it stands
            before the activation, as in Caffe's file, which pools before both in the first block and after both in
            the others.

    Raises UsageError for another activation or order.
    """
    if activation not in _ACTIVATIONS:
        raise UsageError(f"The activation of alexbn is {activation!r}: take {' or '.join(_ACTIVATIONS)}.")
    if order not in _ORDERS:
        raise UsageError(f"The order of alexbn is {order!r}: take {' or '.join(_ORDERS)}.")
    pools = (max_pool(3, 2), average_pool(3, 2), average_pool(3, 2))
    channels = (3, 32, 32, 64)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (pool, behind, std) in enumerate(zip(pools, _ORDERS[order], (1e-4, 0.01, 0.01), strict=True), 1):
        inputs, outputs = channels[number - 1 : number + 1]
        layers[f"conv{number}"] = _conv(inputs, outputs, std, bias=False)
        made = {"pool": pool, "act": _ACTIVATIONS[activation](), "norm": CaffeBatchNorm2d(outputs)}
        layers |= {f"{kind}{number}": made[kind] for kind in behind}
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = _linear(64 * 4 * 4, 10, std=0.01)
    return nn.Sequential(layers)


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
# What stands behind each of alexbn's three convolutions.
_ORDERS = {
    "source": (("pool", "act", "norm"), ("act", "pool", "norm"), ("act", "pool", "norm")),
    "caffe": (("pool", "norm", "act"), ("norm", "act", "pool"), ("norm", "act", "pool")),
}


def _conv(inputs: int, outputs: int, std: float, bias: bool = True) -> nn.Conv2d:
    return filled(nn.Conv2d(inputs, outputs, 5, padding=2, bias=bias), partial(gaussian_, std=std))


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    return filled(nn.Linear(inputs, outputs), partial(gaussian_, std=std))
