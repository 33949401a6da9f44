"""Where a search stands, by hand-made numbers; all searches below a folder; a trial; rows for other programs."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from numbers_objective import Numbers
from told import METRIC, NUMBERS, SETTINGS, outcome, play

from stantune.errors import StantuneError, UsageError
from stantune.outcome import Outcome
from stantune.protocols import Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.opening import open_session
from stantune.search.operating.exporting import Cell, csv_of, parquet_of, rows_of
from stantune.search.operating.status import searches_below, status_of
from stantune.search.operating.trial_report import trial_report
from stantune.search.settings import SearchSettings
from stantune.search.table.looking.look import look
from stantune.search.workers.executors import Failure


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a search that is done: trial 3 diverged, trial 5 failed three times."""
    directory = SearchDirectory(tmp_path_factory.mktemp("searches") / "done")
    play(directory)
    return directory.path


def test_a_search_that_is_done(done: Path) -> None:
    result = status_of(look(done))
    assert (result.state, result.problem, result.unit) == ("done", "numbers", "epoch")
    counts = result.counts
    assert (counts.trials, counts.promoted, counts.diverged, counts.failed, counts.retries) == (17, 4, 1, 1, 2)
    assert [[(rung.iterations, rung.trials, rung.done) for rung in bracket.rungs] for bracket in result.brackets] == [
        [(1, 9, 9), (3, 3, 3), (9, 1, 1)],
        [(3, 5, 5), (9, 1, 1)],
        [(9, 3, 3)],
    ]
    first = result.brackets[0].rungs[0]
    assert (first.diverged, first.promoted) == (2, 3)
    assert (result.finals, result.finals_planned, result.training, result.workers) == (2, 2, [], None)
    assert [(each.trial, each.iterations, each.for_good) for each in result.failures] == [
        (5, 1, False),
        (5, 1, False),
        (5, 1, True),
    ]
    assert result.best is not None
    # Trial 6 of the first bracket was trained to the end: 50 + 6 + 9.
    assert (result.best.trial, result.best.value, result.best.iterations) == (6, 65.0, 9)
    # Of 2 s for each iteration: 9 x 1 (the failed one has no cost), 3 x 2, 6, 5 x 3, 6, 3 x 9, and two final trainings.
    assert result.seconds.training == 2.0 * (8 + 6 + 6 + 15 + 6 + 27 + 18)
    assert (result.seconds_left, result.failure) == (None, None)
    assert result.ended is not None


def test_a_search_that_runs(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    with directory.locked(), open_session(NUMBERS, SETTINGS, directory, places=2) as session:
        segments = [session.ask() for _ in range(3)]
        assert segments[0] is not None
        time.sleep(1.1)
        for segment in segments[:2]:
            assert segment is not None
            session.tell(segment, outcome(segment))
        assert session.ask() is not None
        seen = look(tmp_path)
        result = status_of(seen)
    assert (result.state, result.workers, result.process) == ("running", 2, os.getpid())
    assert [(now.trial, now.iterations, now.stop, now.final) for now in result.training] == [
        (2, 0, 1, False),
        (3, 0, 1, False),
    ]
    assert result.ended is None
    # 2 of 17 trials, each 1 epoch; what is left of the plan (69 epochs in all) and two final trainings of 9.
    assert result.seconds_left == pytest.approx((69 - 2 + 18) * result.seconds.total / 2 / 2)


def test_final_trainings_that_take_weights_as_they_are_take_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Numbers, "can_continue", True, raising=False)
    settings, directory = replace(SETTINGS, final="continue"), SearchDirectory(tmp_path)
    play(directory, settings, most=2)
    # 2 of 69 epochs, 2 s each, at 3 places.
    assert status_of(look(tmp_path)).seconds_left == pytest.approx((69 - 2) * 2 / 3, rel=0.01)
    # All other trainings of trials, two more of the one that fails.
    play(directory, settings, most=17 + 5 + 2 - 2)
    seen = look(tmp_path)
    assert (seen.trials_over, seen.finals_left) == (True, 2)
    assert status_of(look(tmp_path)).seconds_left == 0


def test_what_a_killed_run_was_doing_is_no_news(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    play(directory, most=4)
    note = json.loads(directory.run.read_text())
    training = [{"trial": 4, "at": 0, "stop": 1, "final": False}]
    directory.run.write_text(json.dumps(note | {"ended": None, "seen": note["begun"] + 7, "training": training}))
    result = status_of(look(tmp_path))
    assert (result.state, result.training, result.workers, result.ended) == ("interrupted", [], None, None)
    assert result.seconds_run == pytest.approx(7)


def test_all_searches_below_a_folder(done: Path, tmp_path: Path) -> None:
    os.symlink(done, tmp_path / "a link")
    for number, name in enumerate(("old", "deep/er/one", "broken")):
        play(SearchDirectory(tmp_path / name), most=number + 1)
    (tmp_path / "broken" / "search.db").write_bytes(b"x" * 5000)
    (tmp_path / "no search").mkdir()
    (tmp_path / "no search" / "search.json").write_text(json.dumps({"storage": "search.db", "begun": False}))
    for path in (tmp_path / "old").iterdir():
        os.utime(path, (1e9, 1e9))
    result = searches_below(tmp_path)
    assert [Path(found.directory).relative_to(tmp_path).as_posix() for found in result.searches] == [
        "broken",
        "deep/er/one",
        "old",
    ]
    broken, one, old = result.searches
    assert (broken.state, broken.problem) == (None, None)
    assert broken.error is not None
    assert "cannot be used" in broken.error
    assert (one.problem, one.state, one.trials, one.trials_planned, one.best) == ("numbers", "interrupted", 2, 17, 52.0)
    assert (old.changed, old.error) == ("2001-09-09T01:46:40+00:00", None)
    with pytest.raises(UsageError, match="there is no folder"):
        searches_below(tmp_path / "nowhere")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_no_search_is_left_as_it_is(tmp_path: Path) -> None:
    """No table is made there, nor put into a database of another program."""
    theirs, claimed = tmp_path / "theirs", SearchDirectory(tmp_path / "claimed")
    theirs.mkdir()
    with closing(sqlite3.connect(theirs / "search.db")) as database, database:
        database.execute("CREATE TABLE index_of_mine (word TEXT)")
    with claimed.locked():
        pass
    before = files(theirs), files(claimed.path)
    assert searches_below(tmp_path).searches == []
    for path in (theirs, claimed.path):
        with pytest.raises(UsageError, match="there is no search"):
            look(path)
    assert (files(theirs), files(claimed.path)) == before


def test_a_table_that_is_away_is_made_by_nobody(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path / "search")
    play(directory)
    table = tmp_path / "search" / "search.db"
    table.rename(tmp_path / "away.db")
    with pytest.raises(UsageError, match="there is no search"):
        look(directory.path)
    assert not table.exists()
    (tmp_path / "away.db").rename(table)
    assert look(directory.path).state == "done"


def test_a_trial(done: Path) -> None:
    seen = look(done)
    best = trial_report(seen, 6)
    assert (best.status, best.iterations, best.cause) == ("finished", 9, None)
    assert [(rung.iterations, rung.value, rung.metrics) for rung in best.rungs] == [
        (stop, 56.0 + stop, {METRIC.name: 56.0 + stop, "other": 1.0}) for stop in (1, 3, 9)
    ]
    assert [rung.seconds.training for rung in best.rungs if rung.seconds is not None] == [2.0, 4.0, 12.0]
    assert [(final.rank, final.value) for final in best.finals] == [(0, 65.0)]
    assert best.checkpoint is None
    checkpoint = seen.directory.checkpoint(6)
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes(b"x")
    assert trial_report(seen, 6).checkpoint == str(checkpoint)
    diverged, failed = trial_report(seen, 3), trial_report(seen, 5)
    assert (diverged.status, diverged.diverged_at) == ("diverged", 0)
    assert [(rung.iterations, rung.value) for rung in diverged.rungs] == [(1, None)]
    assert (failed.status, failed.cause) == ("failed", "RuntimeError: [these] shapes do not fit")
    assert len(failed.failures) == 3
    for number in (-1, 17):
        with pytest.raises(UsageError, match=f"there is no trial {number} in .*; its trials are 0 to 16"):
            trial_report(seen, number)


def test_a_row_for_each_trial_and_rung(done: Path) -> None:
    rows = rows_of(look(done))
    # 17 first rungs, 3 + 1 and 1 further ones.
    assert len(rows) == 22
    assert all(list(row) == list(rows[0]) for row in rows)
    assert [(row["rung"], row["accuracy"], row["status"]) for row in rows if row["trial"] == 6] == [
        (1, 57.0, "finished"),
        (3, 59.0, "finished"),
        (9, 65.0, "finished"),
    ]
    (diverged,), (failed,) = ([row for row in rows if row["trial"] == number] for number in (3, 5))
    assert (diverged["accuracy"], diverged["resource"], diverged["diverged_at"]) == (None, 0, 0)
    assert (failed["accuracy"], failed["cause"]) == (None, "RuntimeError: [these] shapes do not fit")
    read = list(csv.DictReader(io.StringIO(csv_of(rows).decode(), newline="")))
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows] == read


def test_metrics_with_the_names_of_columns_lose_none(tmp_path: Path) -> None:
    names = list(rows_of_first(tmp_path / "plain"))

    def of(segment: Segment) -> Outcome | Failure:
        told = outcome(segment)
        return replace(told, metrics={**told.metrics, **dict.fromkeys(names, 0.5)}) if told.metrics else told

    first, plain = rows_of_first(tmp_path / "odd", of), rows_of_first(tmp_path / "plain")
    others = [name for name in names if name != METRIC.name and name != "other"]
    assert {name: first[name] for name in others if not name.startswith("seconds")} == {
        name: plain[name] for name in others if not name.startswith("seconds")
    }
    assert {name: first[f"metric_{name}"] for name in others} == dict.fromkeys(others, 0.5)


def rows_of_first(path: Path, of: Callable[[Segment], Outcome | Failure] = outcome) -> dict[str, Cell]:
    """Return the first row of a search of one trial."""
    play(SearchDirectory(path), SearchSettings(seed=1, max_resource=3, min_resource=3, brackets=1), of=of)
    return rows_of(look(path))[0]


def test_rows_of_several_kinds_are_a_parquet_file() -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    cells = [1, "one", None, True, 2.5, "(1, 2)"]
    rows = [
        {"trial": number, "params_any": cell, "params_none": None, "value": 1.5} for number, cell in enumerate(cells)
    ]
    read = pandas.read_parquet(io.BytesIO(parquet_of(rows)))
    assert list(read["trial"]) == list(range(6))
    assert [None if pandas.isna(cell) else cell for cell in read["params_any"]] == [
        None if cell is None else str(cell) for cell in cells
    ]
    assert len(pandas.read_parquet(io.BytesIO(parquet_of([])))) == 0


def test_an_interrupted_search_has_rows_of_trials_on_their_way(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    settings = SearchSettings(seed=1, max_resource=9, min_resource=3, brackets=1)
    play(directory, settings, most=1)
    with directory.locked(), open_session(NUMBERS, settings, directory) as session:
        assert session.ask() is not None
    rows = rows_of(look(tmp_path))
    assert [(row["trial"], row["rung"], row["accuracy"], row["status"]) for row in rows] == [
        (0, 3, 53.0, "running"),
        (1, 3, None, "running"),
    ], "one waits for its rung's end, and one was being trained"


def test_parquet_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(StantuneError, match=r"pip install 'stantune\[parquet\]'"):
        parquet_of([{"trial": 0}])
