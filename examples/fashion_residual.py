"""A problem of one's own: a small residual network on Fashion-MNIST, with random flips.

    stantune search examples/fashion_residual.py:problem --quick

Everything that a search needs is below: a function that makes the network, an augmentation, and a Problem that puts
them together with a space and a solver. Copy the file and change what you like.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stantune import Categorical, Float, Integer, Multiplier, MultiStep, Normalise, Problem, Solver, Space


class Residual(nn.Module):
    """Two convolutions with batch norm, and a way around them: (B, C, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def network(width: int = 16, pool: str = "max", dropout: float = 0.0) -> nn.Module:
    """Return a new network: images (B, 1, 28, 28) to scores (B, 10).

    The parameters of the space that have these names arrive here; each needs a default. Weights must come from torch's
    global random state, as those of torch's own layers do: stantune seeds it, so that a training can be repeated.
    """
    halve = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}[pool]
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        halve(2),
        Residual(width),
        halve(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        Residual(2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * width, 10),
    )


def flip(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images (B, 1, 28, 28); `ids` (B,) are their numbers in the training set.

    Every random choice comes from the given generator, which depends on the seed and the iteration alone: a training
    that is cut and goes on flips the same images. It is a CPU generator, wherever the images are.
    """
    mirrored = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


problem = Problem(
    name="fashion-residual",
    network=network,
    data="fashion-mnist",
    space=Space(
        {
            "lr": Float(0.001, 1, log=True),
            "momentum": Float(0, 0.99),
            "weight_decay": Float(1e-6, 0.01, log=True),
            "width": Integer(8, 32, log=True),
            "pool": Categorical(("max", "average")),
            "dropout": Float(0, 0.5),
        }
    ),
    # What a setting leaves out is as here; the rate falls to a tenth twice. Biases are not decayed.
    solver=Solver(
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        policy=MultiStep((3_000, 4_500), gamma=0.1),
        multipliers={"*.bias": Multiplier(decay=0.0)},
    ),
    iterations=5_000,
    batch_size=100,
    normalise=Normalise(scale=1 / 128, mean="channel"),
    augment=flip,
)
