"""What a search tells those who log it: a protocol, and plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stantune.protocols import Metric


@dataclass(frozen=True)
class LoggedSearch:
    """A search.

    Attributes:
        key: tells it from all others; the same each time that it goes on, and fit for a file's name.
        name: of what is searched.
        directory: the search's.
        metric: what trials are compared by.
        unit: what its iterations are called.
        identity: all that its result depends on, in plain values.
    """

    key: str
    name: str
    directory: Path
    metric: Metric
    unit: str
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class LoggedTraining:
    """A trial, or the final training of a trial's setting.

    Attributes:
        name: tells it from the others of the search: "trial-000003", "final-of-000003".
        trial: the trial's number.
        params: the setting.
        bracket: of the search's plan; None for a final training.
    """

    name: str
    trial: int
    params: Mapping[str, Any]
    bracket: int | None


@dataclass(frozen=True)
class LoggedSegment:
    """What a training came to at a rung, or at its end.

    Attributes:
        iterations: how far it is, in the search's unit.
        measured: what was measured, by name, after how many iterations; of a final training also on the way; empty
            where it diverged.
        losses: the training losses of this segment: how many there were since the training began, and the mean of
            those since the point before.
        diverged_at: the iteration whose loss told that it is lost, or None.
        seconds: of training and evaluation.
    """

    iterations: int
    measured: Mapping[int, Mapping[str, float]]
    losses: Sequence[tuple[int, float]] = ()
    diverged_at: int | None = None
    seconds: float = field(default=0.0, compare=False)


@runtime_checkable
class Logger(Protocol):
    """Is told what a search comes to, each thing once, in the process that runs the search.

    A search that goes on tells what its loggers do not know yet: what another run was killed before it told, and all
    of it where the logger is new. What was being told when a process was killed may be told again, and a part of it may
    be there.

    A logger that raises is told nothing more in this run, and the search goes on without. `stantune.testing.
    check_logger` tries whether one does all that is asked of it here.
    """

    @property
    def name(self) -> str:
        """What it is, and where it writes to, if that is not always the same: by this a search knows it again."""
        ...

    def begin(self, search: LoggedSearch) -> None:
        """A search begins, or goes on; called first."""
        ...

    def training(self, training: LoggedTraining) -> None:
        """A training begins."""
        ...

    def segment(self, training: LoggedTraining, segment: LoggedSegment) -> None:
        """A training has come to a rung, to its end, or diverged."""
        ...

    def ended(self, training: LoggedTraining, how: str) -> None:
        """A training is over: finished, dropped, diverged or failed."""
        ...

    def close(self) -> None:
        """The search is complete, or ends for now; called last."""
        ...
