"""What objectives decide alike as a search begins: how many threads each training has."""

from __future__ import annotations

from collections.abc import Callable

from stantune.errors import UsageError
from stantune.protocols import Conditions


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
            f"`threads`=auto times the training of a built-in problem, and {name} is none; give a number, or leave it "
            "away"
        )
    if asked is None:
        if begun is not None:
            return int(begun["threads"])
        # Two trainings side by side do more than one with two threads.
        return 1 if conditions.side_by_side else default()
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise UsageError(f"`threads`={asked} is no number of threads; give 1 or more")
    return asked
