"""Values that no search writes are not believed, and one sentence says which they are; those of a search are."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from sound_table import NAME, PLAN, at, fresh_copy

from stantune.errors import StoreError
from stantune.protocols import Metric
from stantune.search.table.store import Store


def trial_of(simulated: ModuleType, kind: str) -> int:
    """The number of the first trial that got into a second rung, that diverged, or that was dropped in its first."""
    of = simulated.outcome(1)
    with_errors = [number for number in range(9) if of(number, 1) is not None]
    promoted = sorted(with_errors, key=lambda number: (of(number, 1), number))[:3]
    return next(
        number
        for number in range(9)
        if {"promoted": number in promoted, "diverged": of(number, 1) is None, "dropped": True}[kind]
        and not (kind == "dropped" and (number in promoted or number not in with_errors))
    )


COSTS = {"exact": 1, "exact_seconds": 0.25}
# Of which trial (None: the study), which attribute or intermediate value, another one in its place, and what is said.
IMPOSSIBLE: list[tuple[str | None, str | int, Any, str]] = [
    ("dropped", 1, -5.0, "the intermediate value of trial {} after 1 is -5, and the error is from 0 to 100"),
    ("dropped", 1, 101.0, "the intermediate value of trial {} after 1 is 101"),
    ("dropped", 1, float("inf"), "the intermediate value of trial {} after 1 is inf, and it is a finite number"),
    ("dropped", 2, 0.0, "trial {} has intermediate values after 1, 2, and its rungs end at 1, 3, 9"),
    ("dropped", 9, 0.0, "trial {} has intermediate values after 1, 9, and its rungs end at 1, 3, 9"),
    ("dropped", -1, 0.0, "trial {} has intermediate values after -1, 1, and its rungs end at 1, 3, 9"),
    ("dropped", "stantune:bracket", 7, "stantune:bracket of trial {} is 7, and it begins in bracket 2"),
    ("dropped", "stantune:bracket", 1, "stantune:bracket of trial {} is 1, and it begins in bracket 2"),
    ("dropped", "stantune:bracket", "2", "stantune:bracket of trial {} is '2', and it is a whole number"),
    ("dropped", "stantune:end", "won", "its trial {} was ended by another program"),
    ("dropped", "stantune:end", "finished", "its trial {} was ended by another program"),
    ("dropped", "stantune:cost:1", {**COSTS, "exact": -1}, "stantune:cost:1 of trial {} has -1 as its exact"),
    ("dropped", "stantune:cost:1", {**COSTS, "exact_seconds": None}, "has None as its exact_seconds"),
    ("dropped", "stantune:cost:2", COSTS, "trial {} has an attribute stantune:cost:2, and no rung"),
    ("dropped", "stantune:cost:²", COSTS, "trial {} has an attribute stantune:cost:²"),
    ("dropped", "stantune:metrics:1", {"error": 7.0}, "stantune:metrics:1 of trial {} has not the intermediate value"),
    ("dropped", "stantune:metrics:1", {"error": "low"}, "stantune:metrics:1 of trial {} has 'low' as its error"),
    ("dropped", "stantune:diverged_at", 4, "stantune:diverged_at of trial {} is 4, and it is a whole number"),
    ("dropped", "stantune:failed", "why not", "stantune:failed of trial {} is 'why not', and its failures are 0"),
    ("dropped", "stantune:failures", [[1, 2]], "stantune:failures of trial {} have [1, 2] among them"),
    ("dropped", "stantune:failures", [[1, "x", 1]], "stantune:failures of trial {} have [1, 'x', 1] among them"),
    ("dropped", "stantune:started_from", "x", "stantune:started_from of trial {} is 'x'"),
    ("dropped", "stantune:taken_over_from:1", 99, "stantune:taken_over_from:1 of trial {} is 99, which is no earlier"),
    ("diverged", "stantune:diverged_at", -1, "stantune:diverged_at of trial {} is -1, and it is a whole number"),
    ("diverged", "stantune:diverged_at", 1.5, "stantune:diverged_at of trial {} is 1.5, and it is a whole number"),
    (None, "stantune:final", {"error": -1.0}, "the metrics in stantune:final is -1, and the error is from 0 to 100"),
    (None, "stantune:final", {"loss": 1.0}, "stantune:final has no error, and says that the training did not diverge"),
    (None, "stantune:final\x07", {"error": 1.0}, "an attribute stantune:final\\x07, and a finalist's rank is a number"),
    (None, "stantune:final:²", {"error": 1.0}, "an attribute stantune:final:², and a finalist's rank is a number"),
]


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_a_value_that_no_search_writes_is_not_believed(
    kind: str, simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for whose, name, value, said in IMPOSSIBLE:
        file = fresh_copy(request.getfixturevalue(kind), tmp_path)
        url, storage = at(file)
        study, number = storage.get_study_id_from_name(NAME), None
        if whose is None:
            kept = storage.get_study_user_attrs(study)["stantune:final"]
            storage.set_study_user_attr(study, str(name), {**kept, "metrics": value})
        else:
            number = trial_of(simulated, whose)
            write(storage, study, number, name, value)
        storage.remove_session()
        with pytest.raises(StoreError) as caught:
            look(simulated, url)
        sentence = str(caught.value)
        assert said.format(number) in sentence
        assert f"the study '{NAME}' in" in sentence
        assert "begin" in sentence
        assert sentence.isprintable()


def write(storage: Any, study: int, number: int, name: str | int, value: Any) -> None:
    """Write into a trial that has ended, which no storage lets anybody do by its own methods."""
    trial = storage.get_all_trials(study)[number]
    if isinstance(storage, optuna.storages.RDBStorage):
        with closing(sqlite3.connect(storage.engine.url.database)) as connection, connection:
            if isinstance(name, int):
                connection.execute(
                    "REPLACE INTO trial_intermediate_values (trial_id, step, intermediate_value, "
                    "intermediate_value_type) VALUES (?, ?, ?, ?)",
                    (trial._trial_id, name, *((None, "INF_POS") if value == float("inf") else (value, "FINITE"))),
                )
            else:
                where = "WHERE trial_id = ? AND key = ?"
                connection.execute(f"DELETE FROM trial_user_attributes {where}", (trial._trial_id, name))
                connection.execute(
                    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                    (trial._trial_id, name, json.dumps(value)),
                )
        return
    # Beside the line of one that was written while it ran.
    of_values = isinstance(name, int)
    file = Path(storage._backend._file_path)
    lines = file.read_text().splitlines()
    like = [json.loads(line) for line in lines]
    ours = [line for line in like if line.get("trial_id") == trial._trial_id]
    there = [line for line in ours if ("step" in line) if of_values] or [line for line in ours if "user_attr" in line]
    changed = {
        **there[0],
        **({"step": name, "intermediate_value": value} if of_values else {"user_attr": {name: value}}),
    }
    place = max(at for at, line in enumerate(like) if line.get("trial_id") == trial._trial_id and "state" not in line)
    lines.insert(place + 1, json.dumps(changed))
    file.write_text("".join(f"{line}\n" for line in lines))


def look(simulated: ModuleType, url: str) -> None:
    """Open a table and read all that is in it."""
    metric = Metric("error", bounds=(0, 100))
    with Store.open(url, NAME, simulated.IDENTITY, simulated.SPACE, metric, begun=True, plan=PLAN) as store:
        store.finals()


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_what_a_search_writes_is_believed(
    kind: str, simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file = fresh_copy(request.getfixturevalue(kind), tmp_path)
    look(simulated, at(file)[0])
