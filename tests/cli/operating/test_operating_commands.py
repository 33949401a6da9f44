"""`stantune status`, `list`, `show`, `export`, `stop`, `delete`: of searches that run, were interrupted, are done."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from numbers_objective import Numbers
from told import play

from stantune.outcome import Cost, Outcome
from stantune.parameters import Categorical
from stantune.protocols import Metric
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.last_run import LastRun
from stantune.search.opening import open_session
from stantune.search.operating.told import ExportResult, ListResult, StatusResult, TrialReport
from stantune.search.settings import SearchSettings
from stantune.space import Space

Stantune = Callable[..., Any]
HELPERS = Path(__file__).parents[2] / "helpers" / "search"
# A search that takes minutes.
LONG = """
import sys
from numbers_objective import Numbers
from stantune.tuning.tune import tune
tune(Numbers(pause=0.05, length=1000), max_resource=1000, out=sys.argv[1])
"""


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """The directory of a search that is done."""
    play(SearchDirectory(tmp_path / "done"))
    return tmp_path / "done"


@contextmanager
def running(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that searches, as soon as it trains."""
    environment = {**os.environ, "PYTHONPATH": str(HELPERS)}
    with subprocess.Popen(
        [sys.executable, "-c", LONG, str(directory)], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            file = SearchDirectory(directory).run
            while not ((run := LastRun.read(file)) and run.training):
                assert process.poll() is None
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def test_status_list_and_stop_of_a_search_that_runs(tmp_path: Path, stantune: Stantune) -> None:
    directory = tmp_path / "long"
    with running(directory) as process:
        seen = stantune("status", directory, "--json", "-")
        result = StatusResult.model_validate_json(seen.out)
        assert (result.state, result.process, result.workers) == ("running", process.pid, 1)
        assert [now.trial for now in result.training] == [0]
        assert f"numbers: running, process {process.pid} on " in seen.err
        assert "1 of 1 workers training" in seen.err
        listed = ListResult.model_validate(stantune("list", tmp_path, "--json", "-").json)
        assert [(found.directory, found.state) for found in listed.searches] == [(str(directory), "running")]
        refused = stantune("delete", directory, "--yes")
        assert refused.code == 2
        assert f"the search in {directory} is running; end it first (stantune stop {directory})" in refused.err
        ended = stantune("stop", directory, "--json", "-")
        assert process.wait(timeout=60) == -signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read().endswith("KeyboardInterrupt\n"), "as Ctrl-C does it"
    assert ended.code == 0
    assert ended.err.startswith(f"asked process {process.pid} on ")
    after = StatusResult.model_validate_json(ended.out)
    assert (after.state, after.failure) == ("interrupted", None)
    assert after.ended is not None
    assert not (directory / "stop.request").exists()
    again = stantune("stop", directory)
    assert (again.code, again.out.splitlines()[0]) == (0, f"no search is running in {directory}")
    log = (directory / "messages.log").read_text().splitlines()
    assert log[0].endswith("begins the search of numbers, or goes on with it")
    assert log[-1].endswith("INFO the search is not complete, and ended in good order")


def test_a_killed_search_is_said_to_be_that(tmp_path: Path, stantune: Stantune) -> None:
    directory = SearchDirectory(tmp_path / "long")
    play(directory, most=2)
    directory.run.write_text(json.dumps(json.loads(directory.run.read_text()) | {"ended": None}))
    said = stantune("status", directory.path).out
    assert f"numbers: interrupted, process {os.getpid()} on " in said
    assert "which was killed, or could not say how it ended; the command that began it goes on from there" in said


def test_one_that_asks_and_tells_is_not_asked_to_stop(tmp_path: Path, stantune: Stantune) -> None:
    from stantune.parameters import Float
    from stantune.space import Space
    from stantune.tuning.ask_and_tell import open_search

    with open_search(Space({"lr": Float(0.1, 1.0)}), max_resource=9, minimize="error", out=tmp_path / "mine"):
        refused = stantune("stop", tmp_path / "mine")
        assert refused.code == 2
        assert "trains by ask and tell and cannot be asked to end; end that program" in refused.err
        assert not (tmp_path / "mine" / "stop.request").exists()


def test_status_of_one_that_begins(tmp_path: Path, stantune: Stantune) -> None:
    with SearchDirectory(tmp_path / "new").locked():
        run = stantune("status", tmp_path / "new")
    assert run.code == 1
    assert run.err == (
        f"stantune: the search in {tmp_path / 'new'} is beginning and has no table yet; look again in a moment\n"
    )


def test_watching_ends_with_the_search(done: Path, stantune: Stantune, monkeypatch: pytest.MonkeyPatch) -> None:
    once = stantune("status", done)
    assert stantune("status", done, "--watch").out == once.out, "it does not run"
    looks: list[float] = []
    # The package has the command under this name.
    module = sys.modules["stantune.cli.operating.status"]

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", sleep)
    with SearchDirectory(done).locked():
        watched = stantune("status", done, "--watch")
    assert (watched.code, watched.err, looks) == (0, "", [module.LINES_SECONDS] * 3)
    assert watched.out.count("numbers: running") == 3
    looks.clear()
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    with SearchDirectory(done).locked():
        drawn = stantune("status", done, "--watch")
    assert (drawn.code, drawn.err, looks) == (0, "", [module.WATCH_SECONDS] * 3)
    # Each look draws it once, and so does the end.
    assert drawn.out.count("numbers: running") == 4
    [header] = {line for line in drawn.out.splitlines() if "bracket" in line and "trials" in line}
    assert header.split() == ["bracket", "epochs", "trials", "done", "diverged", "promoted"]


def test_show(done: Path, stantune: Stantune) -> None:
    run = stantune("show", done, 5, "--json", "-")
    result = TrialReport.model_validate_json(run.out)
    assert (result.trial, result.status) == (5, "failed")
    assert "given up because of RuntimeError: [these] shapes do not fit" in run.err
    best = stantune("show", done, 6).out
    assert "trial 6 of numbers: finished, bracket s = 2, 9 epochs, " in best
    assert "final training of its setting: accuracy 65.00 %" in best
    missing = stantune("show", done, 99)
    assert (missing.code, missing.err) == (
        2,
        f"stantune: there is no trial 99 in {done}; its trials are 0 to 16\n",
    )


def test_what_cannot_be_read_is_listed_with_the_names_of_options(tmp_path: Path, stantune: Stantune) -> None:
    play(SearchDirectory(tmp_path / "damaged"), most=1)
    table = tmp_path / "damaged" / "search.db"
    table.write_bytes(table.read_bytes()[:3000])
    listed = stantune("list", tmp_path)
    assert (listed.code, "unreadable" in listed.out) == (0, True)
    assert "or begin anew with --fresh or in" in " ".join(listed.out.split())
    (found,) = ListResult.model_validate(stantune("list", tmp_path, "--json", "-").json).searches
    assert "begin anew with --fresh" in str(found.error)


def test_export(done: Path, tmp_path: Path, stantune: Stantune) -> None:
    table, url = tmp_path / "table.csv", f"sqlite:///{tmp_path / 'copy.db'}"
    run = stantune("export", done, "--csv", table, "--optuna", url, "--json", "-")
    result = ExportResult.model_validate_json(run.out)
    assert len(result.rows) == 22
    assert len(table.read_text().splitlines()) == 23
    assert f"22 rows of 17 trials in {table}" in run.err
    assert optuna.get_all_study_names(url) == [f"stantune {done}"]
    printed = stantune("export", done, "--csv", "-")
    assert (printed.code, printed.out, printed.err) == (0, table.read_text(), "")
    for options, words in (
        (("--csv", "-", "--json", "-"), "--csv - and --json - would be printed into one another"),
        (("--parquet", "-"), "--parquet - cannot be printed, since it is no text"),
    ):
        refused = stantune("export", done, *options)
        assert refused.code == 2
        assert words in refused.err
    again = stantune("export", done, "--optuna", url)
    assert again.code == 2
    assert "delete that one there, or name another storage" in again.err
    nothing = stantune("export", done)
    assert (nothing.code, nothing.err) == (
        2,
        "stantune: nothing says what to write; give --csv FILE, --parquet FILE, --json FILE or --optuna URL\n",
    )
    nowhere = stantune("export", done, "--csv", tmp_path / "no" / "file.csv")
    assert nowhere.code == 2
    assert "--csv" in nowhere.err
    before = (done / "search.db").read_bytes()
    for command, option, name in (
        ("export", "--csv", "search.db"),
        ("export", "--parquet", "search.json"),
        ("export", "--json", "result.json"),
        ("status", "--json", "search.db"),
        ("show", "--json", "checkpoints/trial-000000.pt"),
        ("list", "--json", "last-run.json"),
    ):
        own = stantune(command, done, *((0,) if command == "show" else ()), option, done / name)
        assert (own.code, own.err) == (
            2,
            f"stantune: {option} {done / name} is a file of what was searched in {done}; name another\n",
        )
    assert (done / "search.db").read_bytes() == before


def test_export_as_parquet(done: Path, tmp_path: Path, stantune: Stantune) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert stantune("export", done, "--parquet", tmp_path / "table.parquet").code == 0
    assert len(pandas.read_parquet(tmp_path / "table.parquet")) == 22


def test_delete_asks_and_leaves_what_is_not_its_own(done: Path, stantune: Stantune) -> None:
    (done / "notes.txt").write_text("mine")
    nobody = stantune("delete", done)
    assert nobody.code == 2
    assert "add --yes to say so where nobody can be asked" in nobody.err
    kept = stantune("delete", done, stdin="n\n")
    assert (kept.code, kept.out.strip()) == (1, "")
    assert f"the search in {done} is left as it is" in kept.err
    assert (done / "search.db").exists()
    gone = stantune("delete", done, stdin="y\n")
    assert (gone.code, gone.out.lstrip()) == (0, f"the search in {done} is deleted (other files in it are left)\n")
    assert [path.name for path in done.iterdir()] == ["notes.txt"]
    assert stantune("delete", done, "--yes").code == 2


def test_delete_of_one_in_a_shared_storage_takes_its_study_alone(tmp_path: Path, stantune: Stantune) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for name in ("one", "other"):
        play(SearchDirectory(tmp_path / name, url), most=2)
    assert stantune("delete", tmp_path / "one", "--yes").code == 0
    assert not (tmp_path / "one").exists()
    assert optuna.get_all_study_names(url) == [f"stantune {tmp_path / 'other'}"]
    assert stantune("status", tmp_path / "other").code == 0
    (tmp_path / "shared.db").unlink()
    gone = stantune("delete", tmp_path / "other", "--yes")
    said = f"the search in {tmp_path / 'other'} is deleted, but for its trials, which were not in {url}\n"
    assert (gone.code, gone.out) == (0, said)


@pytest.mark.parametrize("command", [("status",), ("show", 0), ("export", "--csv", "x.csv"), ("stop",), ("delete",)])
def test_no_search_there(tmp_path: Path, stantune: Stantune, command: tuple[object, ...]) -> None:
    name, *rest = command
    where = [tmp_path / each if isinstance(each, str) and each.endswith(".csv") else each for each in rest]
    run = stantune(name, tmp_path / "nowhere", *where)
    assert run.code == 2
    assert f"there is no search in {tmp_path / 'nowhere'}; give the directory of one, as --out named it" in run.err
    assert list(tmp_path.iterdir()) == []


def test_names_are_shown_as_they_are(tmp_path: Path, stantune: Stantune) -> None:
    place = tmp_path / "[red]:smile:one"
    play(SearchDirectory(place), most=1)
    assert "[red]:smile:one" in " ".join(stantune("list", tmp_path).out.split())
    assert json.loads(stantune("list", tmp_path, "--json", "-").out)["searches"][0]["directory"] == str(place)


def test_nothing_in_a_text_is_obeyed_by_a_terminal(tmp_path: Path, stantune: Stantune) -> None:
    odd = "\x1b[31m[red]\nnext"
    shown = "\\x1b[31m[red]\\nnext"
    metric = Metric(f"error {odd}", unit=odd)
    objective = Numbers(
        name=f"name {odd}",
        length=None,
        unit=f"unit {odd}",
        metric=metric,
        space=Space({"parameter": Categorical((f"choice {odd}", f"other {odd}"))}),
    )
    there = SearchDirectory(tmp_path / "odd")
    settings = SearchSettings(seed=1, max_resource=9, min_resource=1)
    opened = open_session(objective, settings, there)
    with contextlib.suppress(RuntimeError), there.locked(), opened as session:
        for _ in range(2):
            segment = session.ask()
            assert segment is not None
            session.tell(segment, Outcome(segment.stop, {metric.name: 1.0, odd: 2.0}, None, False, Cost()))
        raise RuntimeError(f"failure {odd}")
    assert json.loads(there.run.read_text())["failure"] == "RuntimeError: failure \\x1b[31m[red] next"
    # Another version's, and another machine's.
    there.run.write_text(json.dumps(json.loads(there.run.read_text()) | {"failure": odd, "host": f"host {odd}"}))
    for command, words in (
        (("status", there.path), ("name", "unit", "error", "choice", "host")),
        (("list", tmp_path), ("name", "error")),
        (("show", there.path, 0), ("name", "unit", "error", "choice")),
    ):
        run = stantune(*command)
        assert (run.code, run.err) == (0, "")
        assert not [letter for letter in run.out if letter != "\n" and not letter.isprintable()]
        # A wide table is in parts, one below the other.
        text = "".join(run.out.split())
        for word in words:
            assert f"{word}{shown}" in text or f"other{shown}" in text, (command, word)
    assert json.loads(stantune("status", there.path, "--json", "-").out)["problem"] == f"name {odd}"
