"""Small noisy images in each of which one of four corners is lit, and problems of them that other processes find."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import stantune as st
from stantune.images.data import Dataset, Split

CLASSES = 4
# What `Noting` was shown: whether to be trained, and of what side.
SHOWN: list[tuple[bool, int]] = []


def images(root: Path | None) -> Dataset:
    """Return 120 images to train on and 30 to test on, of 8 by 8 pixels."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        pixels = torch.randint(100, (count, 8, 8, 1), generator=generator)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 60
        return Split(pixels.to(torch.uint8), labels)

    return Dataset("corners", split(120), split(30), CLASSES)


class Noting(nn.Module):
    """Notes what it is shown."""

    def forward(self, input: Tensor) -> Tensor:
        SHOWN.append((self.training, input.shape[-1]))
        return input


def network() -> nn.Module:
    """Return a network that takes images of any side from 3 on."""
    return nn.Sequential(
        Noting(), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, CLASSES),
    )  # fmt: skip


def shifted(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by a pixel or not; has whole images only."""
    assert images.shape[-1] == 8, "augmentations have whole images"
    return images.roll(int(torch.randint(2, (1,), generator=generator)), 3)


CORNERS = st.Problem(
    name="corners",
    network=network,
    data=images,
    space=st.Space({"lr": st.Float(1e-4, 1.0, log=True)}),
    solver=st.Solver(lr=1e-2, momentum=0.9, weight_decay=0.0),
    iterations=27,
    batch_size=10,
    validation=30,
    hold_out="last",
    augment=shifted,
)


class Noise(nn.Module):
    """Adds noise to what is evaluated."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return input
        return input + torch.rand_like(input) + random.random() + np.random.rand()


def drawn_network(width: int = 5) -> nn.Module:
    """Return a network whose weights depend on all random states, and of which one in four cannot be made."""
    if width % 4 == 0:
        raise ValueError(f"no layer is {width} wide")
    net = nn.Sequential(
        nn.Conv2d(1, width, 3), nn.LeakyReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(36 * width, CLASSES), Noise()
    )
    with torch.no_grad():
        net[0].bias += 0.01 * float(np.random.rand()) + 0.01 * random.random()  # type: ignore[union-attr,operator]
    return net


def noisy(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from the generators of the process and not from the given one, as users do."""
    return images + np.random.randn() + random.random() + torch.rand_like(images)


DRAWING = replace(
    CORNERS,
    name="drawing",
    network=drawn_network,
    space=st.Space({"lr": st.Float(1e-5, 1e4, log=True), "width": st.Integer(1, 12)}),
    solver=st.Solver(lr=1e-3, momentum=0.9, weight_decay=0.0),
    augment=noisy,
)
