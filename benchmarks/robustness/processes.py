"""Processes that soaks start, and that searches start for themselves: found in /proc by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.robustness import soaked

# What processes are, by what stands in their command lines. Ray's own ones are none of these.
KINDS = {
    "worker": (b"spawn_main", b"ray::RayWorker"),
    "command": (soaked.PROGRAM.name.encode(), b"tee\0-a", b"read -r line; kill"),
    "other": (b"multiprocessing.resource_tracker",),
}


class Process(NamedTuple):
    """A process that a search has started, by its number and when it began, as numbers are used again."""

    number: int
    began: str


def family(variable: str, mark: str) -> dict[Process, str]:
    """Return the processes in whose environment a variable has this value, Ray's that train for them too; their kinds.

    Those that were forked and run no other program since are none of them.
    """
    found: dict[Process, str] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        line = line_of(int(entry.name))
        kind = next((kind for kind, signs in KINDS.items() if any(sign in line for sign in signs)), None)
        with contextlib.suppress(OSError):
            if kind is None or not _has(Path(entry.path), line, f"{variable}={mark}".encode()):
                continue
            stat = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            if stat[0] not in "ZX":
                found[Process(int(entry.name), stat[19])] = kind
    return found


def _has(process: Path, line: bytes, mark: bytes) -> bool:
    if line.startswith(b"ray::"):
        # It has written over its environment; its node has not.
        parent = Path(process, "stat").read_text().rpartition(")")[2].split()[1]
        process = Path("/proc", parent)
    return mark in Path(process, "environ").read_bytes().split(b"\0")


def line_of(process: int) -> bytes:
    """Return a process's command line, empty where it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def fork(body: Callable[[], object], said: Path) -> int:
    """Run something in a child process, and keep what it says: Python speaks of workers whose parent is gone."""
    process = os.fork()
    if process == 0:
        log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        code = 1
        try:
            body()
            code = 0
        except BaseException:
            # Nobody else would say it, as the process ends here.
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return process
