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
from stantune.images.solver import Multiplier, MultiStep, Solver

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


def alexbn(activation: str = "relu") -> nn.Sequential:
    """Return a new "CIFAR-10 full" network with batch norm: images (B, 3, 32, 32) to scores (B, 10).

    Pixels as for `cq`. Batch norm closes each of the three blocks, after activation and pooling; `activation`
    is "relu", or "sigmoid" as in Caffe's file. The convolutions have no bias. Weights are drawn from torch's
    global generator. Raises UsageError for another activation.
    """
    activations: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
    if activation not in activations:
        raise UsageError(f"The activation of alexbn is {activation!r}: take relu or sigmoid.")
    active = activations[activation]
    return nn.Sequential(
        OrderedDict(
            conv1=_conv(3, 32, std=1e-4, bias=False),
            pool1=max_pool(3, 2),
            act1=active(),
            norm1=CaffeBatchNorm2d(32),
            conv2=_conv(32, 32, std=0.01, bias=False),
            act2=active(),
            pool2=average_pool(3, 2),
            norm2=CaffeBatchNorm2d(32),
            conv3=_conv(32, 64, std=0.01, bias=False),
            act3=active(),
            pool3=average_pool(3, 2),
            norm3=CaffeBatchNorm2d(64),
            flatten=nn.Flatten(),
            fc1=_linear(64 * 4 * 4, 10, std=0.01),
        )
    )


def _conv(inputs: int, outputs: int, std: float, bias: bool = True) -> nn.Conv2d:
    return filled(nn.Conv2d(inputs, outputs, 5, padding=2, bias=bias), partial(gaussian_, std=std))


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    return filled(nn.Linear(inputs, outputs), partial(gaussian_, std=std))
