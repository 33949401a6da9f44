"""The control groups of this process, by which Linux limits what it may have: memory, the processors' time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Group(NamedTuple):
    """One control group.

    Attributes:
        folder: its files.
        unified: whether they are named as in version 2, and not as in version 1.
    """

    folder: Path
    unified: bool


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Group]:
    """Yield this process's group of a controller, and each above it: all of them limit the process.

    Args:
        controller: "memory" or "cpu", say.
        root: where proc and sys are mounted.
    """
    for line in lines_of(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        unified = not controllers
        if not unified and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" if unified else root / "sys/fs/cgroup" / controller
        # Within a container the path may be the host's: what is not there limits nothing, and the top is the container.
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            yield Group(folder, unified)
            if folder == top:
                break


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file of the system's, none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
