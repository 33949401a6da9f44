"""Files that are there whole or not at all, and what may be a folder in place of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash at any moment, meets the old file or the new one.

    A new file has the permissions that the process gives to new files (its umask), an old one keeps its own. A link is
    followed. What is no ordinary file (a terminal, a pipe, the null device) cannot be replaced and is written to.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with whole(path) as file:
        file.write(content)


# Of what people write or we write for them; a device may have no end.
MOST_BYTES = 64 << 20


def read_small(path: Path) -> bytes:
    """Return what a file holds that is no larger than MOST_BYTES; raises OSError where it is, or cannot be read."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: it cannot be read, or is larger than MOST_BYTES.
        ValueError: it is no JSON, or nested more deeply than anything of ours.
    """
    try:
        return json.loads(read_small(path).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_writable(path: Path) -> None:
    """Raise OSError where `write_whole` could not write there now; nothing is changed."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    part = _part_of(_followed(path))
    part.open("xb").close()
    part.unlink()


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write to that takes the place of the ordinary file `path` when all went well; see `write_whole`.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    path = _followed(path)
    part = _part_of(path)
    try:
        # Not tempfile: its files can be read by their owner alone, whatever the umask says.
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def all_below(folder: Path) -> list[Path]:
    """Return all that is below a folder, folders too, in the order of their names; links to folders are not followed.

    Not as Path.rglob, to which a folder that cannot be read is an empty one: raises OSError then.
    """
    found, left = [], [str(folder)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                found.append(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
    return sorted(found)


def mode_of(path: Path) -> int:
    """Return the mode of what is there, links followed, and 0 where there is nothing.

    Not as Path.is_file and is_dir, to which there is nothing where it cannot be told (from Python 3.14 on): raises
    OSError then.
    """
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0
        raise


def delete(path: Path) -> None:
    """Delete a file, a link, or a folder with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _followed(path: Path) -> Path:
    # Not Path.resolve: links in a circle are no error of the system's there.
    return Path(os.path.realpath(path))


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def _sync_directory(path: Path) -> None:
    # The new name itself must survive a power cut. Only POSIX lets a directory be opened for that, and not every file
    # system can do it; the file has its new content by now, so that a refusal must not look like a failed writing.
    if os.name == "posix":
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
