"""Folders that cannot be looked at, also for who may read everything."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def broken_at(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int = errno.EACCES) -> None:
    """Have the system refuse to look at a folder, and into it, with an error's number."""

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any = ".", *args: Any, **named: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path) == str(folder):
                raise OSError(number, os.strerror(number), str(folder))
            return real(path, *args, **named)

        return look

    for name in ("scandir", "listdir", "stat"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
