"""What a training needs of what it trains, and of its data: protocols, so that this floor knows nothing of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from stantune.space import Space

Criterion = Callable[[Any, Tensor], Tensor]
"""A loss: (what the network returns, targets) -> a scalar."""


class Batch(Protocol):
    """What an iteration trains on, each with one entry per sample: (B, ...)."""

    @property
    def inputs(self) -> Tensor:
        """What the network sees."""
        ...

    @property
    def targets(self) -> Tensor:
        """What it is to say."""
        ...

    @property
    def ids(self) -> Tensor:
        """The samples' numbers, (B,) int64."""
        ...


class Batches(Protocol):
    """The batches of a training: pure functions of the iteration."""

    def at(self, iteration: int) -> Batch:
        """Return the batch of an iteration, counted from 0."""
        ...


@runtime_checkable
class Feeding(Batches, Protocol):
    """Batches that a device can gather by itself, given the places of their samples."""

    def feeds(self, first: int) -> bool:
        """Tell whether it can from iteration `first` on, with these data and on this device."""
        ...

    def rows(self, first: int, count: int) -> Tensor:
        """Return the samples of the iterations from `first` on, (count, B) int64, on the device."""
        ...

    def gathered(self, rows: Tensor) -> Batch:
        """Return the batch of these samples, (B,) int64, as `at` does, by operations of the device alone."""
        ...


class Splits(Protocol):
    """Data in memory, ready to train; a part may be empty."""

    @property
    def train(self) -> Sized:
        """What is trained on."""
        ...

    @property
    def validation(self) -> Sized:
        """What settings are compared by."""
        ...

    @property
    def test(self) -> Sized:
        """What is looked at once, at the end."""
        ...


class Trainable(Protocol):
    """A problem: how a network for a setting is made, fed, taught and evaluated."""

    @property
    def name(self) -> str:
        """For messages and identities."""
        ...

    @property
    def space(self) -> Space:
        """The parameters."""
        ...

    @property
    def iterations(self) -> int:
        """N, the length of a whole training."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples in an iteration, where the setting does not say."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What else a training's result depends on, in plain values."""
        ...

    @property
    def recordable(self) -> bool:
        """Whether steps may be recorded as CUDA graphs and replayed."""
        ...

    def build(self, setting: Mapping[str, Any]) -> nn.Module:
        """Return a new network, its weights drawn from torch's random state."""
        ...

    def optimizer(self, model: nn.Module, setting: Mapping[str, Any]) -> torch.optim.Optimizer:
        """Return an optimizer for the network."""
        ...

    def scheduled(self, optimizer: torch.optim.Optimizer, setting: Mapping[str, Any]) -> Callable[[int], None]:
        """Return what prepares the optimizer for the step of an iteration, given its number: learning rate and such."""
        ...

    def batches(self, splits: Any, setting: Mapping[str, Any], seed: int, device: str) -> Batches:
        """Return the training batches on a device; the seed decides their order."""
        ...

    def criterion(self, setting: Mapping[str, Any]) -> Criterion:
        """Return the training loss."""
        ...

    def chance_loss(self, splits: Any) -> float | None:
        """Return the loss of a network that knows nothing; None where nobody knows."""
        ...

    def evaluate(self, model: nn.Module, splits: Any, split: str, device: str) -> dict[str, float]:
        """Return what is measured on "validation" or "test", exactly, by its name: "validation error"."""
        ...

    def inputs(self, splits: Any) -> Mapping[str, Any]:
        """Return what the network takes, in plain values and tensors; kept beside weights that are to be used."""
        ...
