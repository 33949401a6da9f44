"""Searches whose table is in a real PostgreSQL or in a journal, killed and gone on with, or with their server away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stantune.search.directory.directory import SearchDirectory
from stantune.search.table import studies
from stantune.search.table.storages.opening import sqlite_url

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")

SCRIPT = Path(__file__).parents[3] / "helpers" / "search" / "at_url.py"
# The iterations at which it is killed; all of the search, the final training's among them, are about 300.
KILLED = (10, 100)


def begin(place: Path, url: str, pause: float, *killed: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(SCRIPT), str(place), url, str(pause), *map(str, killed)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said


def table(place: Path, url: str) -> Any:
    """Return all that the table tells but for costs."""
    directory = SearchDirectory(place, url)
    found = studies.table_of(directory.url, directory.study)
    assert found is not None
    return [(row.number, row.bracket, row.params, row.errors, row.diverged_at) for row in found[1]]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The table of the search that nothing happens to."""
    place = tmp_path_factory.mktemp("undisturbed")
    url = sqlite_url(place / "table.db")
    finish(begin(place, url, 0.0))
    return table(place, url)


@pytest.fixture(scope="module", params=["postgresql", "journal"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        return str(server.url)
    return f"journal:///{tmp_path_factory.mktemp('journal') / 'table.log'}"


def test_killed_and_gone_on_with(tmp_path: Path, url: str, expected: Any) -> None:
    finish(begin(tmp_path, url, 0.005, *KILLED))
    assert table(tmp_path, url) == expected


def test_server_away_for_some_seconds(tmp_path: Path, postgresql: Any, expected: Any) -> None:
    process = begin(tmp_path, postgresql.url, 0.02)
    log, end = tmp_path / "log", time.monotonic() + 240
    while not log.exists() or log.read_bytes().count(b"\n") < 50:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    postgresql.stop()
    try:
        time.sleep(4)
        assert process.poll() is None, "it waits"
    finally:
        postgresql.start()
    finish(process)
    assert table(tmp_path, postgresql.url) == expected
