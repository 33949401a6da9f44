"""The search without faults that others are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest
from numbers_objective import Numbers
from numbers_search import run

from stantune.search.state import SearchState


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the search without faults is."""
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="session")
def undisturbed(quiet: Path) -> SearchState:
    """The search in one process, without faults."""
    return run(Numbers(quiet), 0)
