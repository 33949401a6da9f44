"""What a worker uses of memory, with the processes that it has started: a command, or what loads data. Linux only."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

# Looking at all processes of a machine takes milliseconds, and at the pages of a large one tenths of a second.
LOOK_SECONDS = 1.0
# Of what they have by themselves, not of files that they have mapped, which the system takes back when it likes.
_KINDS = ("Pss_Anon:", "Pss_Shmem:")
# Where Linux does not tell those apart (before 5.3), with these files.
_ALL = ("Pss:",)


class Memory:
    """Tells which workers use more memory than they may.

    Attributes:
        most: what each may use, in bytes.
    """

    def __init__(self, most: int) -> None:
        """Have each use so many bytes at most."""
        self.most = most
        self._children: dict[int, list[int]] = {}
        self._scanned = float("-inf")
        self._looked: dict[int, float] = {}

    def excess(self, pid: int) -> str | None:
        """Say what of a worker uses more than it may, None if nothing does.

        Its process alone is looked at in each call, all of its processes once a second. What several of these share,
        such as the data of a process and of its copies that load it, counts once.
        """
        alone = _resident(pid)
        if alone > self.most:
            return "its process"
        now = time.monotonic()
        if now - self._looked.get(pid, float("-inf")) < LOOK_SECONDS:
            return None
        self._looked[pid] = now
        if now - self._scanned >= LOOK_SECONDS:
            self._children, self._scanned = _children(), now
        started = list(self._descendants(pid))
        # Exactly only where it may be too much: with all that is shared in each of them.
        if alone + sum(map(_resident, started)) <= self.most or _own(pid) + sum(map(_own, started)) <= self.most:
            return None
        return "its process with those that it has started"

    def _descendants(self, pid: int) -> Iterator[int]:
        for child in self._children.get(pid, ()):
            yield child
            yield from self._descendants(child)


def _children() -> dict[int, list[int]]:
    """Return the children of all processes that have some."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit():
            # Behind the name of its program, in which there may be anything.
            fields = _text(f"/proc/{name}/stat").rpartition(")")[2].split()
            if len(fields) > 1:
                found[int(fields[1])].append(int(name))
    return found


def _resident(pid: int) -> int:
    """Return the bytes that a process has in memory, what it shares with others among them; 0 where it is gone."""
    fields = _text(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def _own(pid: int) -> int:
    """Return the bytes that a process has by itself, and its parts of those that it shares; 0 where nobody can tell."""
    lines = [line.split() for line in _text(f"/proc/{pid}/smaps_rollup").splitlines()]
    told = {fields[0]: int(fields[1]) * 1024 for fields in lines if len(fields) == 3}
    return sum(told.get(kind, 0) for kind in (_KINDS if _KINDS[0] in told else _ALL))


def _text(path: str) -> str:
    """Return what the system tells there; nothing of a process that is gone, or of which it does not tell."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
