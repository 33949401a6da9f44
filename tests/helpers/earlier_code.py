"""Searches that are begun as earlier versions began them: by what those noted of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stantune.user_code.digest import digest


@contextmanager
def noted_as_before() -> Iterator[None]:
    """Note code by the rule of earlier versions."""

    def earlier(function: object) -> str:
        return digest(function).earlier

    with pytest.MonkeyPatch.context() as patch:
        for module in ("objectives.function", "objectives.lightning", "images"):
            patch.setattr(f"stantune.{module}.objective.digest", earlier)
        yield
