"""A folder that all nodes of a cluster see, by its path or by a URL of fsspec's, and how a node tells that it does."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

import fsspec

from stantune.errors import StantuneError, UsageError
from stantune.search.table.storages.masking import discreet, without_password

# What stores files elsewhere may be gone for a while.
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0
# The file by which a node tells that it sees the folder; see `signed`.
SIGN = re.compile(r"\.[0-9a-f]{16}\.part")

T = TypeVar("T")


class Place:
    """A folder by its path or URL. Its files are there whole or not at all.

    Attributes:
        url: as it was given.
        where: the same as messages may show it, without what is secret in it.
    """

    def __init__(self, url: str) -> None:
        """Raises UsageError where there is no way to such a place."""
        self.url = url
        self.where = without_password(url)
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise UsageError(
                f"`checkpoints`={self.where} needs a package that is not installed ({discreet(str(error), url)})"
            ) from error
        except ValueError as error:
            raise UsageError(
                f"`checkpoints`={self.where} is no place that fsspec knows ({discreet(str(error), url)}); give a URL "
                "such as s3://bucket/folder"
            ) from error
        self._root = root.rstrip("/")

    def fetch(self, name: str, path: Path) -> bool:
        """Copy a file to `path`, where the old one or the new one is at any moment; return whether there is one.

        Raises StantuneError after a minute.
        """

        def fetch() -> bool:
            part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.get_file(self._of(name), str(part))
                os.replace(part, path)
            except FileNotFoundError:
                path.unlink(missing_ok=True)
                return False
            finally:
                part.unlink(missing_ok=True)
            return True

        return self._insist(fetch, "read")

    def send(self, path: Path, name: str) -> None:
        """Put a file there in place of an earlier one. Raises StantuneError after a minute."""

        def send() -> None:
            part = self._part_of(name)
            self._files.makedirs(self._root, exist_ok=True)
            try:
                self._files.put_file(str(path), part)
                self._replace(name, part)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._files.rm_file(part)
                raise

        self._insist(send, "written")

    def write(self, name: str, content: bytes = b"") -> None:
        """Make a small file, which is empty for a moment where it has content. Raises StantuneError after a minute."""

        def write() -> None:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(self._of(name), content)

        self._insist(write, "written")

    def read(self, name: str) -> bytes:
        """Return what a small file holds; nothing where there is none. Raises StantuneError after a minute."""

        def read() -> bytes:
            try:
                return bytes(self._files.cat_file(self._of(name)))
            except FileNotFoundError:
                return b""

        return self._insist(read, "read")

    def holds(self, name: str) -> bool:
        """Tell whether a file is there. Raises StantuneError after a minute."""
        return self._insist(lambda: bool(self._files.exists(self._of(name))), "read")

    def delete(self, name: str) -> None:
        """Delete a file if it is there. Raises StantuneError after a minute."""

        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._of(name))

        self._insist(delete, "deleted")

    def names(self) -> list[str]:
        """Return the names of all files there. Raises StantuneError after a minute."""

        def names() -> list[str]:
            try:
                return [Path(path).name for path in self._files.ls(self._root, detail=False)]
            except FileNotFoundError:
                return []

        return self._insist(names, "read")

    def sweep(self, *patterns: str) -> None:
        """Delete the files whose names match shell patterns. Raises StantuneError after a minute."""
        for name in self.names():
            if any(fnmatch(name, pattern) for pattern in patterns):
                self.delete(name)

    def _replace(self, name: str, part: str) -> None:
        """Give a file that was put there its name, in place of an earlier one; raises what the file system does.

        Where that replaces nothing the name is nobody's for a moment, and the earlier file has that of a half one.
        """
        target = self._of(name)
        try:
            self._files.mv(part, target)
        except Exception:
            # So it is on SMB. Whatever else it was is raised below, by what has deleted nothing yet.
            if not (self._is_there(part) and self._is_there(target)):
                raise
        else:
            # WebHDFS says nothing of a file that stays as it is.
            if not self._is_there(part):
                return
        earlier = self._part_of(name)
        self._files.mv(target, earlier)
        try:
            self._files.mv(part, target)
            if self._is_there(part):
                raise OSError(f"{part} cannot be renamed {name}")
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.mv(earlier, target)
            raise
        self._files.rm_file(earlier)

    def _is_there(self, path: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._files.exists(path))

    def _part_of(self, name: str) -> str:
        return self._of(f".{name}.{secrets.token_hex(8)}.part")

    def _of(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _insist(self, do: Callable[[], T], what: str) -> T:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            # Another machine may have changed what is there.
            self._files.invalidate_cache()
            try:
                return do()
            except Exception as error:  # each kind of place has its own
                if time.monotonic() + PAUSE_SECONDS >= end:
                    reason = discreet(" ".join(str(error).split()), self.url)
                    raise StantuneError(
                        f"checkpoints in {self.where} cannot be {what} ({reason}); mend that and give the same command "
                        "again"
                    ) from error
            time.sleep(PAUSE_SECONDS)


@dataclass(frozen=True)
class Sign:
    """A file by which a node tells that it sees what the search sees, and not a place of the same name.

    Attributes:
        url: where checkpoints are kept.
        name: of the file.
    """

    url: str
    name: str

    def check(self) -> None:
        """Raise StantuneError where it is not seen from here."""
        place = Place(self.url)
        if not place.holds(self.name):
            raise StantuneError(
                f"it does not see the search's checkpoints in {place.where}; keep them where all nodes do, with `out` "
                "on a file system that they share, or with `checkpoints` URL"
            )


@contextlib.contextmanager
def signed(url: str) -> Iterator[Sign]:
    """Put a sign where checkpoints are kept, for a while; raises StantuneError where nothing can be written there."""
    place, name = Place(url), f".{secrets.token_hex(8)}.part"
    place.write(name)
    try:
        yield Sign(url, name)
    finally:
        with contextlib.suppress(StantuneError):
            place.delete(name)
