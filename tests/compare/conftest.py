"""A problem that is compared in no time, and trials that write down their turns or have a clock of their own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stantune.images.problem.problem
import stantune.training.planning
from stantune.compare.comparison import Comparer, Comparison
from stantune.compare.turns import Training
from stantune.images.data import Dataset, Split
from stantune.images.problem.built_in import Problem
from stantune.images.solving.solver import MultiStep, Solver
from stantune.outcome import Cost
from stantune.parameters import Float
from stantune.seeds import derive
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.training.train import run
from stantune.training.trial import Trial


def noise(root: Path | None) -> Dataset:
    """Return 80 training and 40 test images of noise, 8x8, in 3 classes."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(256, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
        return Split(pixels, torch.randint(3, (count,), generator=generator), torch.arange(count))

    return Dataset("noise", split(80), split(40), 3)


def network() -> nn.Module:
    """A convolution, and dropout: its draws must not depend on whose turn it was before."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 3), nn.Dropout(0.1)
    )


class Bench:
    """What is compared unless a test says otherwise: 40 iterations of `problem`, exact and with each of `stans`."""

    problem = Problem(
        "noise",
        network,
        noise,
        Space({"lr": Float(1e-6, 1.0, log=True)}),
        Solver(lr=1e-4, momentum=0.9, policy=MultiStep((30,), 0.5)),
        iterations=40,
        batch_size=8,
        validation=20,
        hold_out="last",
    )
    stans = {"0.5": Stan(rate=0.5, period=3), "0.25": Stan(rate=0.25, period=None, pretrain=7)}  # noqa: RUF012

    def __init__(self) -> None:
        self.splits = self.problem.load()

    def comparer(self, **more: Any) -> Comparer:
        given = {"problem": self.problem, "setting": {}, "stans": self.stans, "iterations": 40, "splits": self.splits}
        return Comparer(**{**given, **more})

    def compared(self, seeds: int = 2, equal_time: bool = False, **more: Any) -> Comparison:
        comparison = self.comparer(**more).compare(seeds, equal_time)
        assert comparison is not None
        return comparison

    def with_network(self, network: Callable[[], nn.Module]) -> Bench:
        """Return the same with another network."""
        other = Bench()
        other.problem = replace(self.problem, network=network)
        return other

    def alone(self, seed: int, stan: Stan | None, precision: str | None = None) -> float:
        """Return the test error of one of the trainings, by itself."""
        outcome = run(
            self.problem,
            {},
            None,
            0,
            40,
            splits=self.splits,
            seed=derive("train", seed),
            stan=stan,
            evaluate=("test",),
            precision=precision,
        )
        return outcome.metrics["test error"]

    def errors(self, trainings: Sequence[Training]) -> list[float | None]:
        return [training.test_error for training in trainings]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(stantune.training.planning, "SECONDS", 0.0)
    monkeypatch.setattr(stantune.training.planning, "CHECKED_SECONDS", 0.0)


@pytest.fixture(scope="session")
def bench() -> Bench:
    """What is compared."""
    return Bench()


class _Drawing(nn.Module):
    """Draws from Python's and NumPy's generators in training, and from torch's, too, in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        drawn = input * random.uniform(0.5, 1.5) + float(np.random.rand())
        return drawn if self.training else drawn + 100 * torch.rand_like(input)


@pytest.fixture(scope="session")
def drawing(bench: Bench) -> Bench:
    """What is compared, of a network that draws from all generators of the process."""
    return bench.with_network(lambda: nn.Sequential(_Drawing(), *network()))


def digest(model: nn.Module) -> float:
    """Return a number that tells any two sets of weights apart."""
    state = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return float(int.from_bytes(hashlib.sha256(state).digest()[:6], "big"))


@pytest.fixture
def errors_are_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the error of a model the digest of its weights, bit for bit."""
    monkeypatch.setattr(stantune.images.problem.problem, "measured", lambda model, *rest: digest(model))


class Timed(Trial):
    """A trial on a clock of its own: an exact training takes 3 s an iteration, STAN's rate · 4 s."""

    def train(self, *arguments: Any) -> tuple[bool, bool]:
        ended = super().train(*arguments)
        each = 3.0 if self.handle is None else 4.0 * float(self.handle.stan.rate)
        self.cost = Cost(self.iteration, each * self.iteration)
        return ended


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all trials Timed."""
    monkeypatch.setattr(stantune.compare.turns, "Trial", Timed)


class Recorded(Trial):
    """A trial that writes down its turns: rate (1 for exact), first and last iteration; and its reduced iterations."""

    turns: list[tuple[float, int, int]] = []  # noqa: RUF012  (emptied by the fixture)
    reduced: list[int] = []  # noqa: RUF012

    def train(self, *arguments: Any) -> tuple[bool, bool]:
        start = self.iteration
        ended = super().train(*arguments)
        self.turns.append((1.0 if self.handle is None else float(self.handle.stan.rate), start, self.iteration))
        self.reduced.append(self.cost.reduced)
        return ended


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    """The class that all trials are of."""
    Recorded.turns.clear()
    Recorded.reduced.clear()
    monkeypatch.setattr(stantune.compare.turns, "Trial", Recorded)
    return Recorded


@pytest.fixture
def turns(recorded: type[Recorded]) -> list[tuple[float, int, int]]:
    """What the trials wrote."""
    return recorded.turns
