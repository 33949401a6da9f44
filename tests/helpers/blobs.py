"""A small problem: samples of three classes that overlap, and a layer that tells them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import stantune as st
from stantune.images.data import Dataset, Split


def blobs_problem(samples: int, **others: Any) -> st.Problem:
    """Return the problem with so many samples; `others` are more arguments of a Problem."""

    def blobs(root: Path | None) -> Dataset:
        generator = torch.Generator().manual_seed(0)
        targets = torch.randint(3, (samples,), generator=generator)
        inputs = torch.randn(samples, 4, generator=generator)
        inputs[torch.arange(samples), targets] += 1
        return Dataset("blobs", Split(inputs, targets), Split(inputs[:50], targets[:50]), 3)

    return st.Problem(
        name="blobs",
        network=lambda: nn.Linear(4, 3),
        data=blobs,
        space=st.Space({"lr": st.Float(1e-3, 1, log=True)}),
        solver=st.Solver(lr=0.1),
        iterations=9,
        batch_size=20,
        **others,
    )
