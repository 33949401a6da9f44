"""Who trains: what a search asks of whatever runs its trainings, and the simplest that does it, this process."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from stantune.arguments import shown
from stantune.errors import (
    AheadCheckpointError,
    DamagedCheckpointError,
    ForeignCheckpointError,
    StantuneError,
    words_of,
)
from stantune.outcome import Cost, Outcome
from stantune.process.alone import alone
from stantune.protocols import Segment, StopEarly, TakesTurns, Trainer
from stantune.search.stopping import Enclosing

T = TypeVar("T")
U = TypeVar("U")
_CAUSE_LENGTH = 200
# Our own sentences end with the remedy, and are no longer than need be; this only keeps out what would fill a screen.
_OWN_CAUSE_LENGTH = 1000
# Where the code is that no user wrote: installed packages, the standard library, and ours.
_LIBRARIES = [
    *(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")),
    Path(__file__).parents[2],
]


class Failure(NamedTuple):
    """What a training ended in that has no outcome: it raised, hung, was killed.

    Attributes:
        cause: in a few words.
        damaged: its checkpoint is of no use, so that it must be trained again from its first iteration.
        again: there is a point in trying it again; it is not where the same mistake would be made once more. An
            exception says so with an attribute of this name.
        memory: it ran out of memory, of which others beside it had a part.
    """

    cause: str
    damaged: bool = False
    again: bool = True
    memory: bool = False


class Ended(NamedTuple):
    """A segment that is over, and how."""

    segment: Segment
    how: Outcome | Failure

    @property
    def elsewhere(self) -> float:
        """Seconds since it was submitted in which the process that trained it was at others."""
        return 0.0


class EndedBeside(Ended):
    """A segment that had others beside it, and the seconds in which the process that trained it was at those."""

    _elsewhere: float

    def __new__(cls, segment: Segment, how: Outcome | Failure, elsewhere: float) -> EndedBeside:
        """Take both; as a tuple it is a pair like any other."""
        made = super().__new__(cls, segment, how)
        made._elsewhere = elsewhere
        return made

    @property
    def elsewhere(self) -> float:
        """See Ended."""
        return self._elsewhere


def not_begun(segment: Segment) -> Ended:
    """Return the end of a segment that was interrupted before it was begun."""
    return Ended(segment, Outcome(segment.start, {}, None, True, Cost()))


class Watch(Protocol):
    """Is told how far a segment is; not necessarily of each single iteration."""

    def __call__(self, segment: Segment, done: int) -> None:
        """Take the number."""
        ...


@runtime_checkable
class Executor(Protocol):
    """Takes segments and says how they ended, in any order; they do not depend on one another.

    The search's loop has one, and calls it from one thread. What is lost with a worker, a machine, a connection is a
    segment that ended in a Failure: the loop decides whether it is submitted again.

    Attributes:
        capacity: segments that it has use for at the same time. It may change, and what is submitted stays submitted.
    """

    @property
    def capacity(self) -> int:
        """See the class."""
        ...

    def submit(self, segment: Segment) -> None:
        """Take a segment; never waits. Raises StantuneError where nothing can be run any more."""
        ...

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """Wait until at least one submitted segment is over; return all that are over and were not returned before.

        It also returns, and then perhaps none, when the capacity has grown.

        Args:
            stop_early: asked often; when true, all segments end in good order, as interrupted ones.
            watch: told of segments that move on.

        Raises:
            StantuneError: no training can go on.
        """
        ...


def attempt(
    trainer: Trainer, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]
) -> Outcome | Failure:
    """Train; what is this training's own misfortune is returned as a Failure, what would meet all raises StantuneError.

    `sys.exit` in a training ends that training alone. KeyboardInterrupt and the like pass, too. Optuna's TrialPruned,
    by which code that was written for it gives a trial up, is an ordinary end: the trial is lost as one that diverged.
    Where a search within the training was interrupted because this one is, the training has not begun.
    """
    at = segment.start

    def watched(done: int) -> None:
        nonlocal at
        at = done
        watch(done)

    training = Enclosing(stop_early)

    def train() -> Outcome | Failure:
        how = _tried(segment, lambda: trainer.train(segment, training.stop_early, watched), lambda: at)
        return _outcome(how, "train")

    return _enclosing(training, train, not_begun(segment).how)


def attempt_in_turns(
    trainer: TakesTurns, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]
) -> Generator[None, None, Outcome | Failure]:
    """Do what `attempt` does in turns: it gives way after each, and ends in what the training came to."""
    at = segment.start

    def watched(done: int) -> None:
        nonlocal at
        at = done
        watch(done)

    training = Enclosing(stop_early)
    turns = _tried(segment, lambda: trainer.turns(segment, training.stop_early, watched), lambda: at)
    if isinstance(turns, Outcome | Failure):
        return turns
    if not isinstance(turns, Generator):
        raise StantuneError(f"the trainer's `turns` returned {shown(turns)}, and no generator; see stantune.Trainer")

    def turn() -> _End | Outcome | Failure | None:
        return _tried(segment, partial(_next, turns), lambda: at)

    with closing(turns):
        while (how := _enclosing(training, turn, not_begun(segment).how)) is None:
            yield
    return _outcome(how.value if isinstance(how, _End) else how, "turns")


def _enclosing(training: Enclosing, train: Callable[[], T], lost: U) -> T | U:
    """Return what a part of a training comes to; `lost` where that, and a search within it, are to end.

    Raises KeyboardInterrupt where it is to end at once, or a search within it alone was to, and nobody caught that.
    """
    try:
        with training.here():
            how = train()
    except KeyboardInterrupt:
        if not training.lost:
            raise
    if not training.lost:
        return how
    training.lost = False
    training.stop_early()  # raises where it is to end at once
    return lost


class _End(NamedTuple):
    """The last turn was taken, and the training came to `value`."""

    value: object


def _next(turns: Generator[None, None, Outcome]) -> _End | None:
    """Take a turn; return what the training came to, None where it has not ended."""
    try:
        next(turns)
    except StopIteration as end:
        return _End(end.value)
    return None


def _outcome(how: object, method: str) -> Outcome | Failure:
    """Return what a training came to; raises StantuneError where a trainer of somebody's own says something else."""
    if not isinstance(how, Outcome | Failure):
        raise StantuneError(f"the trainer's `{method}` came to {shown(how)}, and to no Outcome; see stantune.Trainer")
    return how


def _tried(segment: Segment, train: Callable[[], T], at: Callable[[], int]) -> T | Outcome | Failure:
    """Return what `train` returns, or what its exception comes to where the training stands at `at`; see `attempt`."""
    try:
        return train()
    except AheadCheckpointError:
        return Failure("its checkpoint was further than the trial table", damaged=True)
    except DamagedCheckpointError:
        return Failure("its checkpoint was cut short or altered", damaged=True)
    except ForeignCheckpointError:
        if not segment.final or segment.continued:
            raise
        # Of a rank's training that is not over nobody noted which setting's it is, and ranks may have moved since.
        return Failure("its checkpoint was another setting's or another version's", damaged=True)
    except StantuneError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            # Lightning, used in a function, makes an exit of Ctrl-C.
            raise KeyboardInterrupt from error
        if _is_pruned(error):
            return Outcome(at(), {}, at(), False, Cost())
        again = bool(getattr(error, "again", True))
        return Failure(cause_of(error), again=again, memory=_is_out_of_memory(error))


def _is_pruned(error: BaseException) -> bool:
    # Whoever raises it has imported it.
    optuna = sys.modules.get("optuna.exceptions")
    return optuna is not None and isinstance(error, optuna.TrialPruned)


def _is_out_of_memory(error: BaseException) -> bool:
    # PyTorch's is no MemoryError.
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def cause_of(error: BaseException) -> str:
    """Say in a line what was raised, and where: in the user's own code, if that is on the way there.

    Where it is not, an error of ours says all in its sentence, and our line would only mislead.
    """
    cause = " ".join(words_of(error).split())
    ours = type(error).__module__.partition(".")[0] == __name__.partition(".")[0]
    most = _OWN_CAUSE_LENGTH if ours else _CAUSE_LENGTH
    if len(cause) > most:
        cause = f"{cause[:most]}…"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(place) for place in _LIBRARIES)]
    told = own if ours else own or frames
    if not told:
        return cause
    frame = told[-1]
    return f"{cause} ({Path(frame.filename).name}:{frame.lineno})"


class InProcess:
    """Trains in this process, one segment after the other; nothing can end a training that hangs.

    Searches of several threads take turns by segments, unless the trainer says by `apart` that it touches nothing here.
    """

    capacity = 1

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._segments: list[Segment] = []

    def submit(self, segment: Segment) -> None:
        """See Executor."""
        self._segments.append(segment)

    @property
    def held(self) -> Sequence[Segment]:
        """What was submitted and is not over."""
        return self._segments

    def step(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """Train the next segment; see InTurns."""
        return self.finished(stop_early, watch)

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """See Executor."""
        segment = self._segments.pop(0)
        with nullcontext(True) if getattr(self._trainer, "apart", False) else alone(stop_early) as ours:
            if not ours:
                return [not_begun(segment)]
            how = attempt(self._trainer, segment, stop_early, lambda done: watch(segment, done))
        # Where a training has swallowed KeyboardInterrupt it came to nothing that counts, and this raises it again.
        stop_early()
        return [Ended(segment, how)]
