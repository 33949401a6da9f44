"""The network that functions of tests accelerate."""

from __future__ import annotations

from torch import nn


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    )
