"""A tiny task, and the plain loop on it that every callback has to agree with, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stantune import Stan, accelerate_
from stantune.stan import surgery
from stantune.stan.config import LayerPlan
from stantune.stan.planning.plan import Plan
from stantune.stan.planning.timing import ModelTimes


class Task:
    """Five batches of two images; the training has no other random choice than the first weights."""

    images = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10) % 3
    batch = 2
    lr = 0.1

    @staticmethod
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(144, 3)
        )

    @staticmethod
    def grids(model: nn.Module) -> list[object]:
        """What each convolution computes in its next forward pass; None is all."""
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        return [None if type(layer) is nn.Conv2d else layer.grid for layer in layers]

    @staticmethod
    def is_restored(model: nn.Module) -> bool:
        return {type(layer) for layer in model.modules() if isinstance(layer, nn.Conv2d)} == {nn.Conv2d}

    @staticmethod
    def same_weights(one: nn.Module, other: nn.Module) -> bool:
        return all(map(torch.equal, one.parameters(), other.parameters()))

    @classmethod
    def plain(cls, stan: Stan, iterations: int, batch: int = batch) -> tuple[nn.Sequential, list[list[object]]]:
        """Train in the README's own loop; return the model and the grids of each iteration."""
        model = cls.network()
        seen = []
        handle = accelerate_(model, stan, cls.images[:batch])
        optimizer = torch.optim.SGD(model.parameters(), cls.lr)
        for i in range(iterations):
            seen.append(cls.grids(model))
            ids = torch.arange(i * batch, (i + 1) * batch) % len(cls.images)
            handle.visit(ids)
            optimizer.zero_grad()
            cross_entropy(model(cls.images[ids]), cls.labels[ids]).backward()
            optimizer.step()
            handle.step()
        return model, seen


@pytest.fixture
def task(one_thread: None) -> type[Task]:
    """The tiny task, trained on one thread."""
    return Task


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The examples that a planner which is quick and knows its mind was given: blocks in the last convolution."""
    examples: list[Tensor] = []

    def plan_for(model: nn.Module, stan: Stan, example: Tensor, loss: None) -> Plan:
        examples.append(example)
        last = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)][-1]
        plan = LayerPlan(last, ("blocks",))
        concrete = replace(stan, rate=0.25, tolerance=stan.allowed_error, period=3, plan=(plan,))
        return Plan(concrete, ModelTimes((), 0.0, 0), None, {})

    monkeypatch.setattr(surgery, "plan_for", plan_for)
    return examples
