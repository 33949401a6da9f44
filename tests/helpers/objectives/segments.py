"""A segment, trained in this process as a worker would train it."""

from __future__ import annotations

from stantune.outcome import Outcome
from stantune.protocols import Objective, Place, Segment


def trained(objective: Objective, segment: Segment, stop_early=lambda: False, watch=lambda done: None) -> Outcome:
    """Return the outcome."""
    return objective.trainer(Place(threads=1)).train(segment, stop_early, watch)
