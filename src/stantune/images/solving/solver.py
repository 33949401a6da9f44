"""How networks are trained: PyTorch's optimizers with Caffe's multipliers, per-layer weight decay and policies."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.images.solving.optimizers import KINDS, SettingError, check_options, kind_of, make, takes, those_that_take
from stantune.images.solving.schedules import (
    Cosine,
    Fixed,
    Inv,
    MultiStep,
    OneCycle,
    Policy,
    Relative,
    Step,
    WarmUp,
    number,
    over,
    policy_of,
)
from stantune.kernels.sgd import Sgd

__all__ = [
    "SOLVER_PARAMETERS",
    "Cosine",
    "Fixed",
    "Inv",
    "MultiStep",
    "Multiplier",
    "OneCycle",
    "Policy",
    "Solver",
    "Step",
    "WarmUp",
]
# What a setting may say of a solver, besides LAYER_l2.
SOLVER_PARAMETERS = (
    "lr",
    "momentum",
    "weight_decay",
    "optimizer",
    "beta1",
    "beta2",
    "nesterov",
    "schedule",
    "warmup",
)
LAYER_DECAY_SUFFIX = "_l2"
# What some optimizers do not take, and which argument of theirs it is.
ARGUMENTS = {"momentum": "momentum", "beta1": "betas", "beta2": "betas", "nesterov": "nesterov"}


@dataclass(frozen=True)
class Multiplier:
    """What a parameter's learning rate and weight decay are multiplied by: Caffe's lr_mult and decay_mult."""

    lr: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        number("The lr multiplier", self.lr)
        number("The decay multiplier", self.decay)


@dataclass(frozen=True, kw_only=True)
class Solver:
    """How a network is trained: the update rule, its numbers, the schedule, and multipliers by parameter name.

    `kind` is one of PyTorch's optimizers by name, such as sgd, adam, adamw, rmsprop, and `options` what else it takes
    (betas, eps, nesterov …). `momentum` and `weight_decay` belong to those that have one. Weight decay is what the
    optimizer makes of it: decoupled in adamw, an L2 term in the gradient in most others. `policy` is a schedule by name
    (fixed, cosine, one-cycle, step, warm-up: each over the whole run) or a policy; `warmup` is the first share of the
    run, in which the rate rises to that of the policy.

    `clip` is a bound: before each step every component of the gradients is cut to ±clip; None cuts nothing.

    `multipliers` maps a glob over parameter names ("*.bias") to a Multiplier; of the globs that match a name
    the first counts, and a name that none matches has 1 and 1.

    Raises UsageError for an unknown kind, option or schedule, a negative or non-finite number, or momentum or weight
    decay where the optimizer has none.
    """

    lr: float
    kind: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    policy: Policy | str = field(default_factory=Fixed)
    multipliers: Mapping[str, Multiplier] = field(default_factory=dict, hash=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    warmup: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", kind_of(self.kind))
        object.__setattr__(self, "policy", policy_of(self.policy))
        for name in ("lr", "momentum", "weight_decay", "warmup"):
            number(f"The solver's {name}", getattr(self, name))
        for name in ("momentum", "weight_decay"):
            if getattr(self, name) and not takes(self.kind, name):
                said, value = name.replace("_", " "), getattr(self, name)
                raise UsageError(f"The solver has a {said} of {value}, but {self.kind} has none: leave it out.")
        if self.clip is not None and not number("The solver's clip", self.clip):
            raise UsageError("The solver's clip is 0 and leaves no gradient: take a bound above 0, or None.")
        check_options(self.kind, self.options)
        multipliers: object = self.multipliers
        if not isinstance(multipliers, Mapping) or not all(
            isinstance(name, str) and isinstance(each, Multiplier) for name, each in multipliers.items()
        ):
            raise UsageError(
                f"The solver's multipliers are {shown(multipliers)}: give a dict of patterns and Multipliers, such as "
                "{'*.bias': Multiplier(lr=2)}."
            )

    def optimizer(self, model: nn.Module, setting: Mapping[str, Any] | None = None) -> torch.optim.Optimizer:
        """Return a PyTorch optimizer for the model's trainable parameters; see `set_iteration`.

        Of `setting`, `optimizer` stands in for the solver's kind, `lr`, `momentum` and `weight_decay` for its numbers,
        `beta1`, `beta2` and `nesterov` for its options; LAYER_l2 (`conv1_l2`) is the weight decay of that layer's own
        parameters, times no multiplier, except that a parameter with a decay multiplier of 0 (a bias that is never
        decayed) stays at 0. Its other entries, such as the network's own, are left alone. Parameters of equal rate and
        decay share a group; groups come in the order of the model.

        Raises SettingError for a negative or non-finite number, what the optimizer does not take, LAYER_l2 of a layer
        that the model lacks, or a glob in `multipliers` that matches no parameter; where nothing of this is a setting's
        doing, since it says nothing of the solver, UsageError.
        """
        with _of_setting(setting or {}):
            return self._optimizer(model, setting or {})

    def _optimizer(self, model: nn.Module, setting: Mapping[str, Any]) -> torch.optim.Optimizer:
        kind = kind_of(setting.get("optimizer", self.kind))
        lr, momentum, decay = (
            number(f"The setting's {name}", setting.get(name, getattr(self, name)))
            for name in ("lr", "momentum", "weight_decay")
        )
        if "weight_decay" not in setting and not takes(kind, "weight_decay"):
            # The solver's own is for those that have one, as its momentum is.
            decay = 0.0
        options = _options(kind, setting, self.options)
        names = [name for name, _ in model.named_parameters()]
        layer_decay = _layer_decay(setting, names)
        for pattern in self.multipliers:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"The solver has a multiplier for {pattern!r}, which matches no parameter: the model has "
                    f"{', '.join(names)}."
                )

        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                multiplier = self._multiplier(name)
                own = layer_decay.get(_layer(name), decay * multiplier.decay) if multiplier.decay else 0.0
                groups.setdefault((lr * multiplier.lr, own), []).append(parameter)
        if not takes(kind, "weight_decay") and any(own for _, own in groups):
            raise UsageError(f"The setting has a weight decay, and {kind} has none: leave it out.")
        # initial_lr and initial_momentum are what set_iteration starts from; they travel in the state_dict.
        param_groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": rate, "weight_decay": own, "initial_lr": rate}
            for (rate, own), parameters in groups.items()
        ]
        if kind == "sgd" and not options.get("nesterov"):
            for group in param_groups:
                group["initial_momentum"] = momentum
        made = make(kind, param_groups, lr, momentum, options)
        if self.clip is not None:
            made.register_step_pre_hook(partial(_clip_gradients, self.clip))
        return made

    def course(self, setting: Mapping[str, Any], length: int) -> Policy:
        """Return the course of the learning rate in a run of `length` iterations.

        Of `setting`, `schedule` (a name) and `warmup` stand in for the solver's own. Raises SettingError where these
        make no sense.
        """
        with _of_setting(setting):
            policy = policy_of(setting.get("schedule", self.policy))
            warmup = setting.get("warmup", self.warmup)
            return over(WarmUp(warmup, policy) if warmup else policy, length)

    def is_relative(self, setting_names: Iterable[str]) -> bool:
        """Tell whether the course depends on the run's length, where settings have these parameters."""
        named = {"schedule", "warmup"} & set(setting_names)
        return bool(named) or self.warmup > 0 or isinstance(self.policy, Relative)

    def set_iteration(self, optimizer: torch.optim.Optimizer, iteration: int, policy: Policy | None = None) -> None:
        """Prepare the optimizer for the step of `iteration`, counted from 0; to be called before each step.

        Every group's lr becomes its initial one times the policy's factor (by default the solver's own policy's). For
        sgd without Nesterov's momentum, momentum is multiplied by lr(i-1) / lr(i): Caffe's velocity
        V = momentum·V + lr·(g + decay·w) carries the rates of its past, while PyTorch's does not and is multiplied by
        the present one, V = lr(i)·v; so scaled, the updates are the same.

        Raises UsageError where the policy gives a factor that is not a finite number above 0.
        """
        policy = policy_of(self.policy) if policy is None else policy
        factor = policy.factor(iteration)
        before = policy.factor(iteration - 1) if iteration > 0 else factor
        if not (math.isfinite(factor) and factor > 0.0):
            raise UsageError(
                f"The learning-rate policy {policy} gives a factor of {factor} at iteration "
                f"{iteration}: it must stay a finite number above 0."
            )
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            if "initial_momentum" in group:
                group["momentum"] = group["initial_momentum"] * (before / factor)
        if isinstance(optimizer, Sgd):
            optimizer.send()

    def _multiplier(self, name: str) -> Multiplier:
        for pattern, multiplier in self.multipliers.items():
            if fnmatchcase(name, pattern):
                return multiplier
        return Multiplier()


def _clip_gradients(bound: float, optimizer: torch.optim.Optimizer, *arguments: object) -> None:
    """Cut the components of all gradients to ±bound, in place: a hook before an optimizer's step."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    nn.utils.clip_grad_value_(parameters, bound)


@contextmanager
def _of_setting(setting: Mapping[str, Any]) -> Iterator[None]:
    """Raise as a SettingError what a setting that says something of the solver cannot have."""
    try:
        yield
    except UsageError as error:
        if any(name in SOLVER_PARAMETERS or name.endswith(LAYER_DECAY_SUFFIX) for name in setting):
            raise SettingError(str(error)) from error
        raise


def _options(kind: str, setting: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's options, a setting's before the solver's own.

    Raises UsageError where a setting has those that the optimizer does not have.
    """
    for name, argument in ARGUMENTS.items():
        if name in setting and not takes(kind, argument):
            raise UsageError(
                f"The setting has {name}, and {kind} does not: leave it out, or have it depend on the optimizer in the "
                f"space, when={{{name!r}: {{'optimizer': …}}}} with {those_that_take(argument)}."
            )
    options = dict(own)
    if "beta1" in setting or "beta2" in setting:
        first, second = own.get("betas", inspect.signature(KINDS[kind]).parameters["betas"].default)
        options["betas"] = setting.get("beta1", first), setting.get("beta2", second)
    if "nesterov" in setting:
        options["nesterov"] = bool(setting["nesterov"])
    return options


def layers_of(parameter_names: Iterable[str]) -> list[str]:
    """Return the names of the modules that hold these parameters."""
    return list(dict.fromkeys(_layer(name) for name in parameter_names))


def _layer(parameter_name: str) -> str:
    """Return the name of the module that holds the parameter."""
    return parameter_name.rpartition(".")[0]


def _layer_decay(setting: Mapping[str, Any], parameter_names: Iterable[str]) -> dict[str, float]:
    """Return the weight decay of each layer for which the setting has a LAYER_l2."""
    layers = layers_of(parameter_names)
    decay = {}
    for key, value in setting.items():
        if key.endswith(LAYER_DECAY_SUFFIX):
            layer = key.removesuffix(LAYER_DECAY_SUFFIX)
            if layer not in layers:
                raise UsageError(
                    f"The setting has {key}, but the model has no layer {layer!r}: take "
                    f"{', '.join(each + LAYER_DECAY_SUFFIX for each in layers)}."
                )
            decay[layer] = number(f"The setting's {key}", value)
    return decay
