"""Who trains: what a search asks of whatever runs its trainings, and the simplest that does it, this process."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from stantune.errors import DamagedCheckpointError, StantuneError
from stantune.outcome import Cost, Outcome
from stantune.search.plan.coordinator import Job
from stantune.search.plan.finals import Final

_CAUSE_LENGTH = 200
# Where the code is that no user wrote: installed packages, the standard library, and ours.
_LIBRARIES = [
    *(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")),
    Path(__file__).parents[1],
]

StopEarly = Callable[[], bool]
# What a search has trained: a trial on its way to a rung, or a finalist.
Training: TypeAlias = Job | Final


@dataclass(frozen=True)
class Task:
    """A training to be done."""

    job: Training
    params: Mapping[str, Any]


class Failure(NamedTuple):
    """What a training ended in that has no outcome: it raised, hung, was killed.

    Attributes:
        cause: in a few words.
        damaged: its checkpoint is of no use, so that it must be trained again from its first iteration.
    """

    cause: str
    damaged: bool = False


class Ended(NamedTuple):
    """A task that is over, and how."""

    task: Task
    how: Outcome | Failure


def not_begun(task: Task) -> Ended:
    """Return the end of a task that was interrupted before it was begun."""
    return Ended(task, Outcome(task.job.start, {}, None, True, Cost()))


class Watch(Protocol):
    """Is told how many iterations a task has done; not necessarily of each single one."""

    def __call__(self, task: Task, done: int) -> None:
        """Take the number."""
        ...


class Trainer(Protocol):
    """Does a task from beginning to end. A task that was done before, or in part, has the same outcome again."""

    def train(self, task: Task, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """Train and evaluate.

        Args:
            task: what to train.
            stop_early: asked after each iteration; when true the outcome is an interrupted one, its checkpoint kept.
            watch: called after each iteration with the number of iterations done.

        Raises:
            DamagedCheckpointError: the checkpoint is of no use.
            StantuneError: no training can go on here (a full disk, say).
            Exception: this training cannot go on.
        """
        ...


class Executor(Protocol):
    """Takes tasks and says how they ended, in any order; they do not depend on one another.

    The search's loop has one, and calls it from one thread. What is lost with a worker, a machine, a connection is a
    task that ended in a Failure: the loop decides whether it is submitted again.

    Attributes:
        capacity: tasks that it has use for at the same time. It may change, and submitted tasks stay submitted.
    """

    @property
    def capacity(self) -> int:
        """See the class."""
        ...

    def submit(self, task: Task) -> None:
        """Take a task; never waits. Raises StantuneError where nothing can be run any more."""
        ...

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """Wait until at least one submitted task is over; return all that are over and were not returned before.

        It also returns, and then perhaps none, when the capacity has grown.

        Args:
            stop_early: asked often; when true, all tasks end in good order, as interrupted ones.
            watch: told of tasks that move on.

        Raises:
            StantuneError: no training can go on.
        """
        ...


def attempt(trainer: Trainer, task: Task, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome | Failure:
    """Train; what is this training's own misfortune is returned as a Failure, what would meet all raises StantuneError.

    KeyboardInterrupt and the like pass, too.
    """
    try:
        return trainer.train(task, stop_early, watch)
    except DamagedCheckpointError:
        return Failure("its checkpoint was cut short or altered", damaged=True)
    except StantuneError:
        raise
    except Exception as error:
        return Failure(cause_of(error))


def cause_of(error: BaseException) -> str:
    """Say in a line what was raised, and where: in the user's own code, if that is on the way there."""
    said = " ".join(str(error).split())
    cause = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if len(cause) > _CAUSE_LENGTH:
        cause = f"{cause[:_CAUSE_LENGTH]}…"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return cause
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(place) for place in _LIBRARIES)]
    frame = (own or frames)[-1]
    return f"{cause} ({Path(frame.filename).name}:{frame.lineno})"


class InProcess:
    """Trains in this process, one task after the other; nothing can end a training that hangs."""

    capacity = 1

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        """See Executor."""
        self._tasks.append(task)

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """See Executor."""
        task = self._tasks.pop(0)
        return [Ended(task, attempt(self._trainer, task, stop_early, lambda done: watch(task, done)))]
