"""Files that are there whole or not at all, with the permissions of ordinary files."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from broken_folders import broken_at

from stantune.files import MOST_BYTES, all_below, mode_of, read_json, read_small, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and pipes as POSIX has them")


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(3_000_000)])
def test_the_content_is_the_one_given(content: bytes, tmp_path: Path) -> None:
    for _ in range(2):
        write_whole(tmp_path / "f", content)
        assert (tmp_path / "f").read_bytes() == content
        write_whole(tmp_path / "f", b"other")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(("failure", "kind"), [(fail, OSError), (interrupt, KeyboardInterrupt)])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    function: str,
    failure: Callable[..., None],
    kind: type[BaseException],
    old: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "f"
    if old is not None:
        path.write_bytes(old)
    monkeypatch.setattr(os, function, failure)
    with pytest.raises(kind):
        write_whole(path, b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {"f": old})


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0o027, 0o640)])
def test_a_new_file_obeys_the_umask_and_an_old_one_keeps_its_mode(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "f", b"new")
        assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode
        (tmp_path / "f").chmod(0o604)
        write_whole(tmp_path / "f", b"newer")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o604


@posix
def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "f")
    for content in (b"one", b"two"):
        write_whole(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "f").read_bytes() == content
    assert len(list((tmp_path / "there").iterdir())) == 1


def test_what_has_no_end_is_not_read_to_it(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    large.touch()
    os.truncate(large, MOST_BYTES)
    assert len(read_small(large)) == MOST_BYTES
    os.truncate(large, MOST_BYTES + 1)
    for read in (read_small, read_json):
        with pytest.raises(OSError, match="too large") as told:
            read(large)
        assert told.value.errno == errno.EFBIG


@posix
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    # Whoever names the null device, and may write where it is, must find it there afterwards.
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, b"through")
    reader.join(10)
    assert got == [b"through"]
    assert pipe.is_fifo()


def test_a_place_that_cannot_be_written_to_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "f", b"")
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_whole(tmp_path / "file" / "f", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@posix
def test_a_file_system_that_cannot_sync_directories_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def only_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    write_whole(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_content_is_synced_before_the_name_and_the_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real = os.replace

    def sync(handle: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"{os.fstat(handle).st_size} bytes")

    def replace(*paths: Path) -> None:
        done.append("name")
        real(*paths)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_whole(tmp_path / "f", b"12345")
    assert done == ["5 bytes", "name", "directory"][: 3 if os.name == "posix" else 2]


WRITER = """
import sys
from pathlib import Path
from stantune.files import write_whole
print("go", flush=True)
while True:
    for letter in b"ab":
        write_whole(Path(sys.argv[1]), bytes([letter]) * 4_000_000)
"""


@posix
def test_a_killed_writer_leaves_one_of_the_two_contents(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for milliseconds in (40, 55, 71, 90):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(milliseconds / 1000)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        content = path.read_bytes()
        assert content in (b"a" * 4_000_000, b"b" * 4_000_000)


def test_what_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    for name in ("b/deep/1", "b/2", "a b"):
        (tmp_path / name).touch()
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to("self")
    names = ["a b", "b", "b/2", "b/deep", "b/deep/1", "b/self", "b/up"]
    assert [path.relative_to(tmp_path).as_posix() for path in all_below(tmp_path)] == names
    kinds = {"a b": stat.S_IFREG, "b/up": stat.S_IFDIR, "b/self": 0, "b/2/no": 0, "no": 0}
    assert {name: stat.S_IFMT(mode_of(tmp_path / name)) for name in kinds} == kinds
    broken_at(monkeypatch, tmp_path / "b" / "deep")
    for look in (all_below, mode_of):
        with pytest.raises(PermissionError):
            look(tmp_path / "b" / "deep")
    with pytest.raises(PermissionError):
        all_below(tmp_path)
