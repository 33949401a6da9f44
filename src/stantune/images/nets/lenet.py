"""LeNet as in Caffe's examples/mnist/lenet_train_test, with its solver."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from stantune.images.nets.caffe import filled, max_pool, xavier_
from stantune.images.solving.solver import Inv, Multiplier, Solver

LENET_SOLVER = Solver(
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    policy=Inv(gamma=1e-4, power=0.75),
    multipliers={"*.bias": Multiplier(lr=2.0)},
)
"""Caffe's examples/mnist/lenet_solver (10 000 iterations there)."""


def lenet() -> nn.Sequential:
    """Return a new LeNet: images (B, 1, 28, 28), pixels times 1/256, to scores (B, 10).

    No ReLU follows the convolutions, as in Caffe's model. Weights are drawn from torch's global generator.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=filled(nn.Conv2d(1, 20, 5), xavier_),
            pool1=max_pool(2, 2),
            conv2=filled(nn.Conv2d(20, 50, 5), xavier_),
            pool2=max_pool(2, 2),
            flatten=nn.Flatten(),
            fc1=filled(nn.Linear(50 * 4 * 4, 500), xavier_),
            relu1=nn.ReLU(),
            fc2=filled(nn.Linear(500, 10), xavier_),
        )
    )
