"""What makes trainers, as bytes that worker processes are sent; or why it cannot be sent."""

from __future__ import annotations

from collections.abc import Callable

import cloudpickle

from stantune.errors import StantuneError, UsageError, words_of
from stantune.protocols import Trainer
from stantune.texts import one_line


def sent(order: Callable[[int], Trainer]) -> bytes:
    """Return an order pickled by cloudpickle, which knows what to do with functions of scripts and notebooks.

    Raises UsageError where it holds what belongs to this process: a lock, an open file, a writer of logs.
    """
    try:
        pickled: bytes = cloudpickle.dumps(order)
    except StantuneError:
        raise
    except Exception as error:  # objects of the user's own may raise anything
        name = getattr(getattr(order, "objective", None), "name", "the objective")
        raise UsageError(
            f"`{name}` cannot be sent to worker processes ({one_line(words_of(error))}); make in the function what "
            "belongs to one process, or train in this one: leave `workers`, `executor` and the trials' limits away"
        ) from error
    return pickled
