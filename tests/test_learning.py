"""The short form of the project's targets: real networks on all real images learn as well as they did when measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from stantune.images.problem.built_in import Splits, find
from stantune.stan.config import Stan
from stantune.training.train import run

# The bounds leave a margin over the worst of three seeds (test error in percent, solver's own setting, batches of 100):
# lenet, 300 iterations: exact 2.96, 3.11, 3.59; STAN at 1/2 3.26, 4.26, 4.30; at 1/4 5.21, 5.81, 6.48.
# cq, 200 iterations: exact 53.6, 55.5, 57.3.
LENET_ITERATIONS = 300
CQ_ITERATIONS = 200

Learn = Callable[[Stan | None], float]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a machine with other work to do several threads wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lenet(data_dir: Path) -> Learn:
    splits = find("lenet").load(data_dir, full=True)
    return remembered("lenet", splits, LENET_ITERATIONS)


def remembered(name: str, splits: Splits, iterations: int) -> Learn:
    """Return the test error of a training, which is run once for each setting of STAN."""
    errors: dict[Stan | None, float] = {}

    def learn(stan: Stan | None) -> float:
        if stan not in errors:
            outcome = run(find(name), {}, None, 0, iterations, splits=splits, stan=stan, evaluate=("test",))
            assert outcome.diverged_at is None
            errors[stan] = outcome.metrics["test error"]
        return errors[stan]

    return learn


def test_lenet_learns_mnist(lenet: Learn) -> None:
    assert lenet(None) < 4.8


@pytest.mark.parametrize(("rate", "bound", "margin"), [(0.5, 5.8, 2.5), (0.25, 8.5, 5.0)])
def test_lenet_learns_mnist_under_stan(rate: float, bound: float, margin: float, lenet: Learn) -> None:
    found = lenet(Stan(rate=rate))
    assert found < bound
    assert found < lenet(None) + margin
    # The same number twice would mean that STAN did nothing.
    assert found != lenet(None)


@pytest.mark.slow
def test_cq_learns_cifar10(data_dir: Path) -> None:
    assert remembered("cq", find("cq").load(data_dir, full=True), CQ_ITERATIONS)(None) < 63
