"""Several trainings in this process that take turns: for a device that one alone leaves without work."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from stantune.errors import StantuneError
from stantune.outcome import Outcome
from stantune.process.alone import alone
from stantune.protocols import Segment, StopEarly, TakesTurns
from stantune.search.workers.executors import Ended, EndedBeside, Failure, Watch, attempt_in_turns, not_begun


@dataclass
class _Training:
    """A segment, when it was submitted, its turns where it has begun, and the seconds that they took."""

    segment: Segment
    submitted: float = field(default_factory=time.perf_counter)
    turns: Generator[None, None, Outcome | Failure] | None = None
    seconds: float = 0.0

    def ended(self, how: Outcome | Failure) -> Ended:
        """Return that it has ended just now."""
        lived = time.perf_counter() - self.submitted
        return EndedBeside(self.segment, how, max(lived - self.seconds, 0.0))


class InTurns:
    """Trains `capacity` segments in this process, which take turns; nothing can end a training that hangs.

    One that runs out of memory beside others has not failed: it is tried again with fewer beside it. Use it in a
    `with`: where an error leaves the block, all trainings keep what they have.
    """

    def __init__(self, trainer: TakesTurns, count: int, say: Callable[[str], None] = lambda line: None) -> None:
        """Take who trains, how many trainings there are side by side, and what takes a line for the user."""
        self.capacity = count
        self._trainer = trainer
        self._say = say
        self._waiting: deque[_Training] = deque()
        # Those that have begun; the first has the next turn.
        self._begun: deque[_Training] = deque()
        # Of trials that ran out of memory: how many there may be side by side where they are one of them.
        self._most: dict[int, int] = {}
        self._stop_early: StopEarly = lambda: False
        self._watch: Watch = lambda segment, done: None

    def __enter__(self) -> InTurns:
        """Return the executor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all trainings: in good order, unless what leaves the block is a KeyboardInterrupt or the like."""
        self._waiting.clear()
        if kind is None or issubclass(kind, Exception):
            while self._begun:
                with contextlib.suppress(StantuneError):
                    self.finished(lambda: True, lambda segment, done: None)
        while self._begun:
            turns = self._begun.popleft().turns
            assert turns is not None, "it has begun"
            turns.close()

    def submit(self, segment: Segment) -> None:
        """See Executor."""
        self._waiting.append(_Training(segment))

    @property
    def held(self) -> Sequence[Segment]:
        """What was submitted and is not over."""
        return [training.segment for training in (*self._begun, *self._waiting)]

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """See Executor."""
        while not (over := self.step(stop_early, watch)):
            pass
        return over

    def step(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """Take one turn; return what is over with it, perhaps nothing. Arguments and errors are those of `finished`."""
        self._stop_early, self._watch = stop_early, watch
        if self._waiting and stop_early():
            over = [not_begun(training.segment) for training in self._waiting]
            self._waiting.clear()
            return over
        while self._has_room():
            self._begin(self._waiting.popleft())
        first = self._begun[0]
        # One that has had turns is to keep what they came to.
        with alone(lambda: stop_early() and not first.seconds) as ours:
            if not ours:
                return [not_begun(self._begun.popleft().segment)]
            training = self._begun.popleft()
            how = self._turn(training)
        if how is None:
            return []
        # As InProcess does.
        stop_early()
        return [training.ended(how)]

    def _has_room(self) -> bool:
        """Tell whether the first that waits may begin beside those that have begun."""
        if not self._waiting:
            return False
        there = [self._waiting[0], *self._begun]
        most = min(self._most.get(each.segment.trial, self.capacity) for each in there)
        return len(there) <= most

    def _begin(self, training: _Training) -> None:
        segment = training.segment
        training.turns = attempt_in_turns(
            self._trainer, segment, lambda: self._stop_early(), lambda done: self._watch(segment, done)
        )
        self._begun.append(training)

    def _turn(self, training: _Training) -> Outcome | Failure | None:
        """Give a training its turn; return what it came to, None where it goes on. It has been taken out of the row."""
        assert training.turns is not None, "it has begun"
        began = time.perf_counter()
        try:
            next(training.turns)
        except StopIteration as end:
            how: Outcome | Failure = end.value
        else:
            self._begun.append(training)
            return None
        finally:
            training.seconds += time.perf_counter() - began
        others = len(self._begun)
        if not (isinstance(how, Failure) and how.memory and others):
            return how
        self._most[training.segment.trial] = others
        beside = "another one" if others == 1 else f"{others} others"
        self._say(
            f"note: trial {training.segment.trial} ran out of memory beside {beside}, and is trained again with fewer "
            "beside it"
        )
        training.turns = None
        self._waiting.appendleft(training)
        return None
