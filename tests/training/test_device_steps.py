"""Steps that a device makes by itself: tested without one, by a recorder that repeats the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from stantune import Space
from stantune.errors import StanWarning
from stantune.images.data import Split
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.images.resizing import Resize, resized
from stantune.images.solving.solver import Solver
from stantune.kernels.sgd import Sgd
from stantune.training import device_steps
from stantune.training.device_steps import MOST, OFTEN, DeviceSteps
from stantune.training.steps import plain_step
from stantune.training.trainable import Feeding

pytestmark = pytest.mark.usefixtures("one_thread", "no_kernels")


class Repeats:
    """Records a step as a graph does: what Python decides is fixed then. It notes what was asked of it."""

    def __init__(self, optimizer: torch.optim.Optimizer, refuses: bool = False) -> None:
        self.done: list[str] = []
        self._optimizer = optimizer
        self._refuses = refuses

    def run(self, step: Callable[[], None]) -> None:
        self.done.append("run")
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        if self._refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.done.append("record")
        groups = self._optimizer.param_groups
        then = [dict(group) for group in groups]

        def replay() -> None:
            self.done.append("replay")
            now = [dict(group) for group in groups]
            for group, numbers in zip(groups, then, strict=True):
                group.update(numbers)
            step()
            for group, numbers in zip(groups, now, strict=True):
                group.update(numbers)

        return replay


def splits_of(problem: Problem) -> Splits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (90, 28, 28, 1), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (90,), generator=generator))
    return Splits(split, split, split, problem.normalise.fit(split), 10)


class Training:
    """A small LeNet on 90 images, 20 at a time: after four iterations the images come in another order."""

    def __init__(self, solver: Solver | None = None, refuses: bool = False) -> None:
        self.problem = replace(find("lenet"), batch_size=20)
        if solver is not None:
            self.problem = replace(self.problem, solver=solver, space=Space({}))
        torch.manual_seed(0)
        self.model = self.problem.build({})
        self.optimizer = self.problem.optimizer(self.model, {})
        self.batches = self.problem.batches(splits_of(self.problem), {}, 7, "cpu")
        self.step = plain_step(self.model, self.problem.criterion({}), self.optimizer)
        self.prepare = self.problem.scheduled(self.optimizer, {})
        self.recorder = Repeats(self.optimizer, refuses)

    def by_itself(self, *blocks: int) -> Tensor:
        steps = DeviceSteps(self.step, self.batches, self.optimizer, self.prepare, max(blocks), self.recorder)
        losses, first = [], 0
        for count in blocks:
            losses.append(steps(first, count))
            first += count
        return torch.cat(losses)

    def as_written(self, iterations: int) -> Tensor:
        if isinstance(self.optimizer, Sgd):
            self.optimizer.follow()
        losses = []
        for iteration in range(iterations):
            self.prepare(iteration)
            batch = self.batches.at(iteration)
            losses.append(self.step(batch.inputs, batch.targets).detach())
        return torch.stack(losses)

    def weights(self) -> Tensor:
        return torch.cat([each.detach().flatten() for each in self.model.parameters()])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("blocks", [(16,), (1, 1, 1, 13), (5, 11), (16, 16, 3)])
@pytest.mark.parametrize(
    "solver",
    [
        None,
        Solver(kind="sgd", lr=0.01),
        Solver(kind="sgd", lr=0.05, momentum=0.9, policy="cosine"),
        Solver(kind="adam", lr=0.001),
        Solver(kind="adamw", lr=0.001, policy="cosine"),
    ],
    ids=["Caffe's, whose rate falls in every step", "one rate", "cosine", "adam", "adamw, cosine"],
)
def test_they_are_the_steps_as_written(solver: Solver | None, blocks: tuple[int, ...]) -> None:
    mine, its = Training(solver), Training(solver)
    assert torch.equal(mine.by_itself(*blocks), its.as_written(sum(blocks)))
    assert torch.equal(mine.weights(), its.weights())


def test_one_step_is_recorded_and_all_others_replayed() -> None:
    training = Training()
    training.by_itself(16, 4)
    assert training.recorder.done == ["run", "record", *["replay"] * 19]


def test_rates_that_adam_was_recorded_with_are_replayed_alone() -> None:
    training = Training(Solver(kind="adam", lr=0.001, policy="cosine"))
    training.by_itself(16)
    assert training.recorder.done == ["run"] * 16


def test_a_rate_of_nothing_is_another_step() -> None:
    mine, its = Training(), Training()

    def sometimes(training: Training, iteration: int) -> None:
        for group in training.optimizer.param_groups:
            group["lr"], group["momentum"] = 0.01, 0.0 if iteration % 3 == 2 else 0.9
        assert isinstance(training.optimizer, Sgd)
        training.optimizer.send()

    for each in (mine, its):
        each.prepare = partial(sometimes, each)  # type: ignore[assignment]
    assert torch.equal(mine.by_itself(12), its.as_written(12))
    assert torch.equal(mine.weights(), its.weights())
    assert mine.recorder.done.count("record") == 2


def under(rates: Callable[[int], float], iterations: int) -> Training:
    """Train by Adam, whose graphs are good for one rate each, under rates by iteration."""
    training = Training(Solver(kind="adam", lr=0.001))

    def prepare(iteration: int) -> None:
        for group in training.optimizer.param_groups:
            group["lr"] = rates(iteration)

    training.prepare = prepare
    training.by_itself(iterations)
    return training


def test_a_rate_that_stays_is_recorded_after_any_number_of_others() -> None:
    done = under(lambda iteration: 0.001 / (1 + iteration // 20), 160).recorder.done
    assert done.count("record") == 8
    # The first four kinds once, and each of the others until it is worth it.
    assert done.count("run") == 4 + 4 * OFTEN


def test_rates_in_turn_are_hardly_recorded_anew() -> None:
    done = under(lambda iteration: 0.001 / (1 + iteration % (MOST + 1)), 60).recorder.done
    assert done.count("record") == MOST + 1


def test_rates_that_never_come_again_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_steps, "SEEN", 3)
    training = Training(Solver(kind="adam", lr=0.001, policy="cosine"))
    steps = DeviceSteps(training.step, training.batches, training.optimizer, training.prepare, 16, training.recorder)
    steps(0, 16)
    assert training.recorder.done == ["run"] * 16
    assert len(steps._seen) <= 3


def test_what_cannot_be_recorded_is_trained_as_it_is_written() -> None:
    mine, its = Training(refuses=True), Training()
    with pytest.warns(StanWarning, match="cannot be recorded as a CUDA graph and runs as it is written: operation not"):
        losses = mine.by_itself(16)
    assert torch.equal(losses, its.as_written(16))
    assert mine.recorder.done == ["run"] * 16


def test_memory_that_ends_while_a_step_is_recorded_is_told() -> None:
    training = Training()

    def full(step: Callable[[], None]) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    training.recorder.record = full  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        training.by_itself(16)


def test_a_loss_that_is_no_number_is_told_as_it_is() -> None:
    training = Training(Solver(kind="sgd", lr=1e30))
    losses = training.by_itself(16)
    assert math.isfinite(losses[0])
    assert not math.isfinite(losses[-1])


def test_batches_are_gathered_by_their_rows() -> None:
    batches = Training().batches
    assert isinstance(batches, Feeding)
    assert batches.feeds(0)
    rows = batches.rows(2, 5)
    assert rows.shape == (5, 20)
    for row, iteration in zip(rows, range(2, 7), strict=True):
        for mine, its in zip(batches.gathered(row), batches.at(iteration), strict=True):
            assert torch.equal(mine, its)


def test_what_is_augmented_is_not_fed() -> None:
    problem = replace(find("lenet"), augment=lambda images, ids, generator: images)
    assert not problem.batches(splits_of(problem), {}, 0, "cpu").feeds(0)


@pytest.mark.parametrize(("start", "stop", "feeds"), [(0, 5, True), (5, 12, True), (0, 12, False)])
def test_small_images_are_fed_where_all_of_a_segment_are(start: int, stop: int, feeds: bool) -> None:
    problem = replace(find("lenet"), batch_size=20)
    small = resized(problem, Resize.of("1/2:5/12"), 12, start, stop)
    batches: Any = small.batches(splits_of(problem), {}, 0, "cpu")
    assert batches.feeds(start) == feeds
    # Where the checkpoint is lost, it begins anew.
    assert batches.feeds(0) == (stop <= 5)
    for iteration in range(start, stop) if feeds else ():
        gathered = batches.gathered(batches.rows(iteration, 1)[0])
        assert torch.equal(gathered.inputs, batches.at(iteration).inputs)
        assert gathered.inputs.shape[-1] == (14 if iteration < 5 else 28)
