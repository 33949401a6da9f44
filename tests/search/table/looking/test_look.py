"""A search is seen in its directory, without its objective, as it was left: while it runs, interrupted, done."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
from pathlib import Path

import pytest
from told import METRIC, NUMBERS, SETTINGS, play

from stantune.errors import StantuneError, UsageError
from stantune.files import write_whole
from stantune.search.directory import last_run as last_run_module
from stantune.search.directory import log as log_module
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.last_run import LastRun
from stantune.search.directory.log import logging_to
from stantune.search.opening import open_session
from stantune.search.plan.finals import winner_of
from stantune.search.plan.measured import Choices
from stantune.search.plan.standings import ranking
from stantune.search.settings import SearchSettings
from stantune.search.table.looking.look import look


def test_each_state_is_told_from_the_others(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path / "search")
    play(directory, most=5)
    seen = look(directory.path)
    assert (seen.state, seen.problem, seen.unit, seen.metric) == ("interrupted", "numbers", "epoch", METRIC)
    assert seen.plan == SETTINGS.plan()
    assert [row.errors for row in seen.rows] == [{1: -51.0}, {1: -52.0}, {1: -53.0}, {}, {1: -55.0}]
    with directory.locked():
        assert look(directory.path).state == "running"
    trials = sum(bracket.rungs[0].trials for bracket in seen.plan)
    # 17 first trainings, 5 further ones, two more of trial 5, which fails; and one of two final trainings.
    play(directory, most=17 + 5 + 2 + 1 - 5)
    seen = look(directory.path)
    assert (seen.state, len(seen.rows), seen.trials_over, seen.finals_left) == ("interrupted", trials, True, 1)
    play(directory)
    seen = look(directory.path)
    assert (seen.state, seen.finals_left, winner_of(seen.finals, METRIC)) == ("done", 0, 0)
    assert seen.finals[0].params == ranking(seen.rows, seen.whole)[0].params


def test_an_asynchronous_search_has_its_plan(tmp_path: Path) -> None:
    settings = SearchSettings(seed=1, max_resource=9, min_resource=1, mode="async", trials=20, lag=4)
    play(SearchDirectory(tmp_path), settings)
    seen = look(tmp_path)
    assert (seen.plan, seen.state, len(seen.rows)) == (settings.plan(), "done", 20)


def test_a_fault_of_ours_is_not_told_as_a_damaged_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = SearchDirectory(tmp_path)
    play(directory, most=5)

    def broken(self: Choices, rows: object) -> None:
        raise ArithmeticError("a fault of ours")

    monkeypatch.setattr(Choices, "plan", broken)
    for use in (lambda: look(tmp_path), lambda: play(directory)):
        with pytest.raises(ArithmeticError, match="a fault of ours"):
            use()


@pytest.mark.parametrize("note", [None, b"{}", b"[", b"\xff"])
def test_a_note_of_the_last_run_that_is_lost_is_done_without(tmp_path: Path, note: bytes | None) -> None:
    directory = SearchDirectory(tmp_path)
    play(directory, most=1)
    directory.run.unlink()
    if note is not None:
        directory.run.write_bytes(note)
    seen = look(tmp_path)
    assert (seen.run, seen.finalists, seen.state) == (None, 1, "interrupted")


def test_a_damaged_identity_is_one_sentence(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path, f"journal:///{tmp_path / 'table.log'}")
    play(directory, most=1)
    journal = tmp_path / "table.log"
    journal.write_text(journal.read_text().replace('"max-iterations":9', '"max-iterations":"many"'))
    with pytest.raises(StantuneError, match=r"the trial table at .* is damaged"):
        look(tmp_path)


def test_where_there_is_no_search_none_is_made(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="there is no search in"):
            look(place)
    assert list(tmp_path.iterdir()) == []


def _no_room(file: Path, data: bytes) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("full", [False, True], ids=["room", "full disk"])
def test_the_last_run_says_how_it_ended(full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = SearchDirectory(tmp_path)
    for name in ("WRITE_SECONDS", "CHANGE_SECONDS"):
        monkeypatch.setattr(last_run_module, name, 0.0)
    opened = open_session(NUMBERS, SETTINGS, directory, places=3)
    with contextlib.suppress(StantuneError), directory.locked(), opened as session:
        segment = session.ask()
        assert segment is not None
        session.moved(segment, 1)
        run = LastRun.read(directory.run)
        assert run is not None
        assert [(now.trial, now.at, now.stop, now.final) for now in run.training] == [(0, 1, 1, False)]
        assert (run.ended, run.places, run.finalists, run.heeds) == (None, 3, 2, False)
        if full:
            monkeypatch.setattr(last_run_module, "write_whole", _no_room)
        raise StantuneError("no room")
    monkeypatch.setattr(last_run_module, "write_whole", write_whole)
    run = LastRun.read(directory.run)
    assert run is not None
    assert run.ended is not None
    assert (run.training, run.failure) == ((), "StantuneError: no room")
    play(directory, most=1)
    assert json.loads(directory.run.read_text())["failure"] is None


def test_the_log_is_rotated_and_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "FILE_BYTES", 1000)
    with logging_to(tmp_path / "messages.log") as log:
        for number in range(200):
            log.log(logging.WARNING if number % 2 else logging.INFO, "line %d, \udcff", number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["messages.log", "messages.log.1", "messages.log.2", "messages.log.3"]
    time, level, said = (tmp_path / "messages.log").read_text().splitlines()[-1].split(" ", 2)
    assert (len(time), level, said) == (24, "WARNING", "line 199, \\udcff")
    with logging_to(tmp_path / "nowhere" / "messages.log") as log:
        log.info("nobody reads this")
    with pytest.raises(KeyError), logging_to(tmp_path / "messages.log"):
        raise KeyError("lost")
    assert (tmp_path / "messages.log").read_text().endswith("ERROR ended: KeyError: 'lost'\n")
