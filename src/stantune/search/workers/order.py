"""What a worker process is told: which objective to make a trainer of, and with what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stantune.protocols import Objective, Place, Trainer


@dataclass(frozen=True)
class Order:
    """Makes a trainer in the process that calls it; it can be pickled by cloudpickle.

    Attributes:
        objective: prepared.
        place: the threads and the device that all workers have.
    """

    objective: Objective
    place: Place

    def __call__(self, number: int) -> Trainer:
        """Make the trainer of the worker with this number; raises StantuneError where that cannot be."""
        return self.objective.trainer(replace(self.place, number=number))
