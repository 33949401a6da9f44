"""A problem: network, data, space, solver, loss, measure and length, as plain data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from stantune.arguments import truth
from stantune.errors import StantuneError, UsageError, words_of
from stantune.images import data as datasets
from stantune.images.data import Augment, Batches, Dataset, Normalise, Normaliser, Split, hold_out
from stantune.images.data.holding_out import How, are_numbers
from stantune.images.predictor import Inputs
from stantune.images.problem.checks import (
    check_augment,
    check_batch_size,
    check_counted,
    check_data,
    check_judged_test,
    check_measure,
    check_network,
    warn_of_other_classes,
)
from stantune.images.problem.fields import checked_fields, loaded, sees_setting
from stantune.images.problem.space_checks import check_layers, check_space
from stantune.images.solving.evaluation import measured
from stantune.images.solving.losses import Loss, loss_of
from stantune.images.solving.measures import Measure, measure_of, of_classes
from stantune.images.solving.solver import Policy, Solver
from stantune.protocols import Metric
from stantune.space import Space
from stantune.texts import one_line
from stantune.training.trainable import Criterion

# Where nobody says another one.
BATCH_SIZE = 100
# Of splits, what a network that knows nothing has in a loss: each training asks, and it takes a pass over all targets.
_CHANCES: WeakKeyDictionary[Split, dict[object, float | None]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Splits:
    """A problem's data in memory, ready to train.

    Attributes:
        train: what is trained on.
        validation: what a search compares settings by; empty in a full training.
        test: what is looked at once, at the end.
        normaliser: from pixels to what the network sees, fitted to `train`.
        classes: number of classes; None where the targets are none.
        drawn: whether a function's whole numbers, which are no classes, were held out at random; by their size once.
    """

    train: Split
    validation: Split
    test: Split
    normaliser: Normaliser
    classes: int | None
    drawn: bool = False


@dataclass(frozen=True)
class Problem:
    """What is searched: plain data, so that a user adds one in a file of their own.

    Attributes:
        name: for messages and default directories.
        network: returns a new network; its keyword parameters that the setting names are passed to it.
        data: the name of a built-in data set, a Dataset, or a function from a directory (or None) to one.
        space: the parameters. Each is a keyword of `network`, one of the solver's (lr, momentum, weight_decay,
            optimizer, beta1, beta2, nesterov, schedule, warmup), LAYER_l2: the weight decay of one layer, batch_size or
            label_smoothing.
        solver: optimizer, schedule of the learning rate and multipliers.
        iterations: N, the length of a whole training.
        batch_size: samples in an iteration, where the setting does not say; 100, or all where there are fewer.
        normalise: from samples as they are held to what the network sees.
        validation: how many training samples a search holds out, or which share of them (below 1); None: a fifth,
            10 000 at most.
        hold_out: which ones: "stratified": drawn, as many of each class as it has of all, and just drawn where targets
            are numbers; "random"; "first"; or "last". Whole numbers, under a loss of the user's own and no measure by
            name, are classes where there are no more of them than samples held out.
        hold_out_seed: of the drawing.
        full_iterations: length of a training with nothing held out, where that differs from N.
        augment: (images (B, C, H, W), ids (B,), generator) -> images, on training batches alone; with a parameter
            called `setting` it is given that, too.
        stan_layers: names of the layers that STAN accelerates, as shell patterns, where no Stan of the user's says it.
        recordable: whether a training step gives a CUDA device the same work whenever STAN computes the same entries:
            the network neither decides in Python what it computes nor waits for the device. Its steps are then recorded
            as CUDA graphs and replayed, which launches them several times faster.
        loss: what is minimised in training: "cross entropy" (classes, of samples or of pixels), "binary cross entropy"
            (labels of 0 and 1), "mean squared error", "mean absolute error", "huber" (numbers), or a function
            (outputs, targets) -> scalar.
        measure: what settings are compared by: "error", "accuracy", "macro F1", "mean IoU", "loss", "mean squared
            error", "root mean squared error", "mean absolute error", "R2", a Measure, or a function of all outputs and
            targets that is the better the lower it is. None: what suits the loss.
        label_smoothing: of the cross entropy in training, where the setting does not say.
        edition: a number to raise where the same name, space and fields come to train something else than before, so
            that searches and checkpoints from before are not gone on with.
        course: iterations that schedules without times of their own (cosine, one-cycle …) take; None: `iterations`.

    Raises:
        UsageError: a field of another kind; a parameter that neither the network nor the solver takes, or both, or one
            with values that no training takes; a keyword of the network without a default, a network that is no
            function, an unknown data set, a measure of other targets than the loss, or a number that makes no sense.
    """

    name: str
    network: Callable[..., nn.Module]
    data: str | Dataset | Callable[[Path | None], Dataset]
    space: Space
    solver: Solver
    iterations: int
    batch_size: int = BATCH_SIZE
    normalise: Normalise = field(default_factory=Normalise)
    validation: int | float | None = None
    full_iterations: int | None = None
    augment: Callable[..., Tensor] | None = None
    stan_layers: tuple[str, ...] = ("*",)
    recordable: bool = False
    loss: str | Callable[..., Tensor] = "cross entropy"
    measure: str | Measure | Callable[[Tensor, Tensor], Any] | None = None
    label_smoothing: float = 0.0
    hold_out: How = "stratified"
    hold_out_seed: int = 0
    course: int | None = None
    edition: int = 1

    def __post_init__(self) -> None:
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)
        if (self.label_smoothing or "label_smoothing" in self.space) and self._loss().smoothed is None:
            raise UsageError(
                f"problem {self.name!r}: the loss {self._loss().name!r} has no label_smoothing; leave that out"
            )
        check_measure(self.name, self._measure(), self._loss())
        if isinstance(self.network, nn.Module) or not callable(self.network):
            raise UsageError(
                f"problem {self.name!r}: network is a {type(self.network).__name__}, and each training calls it for a "
                "new network; give a function that makes one, network=lambda: …"
            )
        try:
            keywords = inspect.signature(self.network).parameters
        except ValueError:  # of some functions and classes in C nobody knows the parameters
            raise UsageError(
                f"problem {self.name!r}: nobody can tell what {_name_of(self.network)} takes; give a function of your "
                "own that calls it"
            ) from None
        for keyword in keywords.values():
            named = keyword.kind not in (keyword.VAR_POSITIONAL, keyword.VAR_KEYWORD)
            if named and keyword.default is keyword.empty:
                raise UsageError(
                    f"problem {self.name!r}: {_name_of(self.network)} has no default for {keyword.name!r}; give one, "
                    "since a setting may leave parameters out"
                )
        check_space(self.name, self.space, keywords, _name_of(self.network), self.solver.kind)

    def build(self, setting: Mapping[str, Any]) -> nn.Module:
        """Return a new network for a setting, its weights drawn from torch's random state."""
        keywords = inspect.signature(self.network).parameters
        return self.network(**{name: value for name, value in setting.items() if name in keywords})

    def tried(self, setting: Mapping[str, Any]) -> nn.Module:
        """Return a new network before anything trains: raises UsageError where the user's function fails."""
        try:
            return self.build(setting)
        except StantuneError:
            raise
        except Exception as error:
            raise UsageError(
                f"problem {self.name!r}: its network cannot be made ({one_line(words_of(error))}); mend that"
            ) from error

    def load(self, root: Path | None = None, *, full: bool = False) -> Splits:
        """Return the problem's data, split; with `full` nothing is held out and `validation` is empty.

        Raises:
            DataError: the data are missing or damaged.
            UsageError: fewer images than are to be held out, or none that counts, or `full` is neither True nor False.
        """
        dataset = self._dataset(root)
        count = 0 if truth("full", full) else self.validation
        how: How = "random" if self._draws_numbers(dataset) else self.hold_out
        train, validation = hold_out(dataset.train, count, how, self.hold_out_seed)
        held = f"problem {self.name!r}: the targets of the {len(validation)} samples that are held out"
        others = "hold out more of them, or others by `hold_out_seed`"
        check_counted(held, self._loss(), self._measure(), validation.targets, others)
        drawn = self.may_draw_numbers and how != self.hold_out and len(validation) > 0
        splits = Splits(train, validation, dataset.test, self.normalise.fit(train), dataset.classes, drawn)
        check_batch_size(self.name, self.space.get("batch_size"), len(train))
        self._look(splits)
        if self.hold_out in ("first", "last") and self._loss().targets == "classes":
            warn_of_other_classes(self.name, self.hold_out, train.targets, validation.targets)
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

    def scheduled(self, optimizer: torch.optim.Optimizer, setting: Mapping[str, Any]) -> Callable[[int], None]:
        """See Trainable."""
        course = self.course_of(setting)
        return lambda iteration: self.solver.set_iteration(optimizer, iteration, course)

    def batches(self, splits: Splits, setting: Mapping[str, Any], seed: int, device: str) -> Batches:
        """See Trainable."""
        size = self.batch_size_of(setting)
        if size == BATCH_SIZE:
            size = min(size, len(splits.train))
        return Batches(splits.train, size, seed, splits.normaliser, self._augment_for(setting), device)

    def criterion(self, setting: Mapping[str, Any]) -> Criterion:
        """See Trainable."""
        return self._loss().criterion(setting.get("label_smoothing", self.label_smoothing))

    def chance_loss(self, splits: Splits) -> float | None:
        """See Trainable."""
        chance = self._loss().chance
        known = _CHANCES.setdefault(splits.train, {})
        if (chance, splits.classes) not in known:
            known[chance, splits.classes] = chance(splits.train.targets, splits.classes)
        return known[chance, splits.classes]

    def evaluate(self, model: nn.Module, splits: Splits, split: str, device: str) -> dict[str, float]:
        """See Trainable."""
        value = measured(model, getattr(splits, split), splits.normaliser, self._measure(), device)
        return {self.metric_on(split).name: value}

    def inputs(self, splits: Splits) -> dict[str, Any]:
        """See Trainable."""
        return Inputs.of(splits.train.inputs, splits.normaliser, splits.classes).plain()

    @property
    def identity(self) -> Mapping[str, Any]:
        """See Trainable: what may be another from call to call, or was another once, for problems of one name."""
        depends_on: dict[str, Any] = {}
        if self.hold_out != "last":
            # Whole numbers that are no classes were held out by their size once.
            at_random = self._draws_numbers(self.data if isinstance(self.data, Dataset) else None)
            depends_on["hold_out"] = ["random" if at_random else self.hold_out, self.hold_out_seed]
        if self.edition > 1:
            depends_on["edition"] = self.edition
        if self.solver.is_relative(self.space):
            depends_on["course"] = self.course or self.iterations
        return depends_on

    @property
    def may_draw_numbers(self) -> bool:
        """Whether only data that a function loads tell if they are held out by class, or at random."""
        return self.hold_out == "stratified" and not isinstance(self.data, Dataset | str) and not self._classes

    def draws_numbers(self, root: Path | None) -> bool:
        """Load the data, and tell whether whole numbers are drawn at random, since they are no classes; see `load`."""
        return self._draws_numbers(self._dataset(root))

    def _draws_numbers(self, dataset: Dataset | None) -> bool:
        if self.hold_out != "stratified":
            return False
        classes = self._classes
        if isinstance(self.data, str):
            # Built-in data have classes, unless these are taken for numbers.
            return classes is False
        return dataset is not None and are_numbers(dataset.train, self.validation, classes)

    @property
    def _classes(self) -> bool | None:
        """Whether targets that are whole numbers are classes, by the loss or the measure; None where neither says."""
        targets = self._loss().targets
        return of_classes(self._measure()) if targets == "any" else targets != "numbers"

    def lasting(self, iterations: int) -> Problem:
        """Return the problem for trainings of so many iterations: schedules without times of their own take as long."""
        return replace(self, course=iterations) if self.solver.is_relative(self.space) else self

    def course_of(self, setting: Mapping[str, Any]) -> Policy:
        """Return the course of the learning rate."""
        return self.solver.course(setting, self.course or self.iterations)

    def batch_size_of(self, setting: Mapping[str, Any]) -> int:
        """Return the samples in an iteration."""
        return int(setting.get("batch_size", self.batch_size))

    def _augment_for(self, setting: Mapping[str, Any]) -> Augment | None:
        if self.augment is not None and sees_setting(self.augment):
            return partial(self.augment, setting=setting)
        return self.augment

    def shown(self, splits: Splits, setting: Mapping[str, Any] | None = None) -> nn.Module:
        """Return a new network that was shown inputs; raises UsageError where it, the loss or the measure fails."""
        model = check_network(
            self.name,
            lambda: self.tried(setting or {}),
            self._loss(),
            self._measure(),
            splits.normaliser,
            splits.train,
            splits.classes,
            (splits.validation, splits.test),
        )
        check_judged_test(self.name, self._measure(), model, splits.normaliser, splits.validation, splits.test)
        return model

    def _look(self, splits: Splits) -> None:
        """Raise UsageError where the network, the loss, the measure, the solver and the data do not go together."""
        model = self.shown(splits)
        with torch.random.fork_rng([]):
            check_layers(self.name, self.space, inspect.signature(self.network).parameters, self.build, model)
        self.optimizer(model, {})
        if self.augment is not None:
            batches = self.batches(splits, {}, 0, "cpu")
            check_augment(self.name, lambda: batches.at(0), sees_setting(self.augment))

    def _loss(self) -> Loss:
        return loss_of(self.loss)

    def _measure(self) -> Measure:
        loss = self._loss()
        return measure_of(loss.measure if self.measure is None else self.measure, loss)

    def _dataset(self, root: Path | None) -> Dataset:
        if isinstance(self.data, str):
            return datasets.load(self.data, root)
        dataset = self.data if isinstance(self.data, Dataset) else loaded(self.name, self.data, root)
        return replace(dataset, classes=check_data(self.name, self._loss(), self._measure(), dataset))


def _name_of(network: Callable[..., nn.Module]) -> str:
    return f"{network.__name__}()" if hasattr(network, "__name__") else "the network"
