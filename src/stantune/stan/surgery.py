"""accelerate_ and restore_: put STAN into a model, in place, and take it out again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from stantune.errors import NoEffectWarning, UsageError
from stantune.stan.config import Stan
from stantune.stan.entries import Pattern, draw_grid
from stantune.stan.layers import StanConv2d
from stantune.stan.schedule import Phase


class LayerReport(NamedTuple):
    """What became of one convolution.

    Attributes:
        name: its first name in the model ("" for the model itself).
        patterns: the grids that its reduced iterations draw from, none where it is left alone.
        reason: why it is left alone, "" where it is not.
    """

    name: str
    patterns: tuple[Pattern, ...]
    reason: str


class StanHandle:
    """Moves an accelerated model through its schedule; `step()` once per training iteration.

    Attributes:
        stan: the settings.
        report: what became of each convolution of the model, in the model's order.
        iteration: the training iteration that the next forward pass belongs to, from 0.
    """

    def __init__(self, stan: Stan, layers: list[StanConv2d], report: tuple[LayerReport, ...]) -> None:
        self.stan = stan
        self.report = report
        self.iteration = 0
        self._layers = layers
        self.seek(0)

    @property
    def phase(self) -> Phase:
        """The phase of the present iteration; always exact where no layer was changed."""
        return self.stan.schedule.phase(self.iteration) if self._layers else Phase.EXACT

    def step(self) -> None:
        """Go on to the next iteration: call it once per iteration, where a learning-rate scheduler would be."""
        self.seek(self.iteration + 1)

    def seek(self, iteration: int) -> None:
        """Go to any iteration; what the layers then compute is a pure function of it and of the seed."""
        self.iteration = iteration
        patterns = self.stan.grid_patterns
        reduced = self.phase is Phase.REDUCED
        for place, layer in enumerate(self._layers):
            layer.grid = draw_grid(patterns, self.stan.seed, iteration, place) if reduced else None

    def state_dict(self) -> dict[str, int]:
        """Return all that a resumed run needs."""
        return {"iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where the run that gave `state` was."""
        self.seek(state["iteration"])


def accelerate_(model: nn.Module, stan: Stan) -> StanHandle:
    """Turn the model's convolutions into STAN layers, in place.

    Parameters, their names, hooks and buffers stay the same objects; evaluation stays exact, bit for bit. Layers that
    are not plain nn.Conv2d (subclasses with a forward of their own, parametrized ones) are left alone and reported.

    Args:
        model: any module; it may itself be an nn.Conv2d.
        stan: the settings.

    Returns:
        The handle: call its `step()` once per training iteration, read its `report`.

    Raises:
        UsageError: the model is accelerated already, or a pattern of `stan.layers` matches no convolution.

    Warns:
        NoEffectWarning: nothing was changed.
    """
    found: list[StanConv2d] = []
    report: list[LayerReport] = []
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if any(isinstance(module, StanConv2d) for module in convolutions.values()):
        raise UsageError("the model is accelerated already; call restore_(model) first")
    if convolutions:
        _check_layer_names(stan.layers, list(convolutions))
    for name, module in convolutions.items():
        reason = _why_not(name, module, stan)
        report.append(LayerReport(name, () if reason else stan.grid_patterns, reason))
        if not reason:
            module.__class__ = StanConv2d
            found.append(module)  # type: ignore[arg-type]  # it has just become one
    if not found:
        why = "; ".join(f"{line.name or 'the model'}: {line.reason}" for line in report) or "it has no Conv2d"
        warnings.warn(f"STAN changes nothing in this model ({why}); it trains exactly", NoEffectWarning, stacklevel=2)
    return StanHandle(stan, found, tuple(report))


def restore_(model: nn.Module) -> None:
    """Turn every STAN layer of the model back into the nn.Conv2d that it was, in place."""
    for module in model.modules():
        if isinstance(module, StanConv2d):
            module.__dict__.pop("grid", None)
            module.__class__ = nn.Conv2d  # type: ignore[assignment]  # the class that it had before


def _why_not(name: str, module: nn.Conv2d, stan: Stan) -> str:
    if not stan.grid_patterns:
        return "rate=1 computes every entry"
    if not any(fnmatchcase(name, pattern) for pattern in stan.layers):
        return f"not among layers={', '.join(stan.layers)}"
    if type(module) is not nn.Conv2d:
        return f"{type(module).__name__} is not nn.Conv2d itself and may compute something else"
    return ""


def _check_layer_names(patterns: tuple[str, ...], names: list[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"layers={pattern!r} matches no convolution of the model; it has {', '.join(names)}")
