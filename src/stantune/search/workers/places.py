"""Where workers are: a process and what it has, and segments that wait for one; with the seconds that each waits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from stantune.protocols import Segment
from stantune.search.workers.template import TemplateCopy
from stantune.search.workers.worker import Given


@dataclass(eq=False)
class Held:
    """A segment that was submitted and is not over.

    Attributes:
        segment: which.
        elsewhere: seconds until `since` in which the process that it waits for, or is in, was at others.
        since: up to when seconds are counted; those after it a worker counts itself, or `passed` does.
    """

    segment: Segment
    elsewhere: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def passed(self, share: float) -> None:
        """Count the time until now, in this share of which the process was at others."""
        now = time.monotonic()
        self.elsewhere += (now - self.since) * share
        self.since = now


@dataclass(eq=False)
class Worker:
    """A process, the connection to it, and what it is at.

    Attributes:
        process: its process.
        connection: to it.
        ready: it has its data and takes segments.
        deaf: it did not take what it was given, so that it has ended, although that was not noticed yet.
        segments: by the numbers under which it has them.
        heard: when it last gave a sign of life.
    """

    process: SpawnProcess | TemplateCopy
    connection: Connection
    ready: bool = False
    deaf: bool = False
    segments: dict[int, Held] = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)

    def give(self, number: int, held: Held) -> bool:
        """Send a segment, which is this worker's from now on; return whether it is alive to take it."""
        # What it waited for was a place.
        held.passed(1.0)
        self.segments[number], self.heard = held, time.monotonic()
        try:
            self.connection.send(Given(number, held.segment))
        except OSError:
            self.deaf = True
        return not self.deaf


@dataclass(eq=False)
class Place:
    """Where a worker is, or is to be started when it is needed.

    Where a process is lost that several segments took turns in, nobody knows which of them it was; they are tried
    again there, `apart`, one at a time and with nothing beside them.
    """

    worker: Worker | None = None
    apart: deque[Held] = field(default_factory=deque)
    alone: bool = False

    @property
    def load(self) -> int:
        """How many segments its worker has."""
        return 0 if self.worker is None else len(self.worker.segments)

    def has_room(self, most: int) -> bool:
        """Tell whether a segment may come beside what is there, where a process has so many at most."""
        if self.worker is not None and self.worker.deaf and self.worker.segments:
            return False
        return not self.alone and not self.apart and self.load < most


def shared(several: Collection[Held]) -> None:
    """Count the time until now, that a process had all these, as each one's in equal parts."""
    for held in several:
        held.passed(1 - 1 / len(several))
