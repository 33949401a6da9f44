"""What is the same search is known again, however it was said, also in tables that have it as it was given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers
from optuna.storages import RDBStorage
from proposing import Told

from stantune.errors import UsageError
from stantune.outcome import Cost, Outcome
from stantune.protocols import Segment, StopEarly
from stantune.search.directory.directory import SearchDirectory
from stantune.search.identity import said_alike
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table.attributes import ACCEPTED, IDENTITY
from stantune.search.workers.executors import InProcess

NUMBERS = Numbers(length=9)
SETTINGS = SearchSettings(0, 9, 1)


class Instant:
    """Trains nothing; a final training is interrupted unless there is time for it."""

    def __init__(self, finals: bool) -> None:
        self.trained: list[int] = []
        self._finals = finals

    def train(self, segment: Segment, stop_early: StopEarly, watch: Any) -> Outcome:
        self.trained.append(segment.trial)
        if segment.final and not self._finals:
            return Outcome(3, {}, None, True, Cost())
        return Outcome(segment.stop, {"error": 1.0 + segment.trial}, None, False, Cost())


def run(path: Path, finals: bool = True, **settings: Any) -> tuple[SearchState, list[int]]:
    directory, trainer = SearchDirectory(path), Instant(finals)
    with directory.locked():
        return search(NUMBERS, replace(SETTINGS, **settings), directory, InProcess(trainer)), trainer.trained


def attributes(path: Path) -> Mapping[str, Any]:
    storage = RDBStorage(f"sqlite:///{path}/search.db")
    return storage.get_study_user_attrs(storage.get_study_id_from_name("search"))


def note(path: Path, **noted: Any) -> None:
    """Have a table note what earlier versions would have."""
    storage = RDBStorage(f"sqlite:///{path}/search.db")
    study = storage.get_study_id_from_name("search")
    storage.set_study_user_attr(study, IDENTITY, storage.get_study_user_attrs(study)[IDENTITY] | noted)


@pytest.mark.parametrize("sampler", ["random", "tpe", "bohb"])
@pytest.mark.parametrize("first", [3, None])
def test_all_brackets_are_all_however_many_are_given(tmp_path: Path, sampler: str, first: int | None) -> None:
    begun, _ = run(tmp_path, sampler=sampler, brackets=first)
    for brackets in (3, None, 3):
        state, trained = run(tmp_path, sampler=sampler, brackets=brackets)
        assert (state.rows, trained) == (begun.rows, [])
    there = attributes(tmp_path)
    assert there[IDENTITY]["brackets"] == "all"
    assert ACCEPTED not in there


def test_brackets_are_added_one_by_one_up_to_all(tmp_path: Path) -> None:
    for brackets, trials in ((1, 9), (2, 14), (3, 17), (None, 17)):
        assert len(run(tmp_path, brackets=brackets)[0].rows) == trials
    with pytest.raises(UsageError, match="brackets: all there, 2 here"):
        run(tmp_path, brackets=2)


def test_a_device_is_its_kind(tmp_path: Path) -> None:
    begun, _ = run(tmp_path, device="cuda:0")
    for device in ("cuda:1", "cuda", "cuda:0"):
        state, trained = run(tmp_path, device=device)
        assert (state.rows, trained) == (begun.rows, [])
    there = attributes(tmp_path)
    assert there[IDENTITY]["device"] == "cuda"
    assert ACCEPTED not in there
    with pytest.raises(UsageError, match="device: cuda there, cpu here"):
        run(tmp_path, device="cpu")


class Other(Told):
    identity: Mapping[str, Any] = {"a": 2}


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"sampler": "tpe", "lag": 4}, {"sampler": "tpe", "lag": 9}, "lag: 4 there, 9 here"),
        ({"sampler": Told()}, {"sampler": Other()}, r"sampler-settings\.a: 1 there, 2 here"),
        ({"enqueue": ({"lr": 0.2},)}, {"enqueue": ({"lr": 0.3},)}, r"enqueue: .*0\.2.* there, .*0\.3.* here"),
    ],
    ids=["lag", "settings of a sampler", "given settings"],
)
def test_other_proposals_are_of_another_search(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], said: str
) -> None:
    begun, _ = run(tmp_path, **there)
    with pytest.raises(UsageError, match=said):
        run(tmp_path, **here)
    state, trained = run(tmp_path, **there)
    assert (state.rows, trained) == (begun.rows, [])


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_tables_of_earlier_versions_are_known_again(tmp_path: Path, sampler: str) -> None:
    """As they were, a final training that is under way is gone on with."""
    begun, _ = run(tmp_path, False, sampler=sampler, device="cuda")
    assert not begun.finals
    (tmp_path / "final.pt").write_text("under way")
    for brackets, device in ((3, "cuda:1"), ("all", "cuda:0")):
        note(tmp_path, brackets=brackets, device=device)
        state, trained = run(tmp_path, False, sampler=sampler, device="cuda:1")
        assert (state.rows, trained) == (begun.rows, [0])
        assert (tmp_path / "final.pt").exists()
    note(tmp_path, brackets=3, device="cuda:1")
    with pytest.raises(UsageError, match="device: cuda there, cpu here"):
        run(tmp_path, sampler=sampler)


@pytest.mark.parametrize(
    ("noted", "brackets"),
    [
        ({}, "all"),
        ({"brackets": 2}, 2),
        ({"max-iterations": 27}, 3),
        # Measured brackets are as many as are asked for.
        ({"search-plan": "measured"}, 3),
        # What no search writes is left as it is, for whoever says so.
        ({"eta": 1}, 3),
        ({"eta": "3"}, 3),
        ({"brackets": "some"}, "some"),
    ],
)
def test_only_as_many_brackets_as_there_are_are_all(noted: dict[str, Any], brackets: object) -> None:
    identity = {"max-iterations": 9, "min-iterations": 1, "eta": 3, "variant": "algorithm1", "brackets": 3} | noted
    assert said_alike(identity) == identity | {"brackets": brackets}
    assert said_alike(said_alike(identity)) == said_alike(identity)
    assert json.loads(json.dumps(said_alike(identity))) == said_alike(identity)


def test_what_is_not_noted_is_not_added() -> None:
    assert said_alike({"seed": 1}) == {"seed": 1}
