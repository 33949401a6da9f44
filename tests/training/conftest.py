"""Small trainings of the built-in problems: what they are, and run() with all but the checkpoint filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stantune.images.data import Dataset
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.outcome import Outcome
from stantune.stan.config import Stan
from stantune.training.train import run


class Case(NamedTuple):
    """A training, the length of its batches and where it is cut."""

    name: str
    setting: Mapping[str, Any]
    batch_size: int
    stops: tuple[int, ...]
    stan: Stan | None = None
    layers: Mapping[str, str] = {}


CASES = {
    "lenet": Case("lenet", {"lr": 0.005, "conv1_l2": 0.001}, 16, (200, 600)),
    # The cuts fall into the pre-training, behind a refresh and between two reduced iterations.
    "lenet-stan": Case("lenet", {}, 10, (10, 31, 42, 90), Stan(rate=0.25, period=3, pretrain=30, seed=7)),
    "mlp": Case("mlp", {"hidden": 150, "dropout": 0.4, "top_k": 15}, 20, (50, 51, 150)),
    "cq-stan": Case("cq", {"lr": 2e-3}, 8, (9, 20), Stan(rate=0.5, period=None, tail=5, iterations=20)),
    # Cut before, at and behind where the rate changes, and in the middle of a cycle.
    "lenet-rates": Case(
        "lenet",
        {},
        10,
        (9, 20, 33, 50),
        Stan(rate=((0, 0.25), (20, 0.5), (33, 1.0), (41, 0.25)), period=3, pretrain=2, seed=7),
    ),
    # What was chosen under one rate is forgotten where the next one begins.
    "lenet-rates-chosen": Case(
        "lenet",
        {},
        10,
        (14, 21, 22, 40),
        Stan(rate=((0, 0.25), (14, 0.5), (21, 0.25)), period=3, tolerance=0.6, seed=7),
    ),
    "alexlrn": Case("alexlrn", {"lrn_scale": 0.01, "lrn_power": 2.0}, 8, (5, 12)),
    "alexbn": Case("alexbn", {"momentum": 0.7}, 8, (7, 20)),
}
# The cheap one: a perceptron with dropout, 30 iterations of 10 images.
QUICK = Case("mlp", {"hidden": 100, "dropout": 0.5, "top_k": 10}, 10, (30,))


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """All of these trainings are small."""


@pytest.fixture(scope="session")
def cases() -> Mapping[str, Case]:
    """The trainings by name."""
    return CASES


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each of them in turn."""
    return CASES[request.param]


@pytest.fixture(scope="session")
def small(mnist: Dataset, cifar10: Dataset) -> Callable[..., Splits]:
    """A function of a problem: its splits of a few images."""

    def splits(problem: Problem, images: int = 2000, held_out: int = 200) -> Splits:
        dataset = mnist if problem.data == "mnist" else cifar10
        train = dataset.train.take(0, images)
        return Splits(
            train,
            dataset.train.take(images, images + held_out),
            dataset.test.take(0, held_out),
            problem.normalise.fit(train),
            dataset.classes,
        )

    return splits


@pytest.fixture(scope="session")
def trainer(small: Callable[..., Splits]) -> Callable[[Case], Any]:
    """A function of a case: run() with all but the checkpoint and the iterations filled in."""

    def of(case: Case) -> Any:
        problem = replace(find(case.name), batch_size=case.batch_size)
        splits = small(problem)

        def train(checkpoint: Path | None, start: int, stop: int, **more: Any) -> Outcome:
            return run(
                problem,
                case.setting,
                checkpoint,
                start,
                stop,
                splits=splits,
                **{"seed": 3, "stan": case.stan, **more},
            )

        return train

    return of


@pytest.fixture(scope="session")
def quick(trainer: Callable[[Case], Any]) -> Any:
    """The cheap training."""
    return trainer(QUICK)
