"""In another order of its parameters a space has other settings: a search goes on in the order in which it began."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from math import inf
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers

import stantune as st
from stantune.outcome import Cost, Outcome
from stantune.parameters import Categorical, Float, Integer, Parameter
from stantune.protocols import Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table import studies
from stantune.search.table.start_from import starting_from
from stantune.search.workers.executors import InProcess
from stantune.space import Space

PARAMETERS: dict[str, Parameter] = {
    "kind": Categorical(("a", "b")),
    "lr": Float(1e-4, 1, log=True),
    "n": Integer(1, 9),
    "drop": Float(0, 0.9),
}
SPACE = Space(PARAMETERS, {"n": {"kind": "b"}})
TURNED = Space(dict(reversed(PARAMETERS.items())), {"n": {"kind": "b"}})
SETTINGS = SearchSettings(seed=0, max_resource=27, min_resource=3, lag=2)


def error_of(params: Any, stop: int) -> float:
    """Return what a setting comes to, whatever the order of its parameters."""
    return float(hashlib.blake2b(f"{sorted(params.items())} {stop}".encode(), digest_size=2).digest()[0])


class Instant:
    """Trains nothing."""

    def train(self, segment: Segment, stop_early: Callable[[], bool], watch: Any) -> Outcome:
        return Outcome(segment.stop, {"error": error_of(segment.params, segment.stop)}, None, False, Cost())


def run(
    path: Path,
    space: Space,
    settings: SearchSettings = SETTINGS,
    most: float = inf,
    code: str = "",
    storage: str | None = None,
    **options: Any,
) -> SearchState:
    """Search, until all is done, or so many trainings are."""
    directory, asked = SearchDirectory(path, storage), 0

    def stop_early() -> bool:
        nonlocal asked
        asked += 1
        return asked > most

    numbers = Numbers(space=space, other={"code": code})
    with directory.locked():
        return search(numbers, settings, directory, InProcess(Instant()), stop_early=stop_early, **options)


def told(state: SearchState) -> Any:
    return [(row.params, row.errors) for row in state.rows], [final.params for final in state.finals.values()]


def drawn_in(path: Path) -> list[str]:
    """Return the order that a table has."""
    directory = SearchDirectory(path)
    identity = studies.identity_of(directory.url, directory.study)
    assert identity is not None
    return list(identity["space"])


@pytest.mark.parametrize("sampler", ["random", "tpe", "bohb"])
def test_cut_again_and_again_with_its_lines_turned_round(tmp_path: Path, sampler: str) -> None:
    settings = replace(SETTINGS, sampler=sampler)
    whole = run(tmp_path / "whole", SPACE, settings)
    assert told(run(tmp_path / "turned", TURNED, settings)) != told(whole), "the order decides"
    for space in cycle([SPACE, TURNED]):
        if (state := run(tmp_path / "cut", space, settings, most=3)).complete:
            break
    assert told(state) == told(whole)


@pytest.mark.parametrize("kind", ["database", "by API", "journal"])
def test_every_storage_keeps_the_order(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "by API":
        monkeypatch.setattr("stantune.search.table.tables._KNOWN_LAYOUT", "v9.9.9.a")
    storage = f"journal:///{tmp_path}/search.log" if kind == "journal" else None
    run(tmp_path / "cut", SPACE, most=4, storage=storage)
    assert told(run(tmp_path / "cut", TURNED, storage=storage)) == told(run(tmp_path / "whole", SPACE))


@pytest.mark.parametrize("first", [{"brackets": 1}, {"code": "older"}])
def test_one_that_is_extended_keeps_the_order(tmp_path: Path, first: dict[str, Any]) -> None:
    code, brackets = first.get("code", ""), first.get("brackets")
    run(tmp_path / "cut", SPACE, replace(SETTINGS, brackets=brackets), most=5, code=code)
    run(tmp_path / "cut", TURNED, most=2, accept_changes=True)
    # The table is this one's by now.
    assert drawn_in(tmp_path / "cut") == list(SPACE)
    assert told(run(tmp_path / "cut", TURNED)) == told(run(tmp_path / "whole", SPACE))


def test_one_that_was_started_from_another_keeps_its_own(tmp_path: Path) -> None:
    run(tmp_path / "old", TURNED, replace(SETTINGS, max_resource=9, seed=4))
    settings = replace(SETTINGS, sampler="tpe", fixed={"kind": "b"}, enqueue=({"lr": 0.1, "drop": 0.5, "n": 3},))

    def started(path: Path, space: Space, most: float = inf) -> SearchState:
        earlier = SearchDirectory.begun(tmp_path / "old")
        return run(path, space, starting_from(settings, Numbers(space=space), SearchDirectory(path), earlier), most)

    started(tmp_path / "cut", SPACE, 14)
    assert told(started(tmp_path / "cut", TURNED)) == told(started(tmp_path / "whole", SPACE))


def test_by_ask_and_tell(tmp_path: Path) -> None:
    def asked(out: Path, space: Space, most: float = inf) -> SearchState:
        with st.open_search(space, minimize="error", max_resource=9, out=out) as opened:
            while most and (segment := opened.ask()) is not None:
                opened.tell(segment, error_of(segment.params, segment.stop))
                most -= 1
            return opened.result.state

    asked(tmp_path / "cut", SPACE, 4)
    assert told(asked(tmp_path / "cut", TURNED)) == told(asked(tmp_path / "whole", SPACE))
