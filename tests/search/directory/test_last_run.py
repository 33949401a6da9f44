"""What a note of a search's last run may hold, that whoever reads it comes to an end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from told import play

from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.last_run import LastRun
from stantune.search.operating.status import status_of
from stantune.search.table.looking.look import look


@pytest.mark.parametrize(
    "damage",
    [
        {"finalists": 10**12},
        {"finalists": -1},
        {"finalists": 10**400},
        {"begun": 1e20},
        {"begun": -1e20},
        {"seen": float("inf")},
        {"ended": float("nan")},
        {"ended": 1e20},
        {"places": 10**400},
        {"places": -3},
        {"process": 10**400},
        {"training": [{"trial": -(10**9), "at": 1, "stop": 3, "final": False}]},
        {"training": [{"trial": 0, "at": 10**400, "stop": 3, "final": False}]},
    ],
    ids=str,
)
def test_numbers_beyond_all_bounds_are_no_note(damage: dict[str, Any], tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    play(directory, most=4)
    noted = json.loads(directory.run.read_text())
    directory.run.unlink()
    without = status_of(look(tmp_path), now=0.0)
    directory.run.write_text(json.dumps(noted | damage))
    assert LastRun.read(directory.run) is None
    assert status_of(look(tmp_path), now=0.0) == without
