"""What a function returns, taken as metrics."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping
from typing import Any

from stantune.protocols import Metric


class ReturnError(ValueError):
    """A function returned what cannot be compared; its trial fails, and others may do better.

    Attributes:
        again: see Failure; the same function would return the same once more.
    """

    again = False


class LossError(TypeError):
    """A function told a loss that is no number; its trial fails, as it does with a ReturnError."""

    again = False


def metrics_of(returned: object, metric: Metric, what: str, how: str = "returned") -> dict[str, float]:
    """Return a function's metrics as numbers, those that are not finite left out but for the compared one.

    Args:
        returned: a mapping of names to numbers, or the compared number alone: Python's, NumPy's, tensors of one number.
        metric: what is compared; it is there in the end.
        what: the function's name.
        how: what it did with them, "returned" or "reported".

    Raises:
        ReturnError: it is something else, or the compared metric is missing.
    """
    said = f"{what} {how}"
    if not isinstance(returned, Mapping):
        return {metric.name: _number(returned, metric.name, said)}
    metrics = {}
    for name, value in returned.items():
        if not isinstance(name, str):
            raise ReturnError(f"{said} a metric called {name!r}; a metric's name is a text")
        metrics[name] = _number(value, name, said, compared=metric.name)
    if metric.name not in metrics:
        there = ", ".join(repr(name) for name in metrics) or "nothing"
        raise ReturnError(
            f"{said} {there}, and not {metric.name!r}, by which trials are compared; {_verb(said)} it too"
        )
    return {name: value for name, value in metrics.items() if name == metric.name or math.isfinite(value)}


def loss_of(value: object) -> float:
    """Return what was told as a loss as a number; raises LossError where it is none."""
    # float() of a tensor that has a gradient would warn.
    number = _single(value)
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(number, str | bytes | bytearray) and not hasattr(number, "item"):
            try:
                return float(number)  # type: ignore[arg-type]  # anything that has __float__, and what has not says so
            except OverflowError:
                # More than a float can hold: as lost as one that is infinite.
                return math.inf
    shape = getattr(value, "shape", None)
    told = value is None or (isinstance(value, str) and len(value) < 50)
    shown = repr(value) if told else f"a {type(value).__name__}"
    if shape is not None:
        shown += f" of shape {tuple(shape)}"
    raise LossError(
        f"`value` of run.loss is {shown}, and a loss is one number; give a float or a tensor of one, as loss.mean() is"
    )


def _single(value: object) -> object:
    """Return the number in a tensor or an array of one, NaN for a masked one; anything else as it is."""
    if not hasattr(value, "item"):
        return value
    # `item` of NumPy refuses what is not a single number. That of torch does so with a RuntimeError, and such a one is
    # also what a GPU has to say of something quite different.
    count = getattr(value, "numel", None)
    if callable(count) and count() != 1:
        return value
    # Where nobody has imported it, nothing is masked.
    masks: Any = sys.modules.get("numpy.ma")
    with contextlib.suppress(TypeError, ValueError):
        if masks is not None and isinstance(value, masks.MaskedArray) and value.size == 1 and value.mask.all():
            # Its `item` gives what lies under the mask: 0.0, where each number that a mean is of was masked.
            return math.nan
        return value.item()
    return value


def _number(value: object, name: str, said: str, compared: str | None = None) -> float:
    value = _single(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "None" if value is None else f"a {type(value).__name__}"
        if compared is None:
            raise ReturnError(f"{said} {kind}; {_verb(said)} {{{name!r}: number}}, or the number alone")
        if name != compared:
            raise ReturnError(
                f"{said} {kind} as {name!r}; a metric is one number, also where it is not compared as "
                f"{compared!r} is: leave {name!r} away, or write it into a file of your own"
            )
        raise ReturnError(f"{said} {kind} as {name!r}; a metric is one number")
    try:
        return float(value)
    except OverflowError:
        raise ReturnError(
            f"{said} a whole number of {_digits(value)} digits as {name!r}, and a metric is at most some "
            f"1.8e308; {_verb(said)} a smaller one, such as its logarithm"
        ) from None


def _verb(said: str) -> str:
    """Return what is to be done in place of what was: "return", where it "returned"."""
    return said.rpartition(" ")[2].removesuffix("ed")


def _digits(number: int | float) -> int:
    # Not the length of its text, which Python refuses to make of more than 4300.
    return math.floor(math.log10(abs(number))) + 1
