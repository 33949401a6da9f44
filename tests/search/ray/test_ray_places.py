"""Checkpoints behind a URL: whole or not there, fetched and sent; a place that is gone for a while is waited for."""

from __future__ import annotations

import os
import pickle
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from stantune.errors import DamagedCheckpointError, StantuneError, UsageError
from stantune.objectives.choose import find_objective
from stantune.objectives.command.objective import CommandObjective
from stantune.objectives.function.objective import FunctionObjective
from stantune.objectives.function.run import Run
from stantune.outcome import Outcome
from stantune.parameters import Float
from stantune.protocols import Metric, Segment, StopEarly
from stantune.protocols import Place as Where
from stantune.search.directory.directory import SearchDirectory
from stantune.search.ray import places as ray_places
from stantune.search.ray.checkpoints import FetchingOrder, FetchingTrainer
from stantune.search.ray.places import Place, Sign, signed
from stantune.search.settings import SearchSettings
from stantune.search.workers.executors import Failure, attempt
from stantune.search.workers.order import Order
from stantune.space import Space

TINY = f"{Path(__file__).parents[2] / 'tiny_problem.py'}:problem"


@pytest.fixture(params=["path", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder that does not exist yet."""
    memory = fsspec.filesystem("memory")
    yield {
        "path": str(tmp_path / "a [1] folder" / "below"),
        "file": f"file://{tmp_path}/folder/below",
        "memory": "memory://folder/below",
    }[request.param]
    memory.store.clear()


def test_files_come_and_go(url: str, tmp_path: Path) -> None:
    place, here, back = Place(url), tmp_path / "here", tmp_path / "new" / "back"
    assert not place.fetch("one", back)
    here.write_bytes(b"first")
    place.send(here, "one")
    here.write_bytes(b"second")
    place.send(here, "one")
    assert place.holds("one")
    assert place.fetch("one", back)
    assert back.read_bytes() == b"second"
    assert not place.fetch("two", back)
    assert not back.exists(), "not the file of another name"
    place.delete("one")
    place.delete("one")
    assert not place.holds("one")


def test_sweep(url: str) -> None:
    place = Place(url)
    place.sweep("*")
    for name in ("trial-1.pt", "trial-2.pt", ".trial-1.pt.ab.part", "notes.txt"):
        place.write(name)
    place.sweep(".trial-1.pt.*.part", "trial-2.*")
    held = [place.holds(name) for name in ("trial-1.pt", "trial-2.pt", ".trial-1.pt.ab.part", "notes.txt")]
    assert held == [True, False, False, True]


def test_what_fails_to_be_sent_leaves_the_old_file(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, here, back = Place(url), tmp_path / "here", tmp_path / "back"
    here.write_bytes(b"old")
    place.send(here, "one")
    here.write_bytes(b"new")
    monkeypatch.setattr(ray_places, "PATIENCE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(type(place._files), "mv", fail)
        with pytest.raises(StantuneError, match=r"checkpoints in .*below cannot be written \(the net is down\); mend"):
            place.send(here, "one")
    assert place.fetch("one", back)
    assert back.read_bytes() == b"old"
    assert [Path(name).name for name in place._files.ls(place._root, detail=False)] == ["one"]


class Keeping(MemoryFileSystem):  # type: ignore[misc]
    """Renames nothing to a name that there is, and says nothing, as WebHDFS."""

    def mv(self, path1: str, path2: str, **named: Any) -> None:
        if not self.exists(path2):
            super().mv(path1, path2, **named)


class Refusing(Keeping):
    """Says so, as SMB."""

    def mv(self, path1: str, path2: str, **named: Any) -> None:
        if self.exists(path2):
            raise FileExistsError(path2)
        super().mv(path1, path2, **named)


class Renaming(MemoryFileSystem):  # type: ignore[misc]
    """Renames nothing at all, and says nothing."""

    def mv(self, path1: str, path2: str, **named: Any) -> None:
        """Do nothing."""


@pytest.fixture
def memory() -> Iterator[Place]:
    """A place whose file system is to be replaced."""
    place = Place("memory://folder/below")
    yield place
    place._files.store.clear()


@pytest.mark.parametrize("files", [Keeping, Refusing])
def test_a_file_is_replaced_where_renaming_does_not(files: type, memory: Place, tmp_path: Path) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    memory._files = files()
    for content in (b"first", b"second", b"third"):
        here.write_bytes(content)
        memory.send(here, "one")
        assert memory.fetch("one", back)
        assert back.read_bytes() == content
        assert memory.names() == ["one"]


@pytest.mark.parametrize("files", [Keeping, Refusing, Renaming])
def test_what_cannot_be_renamed_is_told_and_leaves_the_old_file(
    files: type, memory: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    memory.write("one", b"old")
    memory._files = files()
    here.write_bytes(b"new")
    rename, renamed = files.mv, 0

    def mv_but_third(self: Any, path1: str, path2: str, **named: Any) -> None:
        nonlocal renamed
        renamed += 1
        if renamed == 3 and files is not Renaming:
            fail()
        rename(self, path1, path2, **named)

    monkeypatch.setattr(ray_places, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(files, "mv", mv_but_third)
    why = "cannot be renamed one" if files is Renaming else "the net is down"
    with pytest.raises(StantuneError, match=rf"checkpoints in memory://folder/below cannot be written \(.*{why}\)"):
        memory.send(here, "one")
    assert memory.fetch("one", back)
    assert back.read_bytes() == b"old"
    assert memory.names() == ["one"]


def test_what_fails_to_be_fetched_leaves_the_old_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, here, back = Place(url), tmp_path / "here", tmp_path / "folder of mine" / "back"
    here.write_bytes(b"new")
    place.send(here, "one")
    back.parent.mkdir()
    back.write_bytes(b"old")

    def torn(name: str, path: str) -> None:
        Path(path).write_bytes(b"n")
        fail()

    monkeypatch.setattr(ray_places, "PATIENCE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(place._files, "get_file", torn)
        with pytest.raises(StantuneError, match=r"cannot be read \(the net is down\); mend"):
            place.fetch("one", back)
    assert back.read_bytes() == b"old"
    assert [file.name for file in back.parent.iterdir()] == ["back"]
    assert place.fetch("one", back)
    assert back.read_bytes() == b"new"


def fail(*arguments: Any, **named: Any) -> None:
    """Fail as a connection does."""
    raise OSError("the net\n  is down")


def test_place_that_is_gone_for_a_while(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, asked = Place(url), 0
    exists = place._files.exists

    def exists_later(path: str) -> bool:
        nonlocal asked
        asked += 1
        return fail() or False if asked < 3 else bool(exists(path))

    monkeypatch.setattr(ray_places, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(place._files, "exists", exists_later)
    assert not place.holds("one")
    assert asked == 3


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nowhere://folder", "is no place that fsspec knows .*; give a URL such as s3://bucket/folder"),
        ("s3://bucket", "needs a package that is not installed .*s3fs"),
    ],
)
def test_no_place(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether it is installed or not.
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UsageError, match=f"`checkpoints`={url} {said}"):
        Place(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nowhere://me:PASS-WORD@host/folder", r"nowhere://me:\*\*\*@host/folder"),
        ("s3://AKIA:PASS-WORD@bucket/folder", r"s3://AKIA:\*\*\*@bucket/folder"),
        ("nowhere::s3://AKIA:PASS-WORD@bucket", r"nowhere::s3://AKIA:\*\*\*@bucket"),
    ],
)
def test_no_message_shows_a_password(url: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UsageError, match=f"`checkpoints`={shown} ") as refused:
        Place(url)
    assert "PASS-WORD" not in str(refused.value)


def test_no_password_is_shown_of_a_place_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(path: str) -> bool:
        raise OSError("cannot log in to memory://me:PASS-WORD@folder with the password PASS-WORD")

    monkeypatch.setattr(ray_places, "PATIENCE_SECONDS", 0.0)
    place = Place("memory://me:PASS-WORD@folder")
    with monkeypatch.context() as patch:
        patch.setattr(place._files, "exists", exists)
        with pytest.raises(
            StantuneError, match=r"in memory://me:\*\*\*@folder cannot be read .*password \*\*\*\)"
        ) as gone:
            place.holds("one")
    assert "PASS-WORD" not in str(gone.value)
    with pytest.raises(StantuneError, match=r"checkpoints in memory://me:\*\*\*@folder; keep them"):
        Sign(place.url, "sign").check()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="each user has a folder for temporary files there")
@pytest.mark.parametrize("there", ["nothing", "a folder of mine", "a link", "a file", "open to a group", "another's"])
def test_checkpoints_pass_through_a_folder_of_ones_own(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"stantune-{os.geteuid()}"
    if there == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif there == "a file":
        folder.touch(mode=0o600)
    elif there != "nothing":
        folder.mkdir(mode=0o700)
    if there == "open to a group":
        folder.chmod(0o770)
    if there == "another's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(folder, 65534, 65534)
    order = FetchingOrder(Order(find_objective(TINY), Where(threads=1)), "memory://folder")
    if there in ("nothing", "a folder of mine"):
        made = order(0)
        assert isinstance(made, FetchingTrainer)
        assert made._scratch == folder / f"{platform.node()}-{os.getppid()}"
        assert folder.stat().st_mode & 0o777 == 0o700
    else:
        with pytest.raises(StantuneError, match=rf"{folder} on node .* is not this user's alone.*; delete it, or"):
            order(0)


def test_sign(url: str, tmp_path: Path) -> None:
    with signed(url) as sign:
        pickle.loads(pickle.dumps(sign)).check()
        with pytest.raises(StantuneError, match=r"it does not see the search's checkpoints in .*elsewhere"):
            Sign(str(tmp_path / "elsewhere"), sign.name).check()
    assert not Place(url).holds(sign.name)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a place where nobody can write")
def test_no_sign_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_places, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(StantuneError, match="checkpoints in /proc/none cannot be written"), signed("/proc/none"):
        pass


def no_stop() -> bool:
    """Go on."""
    return False


def test_trainings_equal_those_without_a_url(url: str, tmp_path: Path, one_thread: None) -> None:
    settings, tiny = SearchSettings(seed=0, max_resource=12, min_resource=4), find_objective(TINY)
    plain, unused = SearchDirectory(tmp_path / "plain"), SearchDirectory(tmp_path / "unused")
    here = tiny.trainer(Where(threads=1))
    order = FetchingOrder(Order(tiny, Where(threads=1)), url)
    params = {"lr": 1e-3, "momentum": 0.5}

    def segments(directory: SearchDirectory) -> list[Segment]:
        trial, seed, final = directory.checkpoint(7), settings.trial_seed(7), directory.final(1)
        return [
            Segment(7, params, 0, 4, seed, trial, bracket=1),
            Segment(7, params, 4, 12, seed, trial, bracket=1),
            Segment(7, params, 0, 12, settings.final_seed(), final, finalist=1),
        ]

    for segment, same in zip(segments(unused), segments(plain), strict=True):
        # Each one on another node, as it were.
        there: FetchingTrainer = pickle.loads(pickle.dumps(order))(0)  # type: ignore[assignment]
        outcome = there.train(segment, no_stop, lambda done: None)
        assert outcome == here.train(same, no_stop, lambda done: None)
        assert not there._scratch.exists()
        assert Place(url).fetch(same.checkpoint.name, tmp_path / "fetched")
        states = [torch.load(file)["state"]["model"] for file in (tmp_path / "fetched", same.checkpoint)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert not (tmp_path / "unused").exists()


class Trains:
    """A trainer that does something else."""

    def __init__(self, do: Callable[[Segment], Outcome]) -> None:
        self._do = do

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        return self._do(segment)


def test_damaged_file_is_told_and_kept_for_who_deletes_it(url: str, tmp_path: Path) -> None:
    place, scratch = Place(url), tmp_path / "scratch"
    (tmp_path / "damaged").write_text("?")
    place.send(tmp_path / "damaged", "trial-000003.pt")

    def damaged(segment: Segment) -> Outcome:
        assert segment.checkpoint.parent == scratch
        assert segment.checkpoint.read_text() == "?"
        raise DamagedCheckpointError("it is damaged")

    segment = Segment(3, {}, 4, 8, 0, tmp_path / "elsewhere" / "trial-000003.pt", bracket=0)
    failure = attempt(FetchingTrainer(Trains(damaged), place, scratch), segment, no_stop, print)
    assert failure == Failure("its checkpoint was cut short or altered", damaged=True)
    assert place.holds("trial-000003.pt")
    assert not scratch.exists()


def test_a_log_that_a_failure_names_stays(url: str, tmp_path: Path) -> None:
    space, scratch = Space({"lr": Float(0.1, 1)}), tmp_path / "scratch"
    fails = CommandObjective("sh -c 'echo {lr} > {dir}/file; echo why >&2; exit {stop}'", space, minimize="loss")

    def failure(trainer: FetchingTrainer, number: int) -> str:
        segment = Segment(number, {"lr": 0.5}, 0, 3, 0, tmp_path / "elsewhere" / f"trial-00000{number}.pt", bracket=0)
        failed = attempt(trainer, segment, no_stop, lambda done: None)
        assert isinstance(failed, Failure)
        return failed.cause

    trainer = FetchingTrainer(fails.trainer(Where(threads=1)), Place(url), scratch)
    causes = [failure(trainer, number) for number in (1, 2)]
    for number, cause in enumerate(causes, 1):
        log = scratch / f"trial-00000{number}" / "stderr.log"
        assert cause.endswith(f"exit code 3: why (see {log})")
        assert "why" in log.read_text()
    assert sorted(path.name for path in scratch.rglob("*") if path.is_file()) == 2 * ["stderr.log"] + 2 * ["stdout.log"]


def test_what_is_kept_under_a_url_is_in_the_checkpoint_and_not_beside_it(url: str, tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def train(run: Run) -> float:
        kept, beside = run.checkpoint_dir / "kept.txt", run.directory / "log.txt"
        seen.append((kept.exists(), beside.exists()))
        kept.write_text("kept")
        beside.write_text("said")
        if run.stop == 3 and len(seen) == 3:
            raise ValueError("it fails")
        return 0.5

    function = FunctionObjective(train, Space({"lr": Float(0.1, 1)}), Metric("loss"))
    scratch = tmp_path / "scratch"
    trainer = FetchingTrainer(function.trainer(Where(threads=1)), Place(url), scratch)
    for start, stop, left in ((0, 1, []), (1, 2, []), (2, 3, ["log.txt"])):
        segment = Segment(1, {"lr": 0.5}, start, stop, 0, tmp_path / "elsewhere" / "trial-000001.pt", bracket=0)
        attempt(trainer, segment, no_stop, lambda done: None)
        assert [path.name for path in scratch.rglob("*.txt")] == left
    assert seen == [(False, False), (True, False), (True, False)]
