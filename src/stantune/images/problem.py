"""A problem: network, data, space, solver, loss, measure and length, as plain data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.images import data as datasets
from stantune.images.checks import check_data, check_network
from stantune.images.data import Augment, Batches, Dataset, Normalise, Normaliser, Split, hold_out
from stantune.images.data.catalog import describe
from stantune.images.evaluation import measured
from stantune.images.losses import Loss, loss_of
from stantune.images.measures import Measure, measure_of
from stantune.images.solver import Solver
from stantune.objective import Metric
from stantune.space import Space
from stantune.training.trainable import Criterion

SOLVER_PARAMETERS = ("lr", "momentum", "weight_decay")


@dataclass(frozen=True)
class Splits:
    """A problem's data in memory, ready to train.

    Attributes:
        train: what is trained on.
        validation: what a search compares settings by; empty in a full training.
        test: what is looked at once, at the end.
        normaliser: from pixels to what the network sees, fitted to `train`.
        classes: number of classes; None where the targets are none.
    """

    train: Split
    validation: Split
    test: Split
    normaliser: Normaliser
    classes: int | None


@dataclass(frozen=True)
class Problem:
    """What is searched: plain data, so that a user adds one in a file of their own.

    Attributes:
        name: for messages and default directories.
        network: returns a new network; its keyword parameters that the setting names are passed to it.
        data: the name of a built-in data set, a Dataset, or a function from a directory (or None) to one.
        space: the parameters. Each is a keyword of `network`, one of the solver's (lr, momentum, weight_decay), or
            LAYER_l2: the weight decay of one layer.
        solver: optimizer, learning-rate policy and multipliers.
        iterations: N, the length of a whole training.
        batch_size: images in an iteration.
        normalise: from pixels to what the network sees.
        validation: images at the end of the training set that a search holds out.
        full_iterations: length of a training with nothing held out, where that differs from N.
        augment: (images (B, C, H, W), ids (B,), generator) -> images, on training batches alone.
        stan_layers: names of the layers that STAN accelerates, as shell patterns.
        recordable: whether a training step gives a CUDA device the same work whenever STAN computes the same entries:
            the network neither decides in Python what it computes nor waits for the device. Its steps are then recorded
            as CUDA graphs and replayed, which launches them several times faster.

    Raises:
        UsageError: a parameter that neither the network nor the solver takes, one of the network's without a default,
            an unknown data set, or a number that makes no sense.
    """

    name: str
    network: Callable[..., nn.Module]
    data: str | Dataset | Callable[[Path | None], Dataset]
    space: Space
    solver: Solver
    iterations: int
    batch_size: int = 100
    normalise: Normalise = field(default_factory=Normalise)
    validation: int = 10_000
    full_iterations: int | None = None
    augment: Augment | None = None
    stan_layers: tuple[str, ...] = ("*",)
    recordable: bool = False
    loss: str | Callable[..., Tensor] = "cross entropy"
    measure: str | Measure | Callable[[Tensor, Tensor], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "validation", "full_iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"problem {self.name!r}: {name}={value} must be at least 1")
        if isinstance(self.data, str):
            describe(self.data)
        self._measure()
        keywords = inspect.signature(self.network).parameters
        for keyword in keywords.values():
            named = keyword.kind not in (keyword.VAR_POSITIONAL, keyword.VAR_KEYWORD)
            if named and keyword.default is keyword.empty:
                raise UsageError(
                    f"problem {self.name!r}: {_name_of(self.network)} has no default for {keyword.name!r}; give one, "
                    "since a setting may leave parameters out"
                )
        for parameter in self.space:
            if parameter not in keywords and parameter not in SOLVER_PARAMETERS and not parameter.endswith("_l2"):
                raise UsageError(
                    f"problem {self.name!r}: nothing takes the parameter {parameter!r}; name it as a keyword of "
                    f"{_name_of(self.network)}, as lr, momentum, weight_decay, or LAYER_l2"
                )

    def build(self, setting: Mapping[str, Any]) -> nn.Module:
        """Return a new network for a setting, its weights drawn from torch's random state."""
        keywords = inspect.signature(self.network).parameters
        return self.network(**{name: value for name, value in setting.items() if name in keywords})

    def load(self, root: Path | None = None, *, full: bool = False) -> Splits:
        """Return the problem's data, split; with `full` nothing is held out and `validation` is empty.

        Raises:
            DataError: the data are missing or damaged.
            UsageError: fewer images than are to be held out.
        """
        dataset = self._dataset(root)
        train, validation = hold_out(dataset.train, 0 if full else self.validation)
        splits = Splits(train, validation, dataset.test, self.normalise.fit(train), dataset.classes)
        check_network(self.name, self.build, self._loss(), splits.normaliser, train, dataset.classes)
        return splits

    @property
    def metric(self) -> Metric:
        """What settings are compared by."""
        return self.metric_on("validation")

    def metric_on(self, split: str) -> Metric:
        """Return what is measured on "validation" or "test"."""
        return self._measure().metric_on(split)

    def optimizer(self, model: nn.Module, setting: Mapping[str, Any]) -> torch.optim.Optimizer:
        """See Trainable."""
        return self.solver.optimizer(model, setting)

    def set_iteration(self, optimizer: torch.optim.Optimizer, setting: Mapping[str, Any], iteration: int) -> None:
        """See Trainable."""
        self.solver.set_iteration(optimizer, iteration)

    def batches(self, splits: Splits, setting: Mapping[str, Any], seed: int, device: str) -> Batches:
        """See Trainable."""
        return Batches(splits.train, self.batch_size, seed, splits.normaliser, self.augment, device)

    def criterion(self, setting: Mapping[str, Any]) -> Criterion:
        """See Trainable."""
        return self._loss().criterion(0.0)

    def chance_loss(self, splits: Splits) -> float | None:
        """See Trainable."""
        return self._loss().chance(splits.train.targets, splits.classes)

    def evaluate(self, model: nn.Module, splits: Splits, split: str, device: str) -> dict[str, float]:
        """See Trainable."""
        value = measured(model, getattr(splits, split), splits.normaliser, self._measure(), device)
        return {self.metric_on(split).name: value}

    def _loss(self) -> Loss:
        return loss_of(self.loss)

    def _measure(self) -> Measure:
        loss = self._loss()
        return measure_of(loss.measure if self.measure is None else self.measure, loss.function)

    def _dataset(self, root: Path | None) -> Dataset:
        if isinstance(self.data, str):
            return datasets.load(self.data, root)
        dataset = self.data if isinstance(self.data, Dataset) else self.data(root)
        if not isinstance(dataset, Dataset):
            raise UsageError(
                f"problem {self.name!r}: data returned a {type(dataset).__name__}; have it return a Dataset(name, "
                "train, test)"
            )
        return replace(dataset, classes=check_data(self.name, self._loss(), dataset))


def _name_of(network: Callable[..., nn.Module]) -> str:
    return f"{network.__name__}()" if hasattr(network, "__name__") else "the network"
