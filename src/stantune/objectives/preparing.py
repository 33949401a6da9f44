"""What objectives of all kinds check and decide alike: what they are told, and how many threads each training has."""

from __future__ import annotations

from collections.abc import Callable

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.protocols import Conditions, Metric
from stantune.space import Space


def check_told(name: object, space: object, metric: object, unit: object, length: object) -> None:
    """Raise UsageError where what an objective is told is nothing of the kind; see protocols.Objective."""
    if not isinstance(name, str):
        raise UsageError(f"`name`={shown(name)} is no text; give one in quotes")
    if not isinstance(space, Space):
        raise UsageError(f"`space` of {name} is a {type(space).__name__}; give a Space of its parameters")
    if not isinstance(metric, Metric):
        raise UsageError(f"`metric` of {name} is {shown(metric)}; give a Metric, such as Metric('loss', 'minimize')")
    if not isinstance(metric.name, str):
        raise UsageError(f"the metric of {name} is called {shown(metric.name)}, which is no text; give its name")
    if not isinstance(unit, str) or not unit:
        said = f"is {shown(unit)}" if unit else "is empty"
        raise UsageError(f"`unit` of {name} {said}; give a word for what its steps are, such as epoch")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise UsageError(f"the length of {name} is {shown(length)}; give a whole number of {unit}s, 1 or more")


def chosen_threads(conditions: Conditions, name: str, default: Callable[[], int]) -> int:
    """Return the number of threads: as asked for, or as it was when the search began, or one where several train.

    Args:
        conditions: of the search.
        name: of the objective.
        default: gives the number where none of these says one.

    Raises:
        UsageError: it is no number.
    """
    asked, begun = conditions.threads, conditions.begun
    if asked == "auto":
        raise UsageError(
            f"`threads`=auto times the training of a Problem, and {name} is none; give a number, or leave it away"
        )
    if asked is None:
        if begun is not None:
            return int(begun["threads"])
        # Two trainings side by side do more than one with two threads.
        return 1 if conditions.side_by_side else default()
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise UsageError(f"`threads`={asked} is no number of threads; give 1 or more")
    return asked
