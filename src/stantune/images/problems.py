"""A problem: network, data, space, solver and length, by name or from a user's own file."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from stantune.errors import UsageError
from stantune.images import data as datasets
from stantune.images.data import Augment, Batches, Dataset, Normalise, Normaliser, Split, hold_out
from stantune.images.data.catalog import describe
from stantune.images.evaluation import error_percent
from stantune.images.nets import cifar, lenet, mlp
from stantune.images.solver import Solver
from stantune.objective import Metric
from stantune.space import Float, Integer, Space
from stantune.training.trainable import Criterion

SOLVER_PARAMETERS = ("lr", "momentum", "weight_decay")
# Modules that users' files of before import, and where they are now.
MOVED = {f"stantune.{name}": f"stantune.images.{name}" for name in ("data", "nets", "problems", "solver")}


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
        data: the name of a built-in data set, or a function from a directory (or None) to a Dataset.
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
    data: str | Callable[[Path | None], Dataset]
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

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "validation", "full_iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"problem {self.name!r}: {name}={value} must be at least 1")
        if isinstance(self.data, str):
            describe(self.data)
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
        dataset = datasets.load(self.data, root) if isinstance(self.data, str) else self.data(root)
        train, validation = hold_out(dataset.train, 0 if full else self.validation)
        return Splits(train, validation, dataset.test, self.normalise.fit(train), dataset.classes)

    @property
    def metric(self) -> Metric:
        """What settings are compared by."""
        return self.metric_on("validation")

    def metric_on(self, split: str) -> Metric:
        """Return what is measured on "validation" or "test"."""
        return Metric(f"{split} error", unit="%")

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
        return F.cross_entropy

    def chance_loss(self, splits: Splits) -> float:
        """See Trainable."""
        return math.log(splits.classes)

    def evaluate(self, model: nn.Module, splits: Splits, split: str, device: str) -> dict[str, float]:
        """See Trainable."""
        error = error_percent(model, getattr(splits, split), splits.normaliser, device)
        return {self.metric_on(split).name: error}


def _name_of(network: Callable[..., nn.Module]) -> str:
    return f"{network.__name__}()" if hasattr(network, "__name__") else "the network"


def _logarithmic(low: float, high: float, *names: str) -> dict[str, Float]:
    return {name: Float(low, high, log=True) for name in names}


_L2 = ("conv1_l2", "conv2_l2", "conv3_l2", "fc1_l2")
# The second convolution of these networks does more than half of the arithmetic, and its entries can best be spared:
# the others cost CQ more error for less time (docs/stan.md).
_MOST_ARITHMETIC = ("conv2",)
_LESS_MEAN_IMAGE = Normalise(mean="image")

# The spaces are tables 1 to 5 of the source; most of each diverges.
BUILT_IN: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem(
            name="lenet",
            network=lenet.lenet,
            data="mnist",
            space=Space(
                _logarithmic(5e-5, 5, "lr", "conv1_l2", "conv2_l2") | {"momentum": Float(0.001, 0.99, log=True)}
            ),
            solver=lenet.LENET_SOLVER,
            iterations=10_000,
            normalise=Normalise(scale=1 / 256),
            recordable=True,
        ),
        Problem(
            name="cq",
            network=cifar.cq,
            data="cifar10",
            space=Space(_logarithmic(5e-5, 5, "lr", *_L2, "fc2_l2")),
            solver=cifar.CQ_SOLVER,
            iterations=4_000,
            full_iterations=5_000,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
            recordable=True,
        ),
        Problem(
            name="alexlrn",
            network=cifar.alexlrn,
            data="cifar10",
            space=Space(
                _logarithmic(5e-5, 5, "lr", *_L2) | {"lrn_scale": Float(5e-6, 5, log=True), "lrn_power": Float(0.01, 3)}
            ),
            solver=cifar.ALEXLRN_SOLVER,
            iterations=60_000,
            full_iterations=70_000,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
            recordable=True,
        ),
        Problem(
            name="alexbn",
            network=cifar.alexbn,
            data="cifar10",
            space=Space(_logarithmic(5e-5, 5, "lr", "momentum", *_L2)),
            solver=cifar.ALEXBN_SOLVER,
            iterations=60_000,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
            recordable=True,
        ),
        Problem(
            name="mlp",
            network=mlp.mlp,
            data="mnist",
            space=Space({"hidden": Integer(100, 8192), "dropout": Float(0, 0.999), "top_k": Integer(0, 100)}),
            solver=mlp.MLP_SOLVER,
            # 20 epochs of the 50 000 images of a search, and of all 60 000.
            iterations=10_000,
            full_iterations=12_000,
            normalise=Normalise(scale=1 / 255),
            recordable=True,
        ),
    )
}


def find(name: str) -> Problem:
    """Return the built-in problem called `name`, or the one that `FILE.py:ATTRIBUTE` defines.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    file, colon, attribute = name.rpartition(":")
    if not colon:
        near = difflib.get_close_matches(name.lower(), BUILT_IN, n=1, cutoff=0.3)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"no problem is called {name!r}{hint}: there are {', '.join(BUILT_IN)}, or give your own as FILE.py:NAME"
        )
    return _from_file(Path(file), attribute)


def _from_file(path: Path, attribute: str) -> Problem:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give your problem as FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"stantune_problem_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; give your problem as FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    # Registered, so that classes defined in the file can be found again (pickle, dataclasses).
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        del sys.modules[spec.name]
        where = MOVED.get(error.name or "")
        hint = f"; {error.name} is {where} now, so import from there" if where else ""
        raise UsageError(f"{path} cannot be imported: ModuleNotFoundError: {error}{hint}") from error
    except Exception as error:
        del sys.modules[spec.name]
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    problem = getattr(module, attribute, None)
    if not isinstance(problem, Problem):
        have = [key for key, value in vars(module).items() if isinstance(value, Problem)]
        raise UsageError(f"{path} has no Problem called {attribute!r}; it has {', '.join(have) or 'none'}")
    return problem
