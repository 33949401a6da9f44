"""An objective of numbers, which need no PyTorch: trainings take almost no time and go wrong where they are told to.

A trial's error is a hash of its setting and of how far it is. Its checkpoint holds how far that is, and is written
after each iteration. With a `place`, each iteration leaves a line in the file `log` there: process, trial (or -1: the
best one's final training), iteration.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stantune.errors import DamagedCheckpointError, DataError, StantuneError, StanWarning
from stantune.files import write_whole
from stantune.outcome import Cost, Outcome
from stantune.parameters import Float
from stantune.protocols import Conditions, Metric, Place, Prepared, Segment, StopEarly
from stantune.search.workers.order import Order
from stantune.space import Space
from stantune.training.together.turns import drained

LENGTH = 27
# How long a process lives that a training leaves behind.
LEFT_SECONDS = 40


@dataclass(frozen=True)
class Numbers:
    """See objective.Objective; two of these are the same search, whatever goes wrong in them.

    Attributes:
        place: an existing directory for the log; None keeps none.
        faults: what happens in the second iteration of these trials' first segments, -1 for the best one's final
            training; with "once" in front it does so only the first time.
        pause: seconds of an iteration.
        broken: what happens to a worker as it begins.
        rate: the share of the work that is said to be done.
        other: what else the identity holds.
    """

    place: Path | None = None
    faults: Mapping[int, str] = field(default_factory=dict)
    pause: float = 0.0
    broken: str = ""
    space: Space = field(default_factory=lambda: Space({"lr": Float(0.1, 1.0)}))
    name: str = "numbers"
    length: int | None = LENGTH
    unit: str = "iteration"
    metric: Metric = field(default_factory=lambda: Metric("error"))
    rate: float | None = None
    other: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name, by which an earlier search is known."""
        return {"problem": self.name, **self.other}

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective; there is nothing to prepare."""
        return Prepared(self, conditions.threads if isinstance(conditions.threads, int) else 1)

    def trainer(self, place: Place) -> Trainer:
        """See Objective."""
        if self.broken == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.broken == "no data":
            raise DataError("there are no data in /nowhere; fetch them")
        if self.broken == "raise":
            raise ValueError("no such thing")
        return Trainer(self)

    @property
    def modules(self) -> tuple[str, ...]:
        """What a template imports, of which workers are then copies; none where NUMBERS_MODULES names none."""
        return tuple(os.environ.get("NUMBERS_MODULES", "").split())

    @property
    def order(self) -> Order:
        """What worker processes are given."""
        return Order(self, Place())


class Trainer:
    """See objective.Trainer."""

    def __init__(self, objective: Numbers) -> None:
        self._objective = objective

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See objective.Trainer."""
        return drained(self.turns(segment, stop_early, watch))

    def turns(
        self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]
    ) -> Generator[None, None, Outcome]:
        """See objective.TakesTurns; an iteration is a turn."""
        start, stop, checkpoint, place = segment.start, segment.stop, segment.checkpoint, self._objective.place
        # Faults and log know a finalist's training by a number below zero.
        number = segment.trial if segment.finalist is None else -1 - segment.finalist
        checkpoint.parent.mkdir(exist_ok=True)
        done = 0
        if checkpoint.exists():
            try:
                done = int(checkpoint.read_text())
            except ValueError as error:
                raise DamagedCheckpointError(f"{checkpoint} is damaged") from error
        while done < stop:
            time.sleep(self._objective.pause)
            done += 1
            if done == start + 2 and start == 0:
                self._fault(number)
            if place is not None:
                with (place / "log").open("a") as log:
                    log.write(f"{os.getpid()} {number} {done}\n")
            write_whole(checkpoint, str(done).encode())
            watch(done)
            if done < stop and stop_early():
                return Outcome(done, {}, None, True, Cost(exact=done))
            yield
        digest = hashlib.blake2b(f"{sorted(segment.params.items())} {stop}".encode(), digest_size=2).digest()
        if digest[0] < 26 and not segment.final:
            return Outcome(done, {}, start, False, Cost())
        metrics = {self._objective.metric.name: float(digest[1] % 50), "other": 1.0}
        return Outcome(stop, metrics, None, False, Cost(exact=stop - start))

    def _fault(self, number: int) -> None:
        what = self._objective.faults.get(number, "")
        if what.startswith("once "):
            assert self._objective.place is not None
            what = what.removeprefix("once ")
            try:
                (self._objective.place / f"happened-{number}").touch(exist_ok=False)
            except FileExistsError:
                return
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what.endswith(" and leave"):
            # It holds what this process had open, for a while.
            if not (child := os.fork()):
                time.sleep(LEFT_SECONDS)
                os._exit(0)
            assert self._objective.place is not None
            (self._objective.place / "left").write_text(str(child))
            if what.startswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1000)
        elif what == "exit":
            os._exit(5)
        elif what == "raise":
            raise RuntimeError("these shapes do not fit")
        elif what == "warn":
            warnings.warn("nothing is kept", StanWarning, stacklevel=2)
        elif what == "hang":
            time.sleep(1000)
        elif what == "hang for good":
            # A function of a C library that never gives the interpreter back: no other thread runs any more.
            ctypes.PyDLL(None).sleep(1000)
        elif what == "eat":
            hoard = []
            while True:
                hoard.append(bytearray(os.urandom(1 << 20)))
        elif what == "memory":
            raise MemoryError("2 GiB")
        elif what == "full":
            raise StantuneError("the disk is full; make room")
