"""A ResNet-8 for CIFAR-10 as a problem, which trains on images of any side: for annealing.py, and to be searched.

stantune train benchmarks/trainings/residual8.py:problem
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stantune import Float, Multiplier, Normalise, Problem, Solver, Space


class Block(nn.Module):
    """Two convolutions and a way around them: (B, I, H, W) to (B, O, H/S, W/S)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.around: nn.Module = nn.Identity()
        if stride != 1:
            self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.around(x))


def network() -> nn.Module:
    """Return a new ResNet-8 (He et al., 2016, n = 1): images (B, 3, H, W) to scores (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def flip(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images (B, 3, H, W); `ids` (B,) are their numbers in the training set."""
    mirrored = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


problem = Problem(
    name="residual8",
    network=network,
    data="cifar10",
    space=Space({"lr": Float(0.001, 1, log=True), "weight_decay": Float(1e-5, 0.01, log=True)}),
    solver=Solver(
        lr=0.1, momentum=0.9, weight_decay=5e-4, policy="cosine", multipliers={"*.bias": Multiplier(decay=0.0)}
    ),
    iterations=3000,
    normalise=Normalise(scale=1 / 64, mean="channel"),
    augment=flip,
)
