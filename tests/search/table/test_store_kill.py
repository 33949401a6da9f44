"""A search whose process is really killed, again and again, ends in the table of the undisturbed one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stantune.search.plan.hyperband import plan
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store


def dump(path: Path) -> list[Any]:
    """Return all rows of the tables, but for the times and for the ids that only count insertions."""
    queries = (
        "SELECT number, state FROM trials ORDER BY number",
        "SELECT number, param_name, param_value, distribution_json FROM trial_params "
        "JOIN trials USING (trial_id) ORDER BY number, param_name",
        "SELECT number, key, value_json FROM trial_user_attributes JOIN trials USING (trial_id) ORDER BY number, key",
        "SELECT number, step, intermediate_value FROM trial_intermediate_values "
        "JOIN trials USING (trial_id) ORDER BY number, step",
        "SELECT number, objective, value FROM trial_values JOIN trials USING (trial_id) ORDER BY number",
        "SELECT study_name, key, value_json FROM study_user_attributes JOIN studies USING (study_id) ORDER BY key",
    )
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [raw.execute(query).fetchall() for query in queries]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_killed_at_random_moments(simulated: ModuleType, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.db", tmp_path / "killed.db"
    with Store.open(sqlite_url(whole), "killed", simulated.IDENTITY, simulated.SPACE, simulated.METRIC) as store:
        simulated.search(store, plan(27, 1, 3), simulated.outcome(3))
    script = Path(__file__).parents[2] / "helpers" / "search" / "killed_search.py"
    done = subprocess.run(
        [sys.executable, str(script), str(killed), "0"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5, "too few kills to show anything"
    assert dump(killed) == dump(whole)
