"""What kept things have beside their states: settings of an optimizer's groups, modes of a model's modules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Of each group its numbers, by their names.
Groups = list[dict[str, Any]]
# Of "training" by modules and "requires_grad" by parameters, by their names.
Modes = dict[str, dict[str, bool]]


def groups_of(thing: Any) -> Groups:
    """Return the numbers of an optimizer's groups, such as rates and momenta; empty for what has no groups.

    Flags are its own affair: one that says whether it trains belongs to weights that it changed with it.
    """
    groups = getattr(thing, "param_groups", None)
    if isinstance(thing, nn.Module) or not isinstance(groups, list) or not all(type(each) is dict for each in groups):
        return []
    return [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params" and _is_number(value)}
        for group in groups
    ]


def put_groups(thing: Any, groups: Groups) -> None:
    """Make the numbers of an optimizer's groups what they were; tensors remain the same objects."""
    if not groups:
        return
    for group, numbers in zip(thing.param_groups, groups, strict=False):
        for key, value in numbers.items():
            own = group.get(key)
            if isinstance(own, Tensor) and isinstance(value, Tensor):
                with torch.no_grad():
                    own.copy_(value)
            else:
                group[key] = copy.deepcopy(value)


def other_groups(thing: Any, state: Any) -> bool:
    """Tell whether a state is of an optimizer with another number of groups."""
    groups = state.get("param_groups") if isinstance(state, dict) else None
    return isinstance(thing, Optimizer) and isinstance(groups, list) and len(groups) != len(thing.param_groups)


def modes_of(model: nn.Module) -> Modes:
    """Return which modules are in training mode, and which parameters take gradients."""
    return {
        # A frozen scripted module has none.
        "training": {name: module.training for name, module in model.named_modules() if hasattr(module, "training")},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
    }


def modes_beside(model: nn.Module, before: Sequence[Modes]) -> Modes:
    """Return those modes that are others than they were at one of several times; what is new has none."""
    others = {
        kind: {name: mode for name, mode in modes.items() if any(then[kind].get(name, mode) != mode for then in before)}
        for kind, modes in modes_of(model).items()
    }
    return {kind: modes for kind, modes in others.items() if modes}


def put_modes(model: nn.Module, modes: Modes) -> None:
    """Put modes back. Not by train() and eval(), which do more in some modules: what they did is in the state."""
    training, grad = modes.get("training", {}), modes.get("requires_grad", {})
    for name, module in model.named_modules():
        if name in training:
            module.training = training[name]
    for name, parameter in model.named_parameters():
        if name in grad:
            parameter.requires_grad_(grad[name])


def _is_number(value: object) -> bool:
    """Tell whether a setting is a number, or several, such as betas."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_is_number, value))
    return isinstance(value, Tensor | int | float) and not isinstance(value, bool)
