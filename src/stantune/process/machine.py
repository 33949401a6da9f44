"""What a process runs on: the processor, the system, and versions of what the last bits of a result depend on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stantune.process.control_groups import Group, control_groups, lines_of

PACKAGES = ("stantune", "torch", "numpy", "optuna")


def described_processor() -> dict[str, str]:
    """Return what Linux says of the first processor, by its names; nothing on other systems."""
    described: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        described.setdefault(name.strip(), value.strip())
    return described


def processor_name() -> str:
    """Return the processor's name, or else its architecture."""
    return described_processor().get("model name") or platform.processor() or platform.machine()


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: it may run on them, and has time on so many at once.

    A container may have all cores of its machine, and of their time as much as two have (`docker run --cpus=2`).

    Args:
        root: where proc and sys are mounted.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(allowed for group in control_groups("cpu", root) for allowed in _cores_in(group))])


def _cores_in(group: Group) -> Iterator[int]:
    """Yield of how many cores a control group has the time, rounded up; nothing where it is not limited."""
    if group.unified:
        told = "".join(lines_of(group.folder / "cpu.max")).split()
    else:
        told = ["".join(lines_of(group.folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")]
    # Without a limit the quota is "max", or -1.
    if len(told) == 2 and all(number.isdecimal() for number in told) and int(told[1]):
        yield max(1, -(-int(told[0]) // int(told[1])))


def this_machine() -> dict[str, str]:
    """Return processor, system, and versions of Python and of the packages that are installed; none is imported."""
    found = {"processor": processor_name(), "system": platform.platform(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
