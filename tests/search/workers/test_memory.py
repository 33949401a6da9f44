"""What a process and those that it has started use of memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from stantune.search.workers import memory
from stantune.search.workers.memory import Memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# It holds 100 MB, and has copies of itself, which read all of that as those do that load data, and a file of 100 MB.
# One of them has a child with 100 MB of its own.
FAMILY = """
    import mmap, os, subprocess, sys
    data = bytearray(os.urandom(1 << 20)) * 100
    file = open(sys.argv[1], "rb")
    ready, tell = os.pipe()
    for number in range(4):
        if not os.fork():
            os.close(ready)
            data.count(b"a")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            mapped.find(b"a")
            if number == 3:
                code = "import os, sys; own = bytearray(os.urandom(1 << 20)) * 100; print(flush=True); sys.stdin.read()"
                subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout.readline()
            os.write(tell, b".")
            sys.stdin.read()
            os._exit(0)
    os.close(tell)
    for _ in range(4):
        assert os.read(ready, 1)
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    file = tmp_path_factory.mktemp("data") / "images"
    file.write_bytes(bytes(100 << 20))
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FAMILY), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


def test_what_is_shared_counts_once_and_what_a_child_has_counts(family: int) -> None:
    # 200 MB, and some for each Python.
    assert Memory(300_000_000).excess(family) is None
    assert Memory(190_000_000).excess(family) == "its process with those that it has started"
    assert Memory(90_000_000).excess(family) == "its process"


def test_it_looks_at_all_of_them_once_a_second(family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    usual = memory._children
    monkeypatch.setattr(memory, "_children", lambda: looks.append("") or usual())
    monkeypatch.setattr(memory, "LOOK_SECONDS", 3600.0)
    of = Memory(190_000_000)
    assert [of.excess(family) is None for _ in range(3)] == [False, True, True]
    with subprocess.Popen(["sleep", "60"]) as another:
        assert of.excess(another.pid) is None
        another.kill()
    assert len(looks) == 1
    monkeypatch.setattr(memory, "LOOK_SECONDS", 0.0)
    assert of.excess(family) is not None
    assert len(looks) == 2


def test_of_a_process_that_is_gone_there_is_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert Memory(1).excess(process.pid) is None


def test_where_linux_does_not_tell_kinds_of_memory_apart_files_count(
    family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = memory._text

    def before(path: str) -> str:
        return "".join(line for line in usual(path).splitlines(keepends=True) if not line.startswith("Pss_"))

    monkeypatch.setattr(memory, "_text", before)
    # The file of 100 MB, too.
    assert Memory(390_000_000).excess(family) is None
    assert Memory(290_000_000).excess(family) == "its process with those that it has started"
