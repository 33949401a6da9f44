"""What a worker process is told: which objective to make a trainer of, and with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from stantune.protocols import Objective, Place, Trainer


@dataclass(frozen=True)
class Order:
    """Makes a trainer in the process that calls it; it can be pickled by cloudpickle.

    Attributes:
        objective: prepared.
        place: the threads and the device that all workers have.
        before: what is done first there, so that the process is as the one that the search was begun in; may raise
            StantuneError.
    """

    objective: Objective
    place: Place
    before: tuple[Callable[[], None], ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """What a process may import beforehand: no code of the user's, which may begin threads."""
        own = type(self.objective).__module__
        package = __name__.partition(".")[0]
        named = (own, *getattr(self.objective, "modules", ()))
        return tuple(name for name in named if name.partition(".")[0] == package)

    @property
    def copies(self) -> bool:
        """Whether workers may be copies of a process that has imported these: not where a device is in use."""
        return self.place.device == "cpu" and bool(self.modules)

    @property
    def shares(self) -> bool:
        """Whether the objective has data that are loaded without the user's code, and by one thread; see `load`."""
        return self.place.threads == 1 and bool(getattr(self.objective, "shares_data", False))

    def load(self) -> None:
        """Load what all workers share, as each would."""
        self(0)
        self.objective.load()  # type: ignore[attr-defined]  # it says that it has data

    def __call__(self, number: int) -> Trainer:
        """Make the trainer of the worker with this number; raises StantuneError where that cannot be."""
        for each in self.before:
            each()
        return self.objective.trainer(replace(self.place, number=number))
