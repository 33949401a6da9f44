"""Finished pieces of a long command, one small JSON file each, so that the same command goes on from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from stantune.errors import StantuneError, UsageError
from stantune.files import read_json, write_whole
from stantune.kernels.library import kernels
from stantune.process.machine import processor_name
from stantune.texts import brief

VERSION = 1
_SHOWN = 3
# What a process was writing when it was killed: a comparison's own files, by the names that `whole` gives their parts.
_PART = re.compile(r"\.(?:plans\.json|seed-\d+\.json|seed-\d+-.+\.pt|exact-\d+-of-\d+-seed-\d+\.json)\.[0-9a-f]+\.part")
_MADE_OF = "made-of"
T = TypeVar("T")


class Records:
    """The records of one command in a directory of its own; without a directory nothing is kept.

    Each file is {"version", "identity", "machine", "content"}, so that one that another command wrote is never taken
    for ours, and times of another machine not for this one's without a word.
    """

    def __init__(
        self,
        directory: Path | None,
        identity: Mapping[str, Any],
        machine: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Name the place.

        Args:
            directory: of the records.
            identity: what JSON can hold; all that the contents depend on but their names.
            machine: of `timed_on`, where contents are times of it.
            say: told in a line, once, that a record is of another machine.
        """
        self._directory = directory
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._machine = dict(machine or {})
        self._say = say
        self._said = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory if need be and keep other processes out of it; a killed process holds no lock.

        Raises:
            StantuneError: it cannot be made or written to, or another process is at work in it.
        """
        if self._directory is None:
            yield
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            # Of the process: another thread may give it back than took it.
            lock = FileLock(self._directory / ".lock", thread_local=False)
            lock.acquire(timeout=0)
        except Timeout:
            raise StantuneError(
                f"another command is at work in {self._directory}; wait for it, end it, or choose another directory "
                "with --out"
            ) from None
        except OSError as error:
            raise StantuneError(
                f"directory {self._directory} cannot be written to ({error.strerror or error}); choose another "
                "with --out"
            ) from error
        try:
            for part in self._directory.glob(".*.part"):
                # Other programs may have such files, too.
                if _PART.fullmatch(part.name):
                    part.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def load(self, name: str, kind: TypeAdapter[T]) -> T | None:
        """Return what was saved under `name`, None where nothing was.

        Raises:
            UsageError: it was saved under another identity; the message names what differs.
            StantuneError: the file cannot be read or is damaged.
        """
        if self._directory is None:
            return None
        file = self._file(name)
        try:
            record = read_json(file)
            version, identity, content = record["version"], record["identity"], record["content"]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StantuneError(
                f"{file} cannot be read ({error.strerror or error}); mend that, or move it away"
            ) from error
        except (ValueError, KeyError, TypeError):
            raise _damaged(file) from None
        # Records of before say nothing of what a problem is made of.
        before = isinstance(identity, dict) and _MADE_OF not in identity
        here = {key: value for key, value in self.identity.items() if not (before and key == _MADE_OF)}
        if version != VERSION or identity != here:
            differences = list(_differences(identity, here)) or ["it is of another version"]
            raise UsageError(
                f"{file} was written by another command ({', '.join(differences[:_SHOWN])}); give the same options, "
                "or another directory with --out"
            )
        try:
            found = kind.validate_python(content)
        except ValidationError:
            raise _damaged(file) from None
        # Records of before do not tell.
        self._compare_machines(file, record.get("machine", self._machine))
        return found

    def save(self, name: str, content: T, kind: TypeAdapter[T]) -> None:
        """Keep `content`; raises StantuneError where it cannot be written."""
        if self._directory is None:
            return
        record = {
            "version": VERSION,
            "identity": self.identity,
            "machine": self._machine,
            "content": kind.dump_python(content, mode="json"),
        }
        text = json.dumps(record, indent=2)
        file = self._file(name)
        try:
            write_whole(file, f"{text}\n".encode())
        except OSError as error:
            raise StantuneError(
                f"{file} cannot be written ({error.strerror or error}); make room and give the same command again"
            ) from error

    def _compare_machines(self, file: Path, there: Any) -> None:
        differences = list(_differences(there, self._machine))
        if differences and not self._said:
            self._said = True
            self._say(
                f"note: {file} is of another machine ({', '.join(differences[:_SHOWN])}), and its times say nothing "
                "beside those of this one; another directory with --out measures all of them here"
            )

    def _file(self, name: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{name}.json"


def timed_on(device: str) -> dict[str, str]:
    """Return what times on a device depend on of the machine: its processors, and the form of the native kernels."""
    found = {"processor": processor_name(), "kernels": kernels().form or "none"}
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def identity_of(directory: Path | None, name: str) -> dict[str, Any] | None:
    """Return what the record of this name depends on; None where there is none, or none that is sound."""
    if directory is None:
        return None
    try:
        identity = read_json(directory / f"{name}.json")["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return identity if isinstance(identity, dict) else None


def _damaged(file: Path) -> StantuneError:
    return StantuneError(f"{file} is damaged; delete it and what it held is done again")


def _differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """Name the values in which two identities differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**here, **there}:
            name = f"{path}.{brief(key)}" if path else brief(key)
            if key in there and key in here:
                yield from _differences(there[key], here[key], name)
            else:
                yield f"{name} is {'there' if key in there else 'here'} alone"
    elif there != here:
        yield f"{path} is {brief(there)} there and {brief(here)} here"
