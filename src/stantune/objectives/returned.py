"""What a function returns, taken as metrics."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

from stantune.protocols import Metric


class ReturnError(ValueError):
    """A function returned what cannot be compared; its trial fails, and others may do better."""


def metrics_of(returned: object, metric: Metric, what: str) -> dict[str, float]:
    """Return a function's metrics as numbers, those that are not finite left out but for the compared one.

    Args:
        returned: a mapping of names to numbers, or the compared number alone: Python's, NumPy's, tensors of one number.
        metric: what is compared; it is there in the end.
        what: the function's name.

    Raises:
        ReturnError: it is something else, or the compared metric is missing.
    """
    if not isinstance(returned, Mapping):
        return {metric.name: _number(returned, metric.name, what, alone=True)}
    metrics = {}
    for name, value in returned.items():
        if not isinstance(name, str):
            raise ReturnError(f"{what} returned a metric called {name!r}; a metric's name is a text")
        metrics[name] = _number(value, name, what)
    if metric.name not in metrics:
        there = ", ".join(repr(name) for name in metrics) or "nothing"
        raise ReturnError(
            f"{what} returned {there}, and not {metric.name!r}, by which trials are compared; return it too"
        )
    return {name: value for name, value in metrics.items() if name == metric.name or math.isfinite(value)}


def _number(value: object, name: str, what: str, alone: bool = False) -> float:
    # `item` of NumPy and torch refuses what is not a single number.
    if hasattr(value, "item"):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "None" if value is None else f"a {type(value).__name__}"
        if alone:
            raise ReturnError(f"{what} returned {kind}; return {{{name!r}: number}}, or the number alone")
        raise ReturnError(f"{what} returned {kind} as {name!r}; a metric is one number")
    return float(value)
