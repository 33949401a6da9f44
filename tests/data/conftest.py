"""Two data sets of a few images in the real formats, and stand-ins for the places they come from."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stantune.images.data.fetching import catalog
from stantune.images.data.fetching.catalog import DataFile, Description
from stantune.images.data.reading.formats import write_batch


@dataclass
class Tiny:
    """A small registered data set, the bytes of its files and what they hold (images in NHWC)."""

    description: Description
    contents: dict[str, bytes]
    images: dict[str, NDArray[np.uint8]]
    labels: dict[str, NDArray[np.uint8]]

    def write(self, root: Path) -> Path:
        """Put all files in place by hand and return their folder."""
        folder = root / self.description.folder
        folder.mkdir(parents=True)
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        return folder


def idx(values: NDArray[np.uint8]) -> bytes:
    """The IDX format written down anew, so that reading is not tested against itself."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Data set "tiny": IDX files of 6 training and 4 test images of 5x3."""
    random = np.random.default_rng(1)
    contents, images, labels, files = {}, {}, {}, []
    for part, count in (("train", 6), ("test", 4)):
        pixels = random.integers(0, 256, (count, 5, 3), dtype=np.uint8)
        marks = random.integers(0, 10, count, dtype=np.uint8)
        images[part], labels[part] = pixels[..., None], marks
        for kind, values in (("images", pixels), ("labels", marks)):
            name = f"{part}-{kind}"
            contents[name] = idx(values)
            files.append(DataFile(name, part, kind, values.shape, hashlib.sha256(contents[name]).hexdigest()))
    description = Description(
        "tiny", "Tiny/raw", 10, tuple(files), official="http://127.0.0.1:9/", npm="tiny@1", debian="dataset-tiny"
    )
    monkeypatch.setitem(catalog.DATASETS, "tiny", description)
    return Tiny(description, contents, images, labels)


@pytest.fixture
def tiny_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tiny:
    """Data set "tiny-batches": Python batches of 3 + 2 training and 4 test images of 3x4x5."""
    random = np.random.default_rng(2)
    contents, parts, files = {}, {"train": [], "test": []}, []
    for name, part, count in (("data_batch_1", "train", 3), ("data_batch_2", "train", 2), ("test_batch", "test", 4)):
        planes = random.integers(0, 256, (count, 3, 4, 5), dtype=np.uint8)
        marks = random.integers(0, 10, count, dtype=np.uint8)
        digest = hashlib.sha256(planes.tobytes() + marks.tobytes()).hexdigest()
        write_batch(tmp_path / "made", planes.reshape(count, -1), marks)
        contents[name] = (tmp_path / "made").read_bytes()
        parts[part].append((np.moveaxis(planes, 1, 3), marks))
        files.append(DataFile(name, part, "batch", planes.shape, digest))
    (tmp_path / "made").unlink()
    description = Description(
        "tiny-batches", "tiny-py", 10, tuple(files), official="http://127.0.0.1:9/tiny.tar.gz", npm="tinyc@1"
    )
    monkeypatch.setitem(catalog.DATASETS, "tiny-batches", description)
    return Tiny(
        description,
        contents,
        {part: np.concatenate([images for images, _ in made]) for part, made in parts.items()},
        {part: np.concatenate([labels for _, labels in made]) for part, made in parts.items()},
    )


@dataclass
class Server:
    """An HTTP server on this machine: path -> body, the requests it saw, and what goes wrong with them.

    It may stall in the middle of a path's body, leave bytes away at the end, not announce how many there are, send
    elsewhere with a body that has no end, and drip "headers" or "body".
    """

    address: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stalls: dict[str, threading.Event] = field(default_factory=dict)
    stalled: threading.Event = field(default_factory=threading.Event)
    missing_bytes: int = 0
    announced: bool = True
    redirects: dict[str, str] = field(default_factory=dict)
    drips: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server that knows no path yet."""
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            if state.drips == "headers":
                self.drip(b"HTTP/1.1 200 OK\r\nX: " + bytes(60).replace(b"\0", b"x"))
                return
            if self.path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[self.path])
                self.end_headers()
                self.endless()
                return
            body = state.bodies.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            if state.announced:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.drips == "body":
                self.drip(body)
                return
            if self.path in state.stalls:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                state.stalled.set()
                state.stalls[self.path].wait(30)
                return
            with contextlib.suppress(OSError):
                self.wfile.write(body[: len(body) - state.missing_bytes])

        def drip(self, content: bytes) -> None:
            with contextlib.suppress(OSError):
                for byte in content:
                    self.wfile.write(bytes((byte,)))
                    self.wfile.flush()
                    time.sleep(0.1)

        def endless(self) -> None:
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        state.address = f"http://127.0.0.1:{running.server_port}/"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        for stall in state.stalls.values():
            stall.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a program of the given name and Python text, found before (and without) any real one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name: str, text: str) -> None:
        path = folder / name
        path.write_text(f"#!{sys.executable}\nimport shutil, sys\n{text}\n")
        path.chmod(0o755)

    return make
