"""A search's directory keeps other searches out and is tidy after a kill."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from kept_locks import keep_locks

from stantune.errors import StantuneError, StoreError, UsageError
from stantune.parameters import Float
from stantune.protocols import Metric
from stantune.search.directory.directory import SearchDirectory
from stantune.search.table.storages.opening import sqlite_url
from stantune.search.table.store import Store
from stantune.space import Space

# Is killed under the lock, which a process that it has started keeps for a moment.
KILLED = """
import fcntl, os, signal, subprocess, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
subprocess.Popen(["sleep", "0.3"], pass_fds=[lock])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_half_written_files_of_a_killed_search_are_swept_and_whole_ones_kept(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    parts = [tmp_path / ".result.json.0a.part", checkpoints / ".trial-000001.pt.ff.part"]
    # What a search puts there while it finds out whether other nodes see it.
    parts += [tmp_path / ".0123456789abcdef.part"]
    whole = [tmp_path / "final.pt", checkpoints / "trial-000001.pt", tmp_path / "notes.part"]
    # Another program's, which may be writing them now.
    whole += [tmp_path / ".backup.tar.part", tmp_path / ".backup.tar.0a.part", tmp_path / ".a.part"]
    whole += [checkpoints / ".copy.part"]
    with SearchDirectory(tmp_path).locked():
        pass
    checkpoints.mkdir()
    for file in (*parts, *whole):
        file.write_bytes(b"x")
    with SearchDirectory(tmp_path).locked():
        assert not any(file.exists() for file in parts)
    assert all(file.exists() for file in whole)


def test_what_is_not_the_search_s_is_left_where_it_is_cleared(tmp_path):
    directory = SearchDirectory(tmp_path)
    mine = [directory.checkpoint(1), directory.final(), directory.final(1), directory.final(11), directory.result]
    mine += [directory.run, directory.log, tmp_path / "messages.log.2"]
    names = ("final_model.pt", "final-report.pt", "final.txt", "mine.pt", "messages.log.old", "last-run.json.mine")
    others = [tmp_path / name for name in names]
    directory.checkpoint(1).parent.mkdir()
    for file in (*mine, *others):
        file.write_bytes(b"x")
    directory.clear()
    assert [file.name for file in mine if file.exists()] == []
    assert all(file.exists() for file in others)


def test_a_second_search_is_kept_out_and_sweeps_nothing(tmp_path):
    with SearchDirectory(tmp_path).locked():
        part = tmp_path / ".final.pt.0a.part"
        part.write_bytes(b"x")
        with pytest.raises(StoreError, match="another search is running"), SearchDirectory(tmp_path).locked():
            pass
        assert part.exists()


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_the_lock_of_a_killed_search_is_waited_for_while_a_worker_that_was_being_started_has_it(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / ".lock"], check=False).returncode < 0
    with SearchDirectory(tmp_path).locked():
        pass


@pytest.mark.parametrize(
    "name",
    [
        "final.pt",
        "final-2.pt",
        "best.pt",
        "best-2.pt",
        "checkpoints",
        "result.json",
        "trial-000001.pt",
        "last-run.json",
        "messages.log",
        "messages.log.1",
        "stop.request",
        ".lock",
    ],
)
def test_what_another_program_wrote_is_neither_deleted_nor_overwritten(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    for _ in range(2):
        with (
            pytest.raises(UsageError, match=f"holds {name}, which no search wrote"),
            SearchDirectory(tmp_path).locked(),
        ):
            pass
    assert (tmp_path / name).read_bytes() == b"mine"
    assert not (tmp_path / "search.json").exists()


@pytest.mark.parametrize("written", ["", "4711\nnode\n", "filelock/2\n"])
def test_a_lock_as_a_search_leaves_it_is_taken(tmp_path: Path, written: str) -> None:
    (tmp_path / ".lock").write_text(written)
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        directory.delete()
    assert not tmp_path.exists()


@pytest.mark.parametrize("database", [True, False])
def test_a_database_of_another_program_is_no_search_s(tmp_path: Path, database: bool) -> None:
    file = tmp_path / "search.db"
    if database:
        with closing(sqlite3.connect(file)) as theirs, theirs:
            theirs.execute("CREATE TABLE index_of_mine (word TEXT)")
    else:
        file.write_text("a list of what I look for")
    before = file.read_bytes()
    with (
        pytest.raises(UsageError, match=r"holds search\.db, which no search wrote"),
        SearchDirectory(tmp_path).locked(),
    ):
        pass
    assert file.read_bytes() == before
    assert not (tmp_path / "search.json").exists()


def begin(directory: SearchDirectory) -> None:
    """Have a search's table in a directory."""
    Store.open(directory.url, "search", {"seed": 0}, Space({"lr": Float(0.1, 1)}), metric=Metric("error")).release()


def theirs(folder: Path, name: str = "my-thesis") -> bytes:
    """Have an Optuna database of another program's in a folder; return it."""
    optuna.create_study(storage=sqlite_url(folder / "search.db"), study_name=name).enqueue_trial({"x": 1})
    return (folder / "search.db").read_bytes()


@pytest.mark.parametrize("name", ["my-thesis", "search"])
def test_a_database_of_optuna_s_that_no_search_made_is_no_search_s(tmp_path: Path, name: str) -> None:
    before = theirs(tmp_path, name)
    others = ("best.pt", "result.json", "final/plot.txt")
    (tmp_path / "final").mkdir()
    for other in others:
        (tmp_path / other).write_text("mine")
    for begun in (True, False):
        directory = SearchDirectory.begun(tmp_path) if begun else SearchDirectory(tmp_path)
        assert not directory.may_hold_search()
        with pytest.raises(UsageError, match=r"holds search\.db, which no search wrote"), directory.locked():
            directory.delete()
    assert (tmp_path / "search.db").read_bytes() == before
    assert [(tmp_path / other).read_text() for other in others] == ["mine"] * 3
    assert not (tmp_path / "search.json").exists()


@pytest.mark.parametrize("file", ["result.json", "best.pt", None])
def test_a_database_that_is_named_as_storage_says_nothing_of_what_lies_beside_it(
    tmp_path: Path, file: str | None
) -> None:
    theirs(tmp_path)
    directory = SearchDirectory(tmp_path, sqlite_url(tmp_path / "search.db"))
    if file is None:
        with directory.locked():
            directory.delete()
    else:
        (tmp_path / file).write_text("mine")
        with pytest.raises(UsageError, match=f"holds {file}, which no search wrote"), directory.locked():
            directory.delete()
        assert (tmp_path / file).read_text() == "mine"
    assert optuna.get_all_study_names(directory.url) == ["my-thesis"]


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_a_search_s_database_goes_with_it_but_for_other_studies(tmp_path: Path, noted: bool, shared: bool) -> None:
    url = sqlite_url(tmp_path / "search.db")
    if noted:
        with SearchDirectory(tmp_path).locked():
            pass
    begin(SearchDirectory(tmp_path))
    if shared:
        optuna.create_study(storage=url, study_name="stantune exported").enqueue_trial({"x": 1})
    directory = SearchDirectory.begun(tmp_path)
    assert directory.may_hold_search()
    with directory.locked():
        assert directory.delete()
    if shared:
        assert optuna.get_all_study_names(url) == ["stantune exported"]
        assert len(optuna.load_study(storage=url, study_name="stantune exported").trials) == 1
        assert {path.name for path in tmp_path.iterdir()} <= {"search.db", "search.db-wal", "search.db-shm"}
    else:
        assert not tmp_path.exists()


def test_a_database_that_cannot_be_read_now_is_left_with_all_that_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stantune.search.table.storages.opening.PATIENCE_SECONDS", 0.1)
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        begin(directory)
        directory.final().write_bytes(b"x")
    with closing(sqlite3.connect(tmp_path / "search.db", isolation_level=None)) as another:
        another.execute("PRAGMA journal_mode = DELETE")
        another.execute("BEGIN EXCLUSIVE")
        with directory.locked(), pytest.raises(StoreError, match="may hold other studies") as caught:
            directory.clear()
        another.execute("ROLLBACK")
    assert str(tmp_path / "search.db") in str(caught.value)
    assert directory.final().exists()
    with directory.locked():
        assert directory.delete()


@pytest.mark.parametrize("noted", [True, False])
def test_a_damaged_table_is_deleted_with_its_search_and_is_nobody_elses_traceback(tmp_path: Path, noted: bool) -> None:
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        begin(directory)
    database = tmp_path / "search.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    database.write_bytes(database.read_bytes().replace(b"CREATE TABLE studies", b"CREATE T\xff\xfe\xfa studies"))
    if noted:
        with directory.locked():
            assert directory.delete()
        assert not tmp_path.exists()
    else:
        (tmp_path / "search.json").unlink()
        with pytest.raises(UsageError, match=r"holds search\.db"), directory.locked():
            pass


def test_what_a_kill_left_half_written_is_deleted_too(tmp_path: Path) -> None:
    """Where the file system has no write-ahead mode."""
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        begin(directory)
    killed = (
        "import os, sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode = DELETE')\nc.execute('PRAGMA cache_size = 1')\nc.execute('BEGIN')\n"
        "c.execute('CREATE TABLE filler (x)')\n"
        "for _ in range(200): c.execute('INSERT INTO filler VALUES (randomblob(4000))')\nos._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", killed, tmp_path / "search.db"], check=False)
    assert (tmp_path / "search.db-journal").stat().st_size
    with directory.locked():
        assert directory.delete()
    assert not tmp_path.exists()


@pytest.mark.parametrize("before", ["nothing", "file", "folder"])
@pytest.mark.parametrize("now", ["file", "folder"])
def test_a_file_or_a_folder_is_set_aside_and_what_was_set_aside_before_is_kept(
    tmp_path: Path, before: str, now: str
) -> None:
    def make(path: Path, kind: str) -> None:
        if kind == "folder":
            path.mkdir()
        if kind != "nothing":
            (path / "weights" if kind == "folder" else path).write_text(kind)

    def held(path: Path) -> str:
        return (path / "weights" if path.is_dir() else path).read_text()

    directory = SearchDirectory(tmp_path)
    final, aside = directory.final(), tmp_path / "final.pt.aside"
    directory.set_aside(final)
    make(aside, before)
    directory.set_aside(final)
    assert aside.exists() == (before != "nothing"), "nothing takes no place"
    make(final, now)
    directory.set_aside(final)
    newest = aside if before == "nothing" else tmp_path / "final.pt.aside.2"
    assert (held(newest), final.exists()) == (now, False)
    assert before == "nothing" or held(aside) == before
    make(final, before)
    directory.discard(final)
    assert not final.exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    directory = SearchDirectory(tmp_path)
    directory.make_room(directory.checkpoint(0))
    directory.checkpoint(0).write_bytes(b"x")
    monkeypatch.setattr("stantune.search.directory.directory.write_whole", full)
    monkeypatch.setattr(Path, "mkdir", full)
    said = r"cannot be written \(No space left on device\); make room"
    with pytest.raises(StantuneError, match=f"final.pt {said}"):
        directory.copy(directory.checkpoint(0), directory.final())
    with pytest.raises(StantuneError, match=f"checkpoints {said}"):
        directory.make_room(directory.checkpoint(1))


@pytest.mark.parametrize(
    ("name", "owned"),
    [
        *[
            (name, True)
            for name in ("search.db", "search.json", "result.json", "final-2.pt", "messages.log.1", ".lock")
        ],
        *[(name, True) for name in ("checkpoints/any", "other/../best.pt", "link/search-options.toml")],
        *[(name, False) for name in ("trials.csv", "report.html", "other/search.db", "../search.db", "search.db.csv")],
    ],
)
def test_which_files_are_a_search_s_own(tmp_path: Path, name: str, owned: bool) -> None:
    directory = SearchDirectory(tmp_path / "search")
    with directory.locked():
        (directory.path / "link").symlink_to(directory.path)
        assert directory.owns(directory.path / name) == owned


def test_a_kill_while_it_is_cleared_leaves_a_search_that_goes_on(tmp_path, monkeypatch):
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        directory.checkpoint(1).parent.mkdir()
        for file in (directory.checkpoint(1), directory.final(), directory.best(1), tmp_path / "search.db"):
            file.write_bytes(b"x")
        (tmp_path / "final").mkdir()
        (tmp_path / "final" / "stdout.log").write_text("said")
        deleted = []
        unlink = Path.unlink

        def noted(path, **options):
            deleted.append(path.name)
            unlink(path, **options)

        monkeypatch.setattr(Path, "unlink", noted)
        directory.clear()
    assert deleted.index("search.db") > max(deleted.index("final.pt"), deleted.index("trial-000001.pt"))
    assert {path.name for path in tmp_path.iterdir()} <= {"search.json", ".lock"}
    with directory.locked():
        assert not directory.was_begun()


def test_a_linked_folder_of_checkpoints_is_emptied_and_kept(tmp_path):
    there, directory = tmp_path / "large disk", SearchDirectory(tmp_path / "search")
    there.mkdir()
    with directory.locked():
        (directory.path / "checkpoints").symlink_to(there)
        (there / "trial-000003.pt").write_bytes(b"x")
        (there / "somebody's").write_bytes(b"x")
        directory.clear()
    assert [path.name for path in there.iterdir()] == ["somebody's"]


def test_whether_a_process_works_there_is_seen_without_writing(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path / "search")
    assert not directory.in_use(), "there is no such directory"
    with directory.locked():
        assert directory.in_use()
        assert directory.in_use(), "those who look are not taken for a search"
    assert not directory.in_use()
    with directory.locked():
        pass


def test_what_was_asked_of_an_earlier_run_is_not_asked_of_this_one(tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    directory.ask_to_stop()
    directory.take_back()
    with directory.locked():
        directory.ask_to_stop()
        assert directory.asked_to_stop()
    with directory.locked():
        assert not directory.asked_to_stop()


@pytest.mark.parametrize(
    "others", [(), ("notes.txt",), ("best/notes.txt",), ("best-2/notes.txt",), ("best.checkpoint/notes.txt",)]
)
def test_a_deleted_search_leaves_what_is_not_its_own(tmp_path: Path, others: tuple[str, ...]) -> None:
    directory = SearchDirectory(tmp_path / "search")
    with directory.locked():
        own = (
            "search.db",
            "messages.log",
            "last-run.json",
            "final.pt",
            "final-2.pt.aside",
            "final-2.pt.aside.2",
            "best.pt",
            "best-2.pt.aside",
            "best-2.pt.aside.10",
        )
        for name in (*own, "final/stdout.log", *others):
            (directory.path / name).parent.mkdir(exist_ok=True)
            (directory.path / name).write_bytes(b"x")
        directory.delete()
    left = [str(path.relative_to(directory.path)) for path in directory.path.rglob("*") if path.is_file()]
    assert (directory.path.exists(), left) == (bool(others), list(others))


@pytest.mark.parametrize("note", ["[" * 100_000, '{"storage": ' + "9" * 5000 + "}", "5", "{}", None])
def test_a_note_that_is_none_is_one_sentence(note: str | None, tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    if note is None:
        file.mkdir()
    else:
        file.write_text(note)
    directory = SearchDirectory.begun(tmp_path)
    assert directory.url == SearchDirectory(tmp_path).url, "as where there is no note"
    with pytest.raises(StoreError, match=r"cannot be read|is damaged") as caught, directory.locked():
        pass
    assert str(file) in str(caught.value)
    assert "`out`" in str(caught.value)


def test_another_thread_may_close_what_one_has_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_locks(monkeypatch, "stantune.search.directory.directory")
    for _ in range(2):
        opened = SearchDirectory(tmp_path).locked()
        with ThreadPoolExecutor(1) as one:
            one.submit(opened.__enter__).result(60)
        with ThreadPoolExecutor(1) as another:
            another.submit(opened.__exit__, None, None, None).result(60)
