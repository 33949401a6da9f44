"""Locks of files that stay in use: the end of one that is not gives it back, too, in some versions."""

from __future__ import annotations

from typing import Any

import pytest
from filelock import FileLock


def keep_locks(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Have the locks that a module makes stay in use until the test is over."""
    locks: list[FileLock] = []

    def kept(*arguments: Any, **options: Any) -> FileLock:
        locks.append(FileLock(*arguments, **options))
        return locks[-1]

    monkeypatch.setattr(f"{module}.FileLock", kept)
