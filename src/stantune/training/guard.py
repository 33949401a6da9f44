"""The divergence guard: notices within a few iterations that a training is lost."""

from __future__ import annotations

import math

# The loss of a network that knows nothing is known: log(classes), for one. A loss that stays above ten times that for
# twenty iterations in a row has left the region that training starts from; a spike of a few iterations passes.
CHANCE_MULTIPLE = 10.0
PATIENCE = 20


class Guard:
    """Follows the training loss of one trial.

    Attributes:
        limit: the loss that counts as too high: CHANCE_MULTIPLE times chance level, or infinity.
        above: iterations in a row whose loss was above `limit`, up to now.
    """

    def __init__(self, chance: float | None, above: int = 0) -> None:
        """Begin; `chance` is the loss of a network that knows nothing, None where nobody can say what is too high."""
        self.limit = math.inf if chance is None else CHANCE_MULTIPLE * chance
        self.above = above

    def diverged(self, loss: float) -> bool:
        """Take the next iteration's loss; tell whether the trial is lost: it is not finite, or stayed above `limit`."""
        self.above = self.above + 1 if loss > self.limit else 0
        return not math.isfinite(loss) or self.above >= PATIENCE
