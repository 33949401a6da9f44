"""What a process runs on: the processor, the system, and versions of what the last bits of a result depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def this_machine() -> dict[str, str]:
    """Return processor, system, and versions of Python and of the packages that are installed; none is imported."""
    found = {"processor": processor_name(), "system": platform.platform(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
