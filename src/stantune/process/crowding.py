"""What other programs mean for threads that wait for one another."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from stantune.process.machine import usable_cores

# Of the environment: by these a user has said how threads wait.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SAMPLES, SAMPLE_SECONDS = 8, 0.004


def crowding(threads: int, processes: int = 1) -> str:
    """Return what other programs mean for so many threads in each of our processes, "" where there is room for all.

    Where one part of a computation ends all its threads wait for the last. With GNU's OpenMP, which PyTorch has on
    Linux, they do so busily, for milliseconds: of two on one core the one keeps the other from what it waits for.
    """
    cores = os.cpu_count() or 1
    # Of some of the machine's cores nobody knows whether it is these that are busy.
    if threads < 2 or usable_cores() < cores or _limited() or any(name in os.environ for name in WAITING):
        return ""
    others = busy_beside()
    if others is None or others < 1 or threads * processes + others <= cores:
        return ""
    return (
        f"other programs keep {min(others, cores)} of {cores} cores busy, beside which {threads} threads may be many "
        "times slower, since they wait for one another; OMP_WAIT_POLICY=passive in the environment helps, or fewer "
        "`threads`"
    )


def _limited() -> bool:
    """Tell whether this process may use but a share of the cores, as in a container."""
    try:
        return not Path("/sys/fs/cgroup/cpu.max").read_text().startswith("max")
    except OSError:
        return False


def busy_beside() -> int | None:
    """Return how many threads of other programs want a core all the time; None where the system does not tell."""
    found = []
    for _ in range(SAMPLES):
        time.sleep(SAMPLE_SECONDS)
        try:
            told = re.search(r"^procs_running (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
        except OSError:
            return None
        if told is None:
            return None
        # Without the thread that asks.
        found.append(int(told[1]) - 1)
    return min(found)
