"""What is known of a search's last run, beside the trial table: which process, whether it ended, what it trains now."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stantune.arguments import MOST
from stantune.files import write_whole
from stantune.process.machine import this_machine
from stantune.protocols import Objective
from stantune.search.plan.values import Final
from stantune.search.settings import MOST_TRIALS
from stantune.search.telling.progress import Progress
from stantune.texts import one_line, plain

# So often is written down how far trainings are, and so often at most, which they are.
WRITE_SECONDS, CHANGE_SECONDS = 5.0, 1.0
# The end of the year 9999, beyond which there is no date.
_LATEST = 253_402_300_799
# What stands in the file is believed within these bounds: whoever looks is to come to an end.
_Moment = Annotated[float, Field(ge=0, le=_LATEST, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=MOST)]
_Reached = Annotated[int, Field(ge=-MOST, le=MOST)]


class Now(BaseModel):
    """A training as it is now.

    Attributes:
        trial: the trial's number.
        at: how far it is, in the search's unit.
        stop: where it ends.
        final: whether it is a final training.
    """

    model_config = ConfigDict(frozen=True)

    trial: _Count
    at: _Reached
    stop: _Reached
    final: bool


class LastRun(BaseModel):
    """A run of a search: from the call that begins it, or goes on with it, to the end of that process's work.

    Attributes:
        process: its number, on
        host: this machine.
        begun: when, in seconds since 1970; so are all moments here.
        seen: when this was written.
        ended: when it ended; None while it runs, and where it was killed.
        heeds: whether it ends where it is asked to by `SearchDirectory.ask_to_stop`.
        places: trainings that it had room for at the same time.
        finalists: final trainings that it was asked for.
        unit: what iterations are called.
        metric_unit: of the values of the metric.
        training: what it trains.
        failure: what ended it before its time; None where nothing did.
        machine: the processor, the system and the versions there, by name; empty where an earlier version wrote it.
    """

    model_config = ConfigDict(frozen=True)

    process: _Count
    host: str
    begun: _Moment
    seen: _Moment
    ended: _Moment | None
    heeds: bool
    places: _Count
    finalists: Annotated[int, Field(ge=0, le=MOST_TRIALS)]
    unit: str
    metric_unit: str
    training: tuple[Now, ...] = ()
    failure: str | None = None
    machine: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> LastRun | None:
        """Return what a file says; None where there is none, or none that can be read: it is no more than a help."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValueError):
            return None


class Recorder:
    """Writes down how a run goes on. Where nothing can be written, the search does without."""

    def __init__(self, file: Path, objective: Objective, finalists: int, places: int, heeds: bool) -> None:
        now = time.time()
        self._file = file
        self._written, self._begun = -math.inf, 0
        self._run = LastRun(
            process=os.getpid(),
            host=socket.gethostname(),
            begun=now,
            seen=now,
            ended=None,
            heeds=heeds,
            places=places,
            finalists=finalists,
            unit=plain(objective.unit),
            metric_unit=plain(objective.metric.unit),
            machine=this_machine(),
        )
        self._write()

    def beat(self, progress: Progress) -> None:
        """Write down what is trained, and how far each is, unless that was done just now."""
        since = time.monotonic() - self._written
        if since < CHANGE_SECONDS or (since < WRITE_SECONDS and progress.begun == self._begun):
            return
        self._written, self._begun = time.monotonic(), progress.begun
        now = tuple(
            Now(trial=job.number, at=at, stop=job.stop, final=isinstance(job, Final))
            for job, at in progress.running.items()
        )
        self._run = self._run.model_copy(update={"seen": time.time(), "training": now})
        self._write()

    def end(self, failure: str | None) -> None:
        """Write down that the run is over."""
        now, why = time.time(), None if failure is None else one_line(failure)
        self._run = self._run.model_copy(update={"seen": now, "ended": now, "training": (), "failure": why})
        if not self._write():
            # A full disk, mostly: what takes the place of what is there needs no room.
            with contextlib.suppress(OSError), self._file.open("r+b") as file:
                file.write(self._run.model_dump_json().encode())
                file.truncate()

    def _write(self) -> bool:
        try:
            write_whole(self._file, self._run.model_dump_json().encode())
        except OSError:
            return False
        return True
