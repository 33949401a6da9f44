"""Trainings that take almost no time and go wrong where they are told to, in workers that need no PyTorch.

A trial's error is a hash of its setting and iterations. Its checkpoint holds how far it is, and is written after each
iteration. Each iteration leaves a line in the file `log`: process, trial (or -1:
the best one's final training), iteration.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stantune.errors import DamagedCheckpointError, DataError, StantuneError
from stantune.files import write_whole
from stantune.outcome import Cost, Outcome
from stantune.search.plan.values import Job
from stantune.search.plan.finals import weights_of
from stantune.search.workers.executors import StopEarly, Task

FINAL = 27


@dataclass(frozen=True)
class FaultyOrder:
    """Makes a FaultyTrainer in each worker.

    Attributes:
        place: a directory for checkpoints and the log.
        faults: what happens in the second iteration of these trials' first segments, -1 for the best one's final
            training; with "once" in front it does so only the first time.
        pause: seconds of an iteration.
        broken: what happens to a worker as it begins.
    """

    place: Path
    faults: Mapping[int, str] = field(default_factory=dict)
    pause: float = 0.0
    broken: str = ""

    def __call__(self, place: int) -> FaultyTrainer:
        """See TrainerOrder."""
        if self.broken == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.broken == "no data":
            raise DataError("there are no data in /nowhere; fetch them")
        if self.broken == "raise":
            raise ValueError("no such thing")
        return FaultyTrainer(self)


class FaultyTrainer:
    """See executors.Trainer."""

    def __init__(self, order: FaultyOrder) -> None:
        self._order = order

    def train(self, task: Task, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See executors.Trainer."""
        job, start, stop = task.job, task.job.start, task.job.stop
        # Faults and log know a finalist's training by a number below zero.
        number = job.number if isinstance(job, Job) else -1 - job.rank
        name = f"checkpoints/trial-{number:06d}.pt" if isinstance(job, Job) else weights_of(job.rank)
        checkpoint = self._order.place / name
        checkpoint.parent.mkdir(exist_ok=True)
        done = 0
        if checkpoint.exists():
            try:
                done = int(checkpoint.read_text())
            except ValueError as error:
                raise DamagedCheckpointError(f"{checkpoint} is damaged") from error
        while done < stop:
            time.sleep(self._order.pause)
            done += 1
            if done == start + 2 and start == 0:
                self._fault(number)
            with (self._order.place / "log").open("a") as log:
                log.write(f"{os.getpid()} {number} {done}\n")
            write_whole(checkpoint, str(done).encode())
            watch(done)
            if done < stop and stop_early():
                return Outcome(done, {}, None, True, Cost(exact=done))
        digest = hashlib.blake2b(f"{sorted(task.params.items())} {stop}".encode(), digest_size=2).digest()
        if digest[0] < 26 and isinstance(job, Job):
            return Outcome(done, {}, start, False, Cost())
        errors = {"validation": float(digest[1] % 50), "test": 1.0}
        return Outcome(stop, errors, None, False, Cost(exact=stop - start))

    def _fault(self, number: int) -> None:
        what = self._order.faults.get(number, "")
        if what.startswith("once "):
            what = what.removeprefix("once ")
            try:
                (self._order.place / f"happened-{number}").touch(exist_ok=False)
            except FileExistsError:
                return
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "exit":
            sys.exit(5)
        elif what == "raise":
            raise RuntimeError("these shapes do not fit")
        elif what == "hang":
            time.sleep(1000)
        elif what == "hang for good":
            # A function of a C library that never gives the interpreter back: no other thread runs any more.
            ctypes.PyDLL(None).sleep(1000)
        elif what == "eat":
            hoard = []
            while True:
                hoard.append(bytearray(os.urandom(1 << 20)))
        elif what == "full":
            raise StantuneError("the disk is full; make room")
