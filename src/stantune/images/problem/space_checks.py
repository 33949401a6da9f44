"""Which parameters of a problem's space no training could take: known from the space, before anything is drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from stantune.errors import UsageError
from stantune.images.solving.optimizers import kind_of, takes, those_that_take
from stantune.images.solving.schedules import policy_of
from stantune.images.solving.solver import ARGUMENTS, LAYER_DECAY_SUFFIX, SOLVER_PARAMETERS, layers_of
from stantune.parameters import Categorical, Parameter
from stantune.space import Space

# What a setting may say of a training, besides what the network and the solver take.
TRAINING_PARAMETERS = ("batch_size", "label_smoothing")
# Which numbers each may be.
_NO_NEGATIVE = "0 or more"
_SHARE = "from 0 up to, not including, 1"
_UP_TO_ONE = "from 0 to 1"
_NUMBERS = {
    "lr": _NO_NEGATIVE,
    "momentum": _NO_NEGATIVE,
    "weight_decay": _NO_NEGATIVE,
    "beta1": _SHARE,
    "beta2": _SHARE,
    "warmup": _SHARE,
    "label_smoothing": _UP_TO_ONE,
}


def check_space(name: str, space: Space, keywords: Collection[str], network: str, kind: str) -> None:
    """Look at the parameters of a problem's space.

    Args:
        name: the problem's.
        space: what is looked at.
        keywords: those of the network.
        network: what to call the network.
        kind: the solver's optimizer, where the setting does not say.

    Raises:
        UsageError: a parameter that nothing takes, that the network and the solver both take, or a range with values
            that no training can have.
    """
    others = (*SOLVER_PARAMETERS, *TRAINING_PARAMETERS)
    for parameter, values in space.items():
        trains = parameter in others or parameter.endswith(LAYER_DECAY_SUFFIX)
        if parameter in keywords and trains:
            raise UsageError(
                f"problem {name!r}: {parameter} is a keyword of {network} and a parameter of the training, and one "
                f"value would drive both; call the network's by another name, such as net_{parameter}"
            )
        if parameter not in keywords and not trains:
            raise UsageError(
                f"problem {name!r}: nothing takes the parameter {parameter!r}; name it as a keyword of {network}, as "
                f"{', '.join(others)}, or LAYER_l2"
            )
        if trains:
            _check_choices(parameter, values)
            _check_values(name, parameter, values)
    for parameter in space:
        if parameter not in keywords:
            _check_optimizers(name, space, parameter, kind)


def check_layers(name: str, space: Space, keywords: Collection[str], build: Any, model: nn.Module) -> None:
    """Look whether the layers with a decay of their own are there.

    Where the network depends on the setting they need only be in one of those at the ends of the space.

    Raises:
        UsageError: a layer is in none of these networks.
    """
    asked = [each for each in space if each.endswith(LAYER_DECAY_SUFFIX) and each not in space.when]
    layers = _layers(model)
    for place in (0, -1):
        if all(each.removesuffix(LAYER_DECAY_SUFFIX) in layers for each in asked):
            return
        end = {each: _ends(values)[place] for each, values in space.items() if each in keywords}
        if not end:
            break
        active = space.active(end)
        try:
            layers += _layers(build({each: value for each, value in end.items() if each in active}))
        except Exception:
            # Ends of ranges need not go together; what the network makes of them is seen when they are drawn.
            return
    for each in asked:
        layer = each.removesuffix(LAYER_DECAY_SUFFIX)
        if layer not in layers:
            raise UsageError(
                f"problem {name!r}: the space has {each}, but the network has no layer {layer}; take "
                f"{', '.join(f'{known}{LAYER_DECAY_SUFFIX}' for known in dict.fromkeys(layers) if known) or 'none'}"
            )


def _layers(model: nn.Module) -> list[str]:
    return layers_of(name for name, _ in model.named_parameters())


def _ends(values: Parameter) -> tuple[Any, ...]:
    return values.choices if isinstance(values, Categorical) else (values.low, values.high)


def _check_choices(parameter: str, values: Parameter) -> None:
    """Raise UsageError for an optimizer or a schedule that does not exist."""
    for choice in _ends(values):
        if parameter == "optimizer":
            kind_of(choice)
        elif parameter == "schedule":
            policy_of(str(choice))


def _check_values(name: str, parameter: str, values: Parameter) -> None:
    """Raise UsageError for numbers that the training cannot have."""
    wanted = _NUMBERS.get(parameter, _NO_NEGATIVE if parameter.endswith(LAYER_DECAY_SUFFIX) else None)
    if wanted is None:
        return
    for value in _ends(values):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        above = (wanted == _SHARE and value >= 1) or (wanted == _UP_TO_ONE and value > 1) if number else False
        if not number or value < 0 or above:
            raise UsageError(
                f"problem {name!r}: {parameter} {in_words(values)}, and training takes numbers {wanted}; change the "
                "space"
            )


def in_words(values: Parameter) -> str:
    """Say which values a parameter has."""
    if isinstance(values, Categorical):
        return f"is one of {', '.join(map(str, values.choices))}"
    return f"goes from {values.low} to {values.high}"


def _check_optimizers(name: str, space: Space, parameter: str, kind: str) -> None:
    """Raise UsageError where the optimizers that a setting may have do not take the parameter."""
    argument = ARGUMENTS.get(parameter)
    if parameter == "weight_decay" or parameter.endswith(LAYER_DECAY_SUFFIX):
        argument = "weight_decay"
    if argument is None:
        return
    kinds = _kinds_beside(space, parameter, kind)
    lacking = [each for each in kinds if not takes(each, argument)]
    # Where the optimizer is itself a parameter under conditions, not all of these need be possible.
    if not lacking or ("optimizer" in space.when and len(lacking) < len(kinds)):
        return
    raise UsageError(
        f"problem {name!r}: the space has {parameter}, and {', '.join(lacking)} does not take it; leave it out, or "
        f"have it depend on the optimizer, when={{{parameter!r}: {{'optimizer': …}}}} with {those_that_take(argument)}"
    )


def _kinds_beside(space: Space, parameter: str, kind: str) -> list[str]:
    """Return the optimizers that a setting with this parameter may have."""
    choices: Mapping[str, Any] = {}
    if "optimizer" in space:
        choices = {kind_of(choice): choice for choice in _ends(space["optimizer"])}
    kinds = [each for each, choice in choices.items() if parameter in space.without({"optimizer": choice})]
    if "optimizer" not in space or "optimizer" in space.when:
        kinds.append(kind)
    return list(dict.fromkeys(kinds))
