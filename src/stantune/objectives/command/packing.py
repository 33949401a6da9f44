"""A folder of files as one checkpoint: packed whole or not at all, and unpacked with suspicion."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn, cast

from stantune.errors import CheckpointError, DamagedCheckpointError, ForeignCheckpointError, StantuneError
from stantune.files import whole

VERSION = 1
# The file is a tar archive, so that any tool reads what a training has left: NOTE, and the folder's files below STATE.
# After the archive's end, where tar stops reading, comes the digest of all before it.
NOTE = "stantune.json"
STATE = "state"
# What every training notes, and of what kind.
_NOTED: Mapping[str, type | tuple[type, ...]] = {
    "done": int,
    "from": int,
    "metrics": dict,
    "diverged_at": (int, type(None)),
    "seconds": (int, float),
}
_LABEL = b"sha256 "
_SEAL_LENGTH = len(_LABEL) + 2 * hashlib.sha256().digest_size + 1
_CHUNK = 1 << 20
_REMEDY = "delete it and the trial is trained again from its beginning"


class Pack:
    """A packed folder that was found sound.

    Attributes:
        note: the plain values that were packed beside the folder.
    """

    def __init__(self, path: Path, archive: tarfile.TarFile, note: Mapping[str, Any]) -> None:
        """Take an archive that has given its note; called by `opened` alone."""
        self.note = note
        self._path = path
        self._archive = archive

    def unpack(self, folder: Path) -> None:
        """Put the packed files into a folder that is new; nothing outside of it is touched, whatever the file says.

        Raises:
            DamagedCheckpointError: it holds what `pack` never packs.
            StantuneError: the folder cannot be written to.
        """
        try:
            folder.mkdir(parents=True)
            for member in self._archive:
                self._put(member, folder)
        except StantuneError:
            raise
        except OSError as error:
            if isinstance(error, FileExistsError | FileNotFoundError | NotADirectoryError) and folder.is_dir():
                raise self._odd("files that cannot lie in one folder") from error
            raise StantuneError(
                f"checkpoint {self._path} cannot be unpacked into {folder} ({error.strerror or error}); make room, or "
                "choose another directory, then give the same command again"
            ) from error
        except Exception as error:  # tarfile lets many kinds through: its own, of numbers, of texts
            raise self._odd("what no checkpoint holds") from error

    def _put(self, member: tarfile.TarInfo, folder: Path) -> None:
        if member.name == NOTE:
            return
        first, *parts = member.name.split("/")
        if first != STATE or any(part in ("", ".", "..") or os.path.splitdrive(part)[0] for part in parts):
            raise self._odd(f"a file called {member.name!r}")
        target = folder.joinpath(*parts)
        if member.isdir():
            # The first is the folder itself.
            target.mkdir(exist_ok=not parts)
            return
        content = self._archive.extractfile(member) if member.isreg() and not member.issparse() else None
        if content is None:
            raise self._odd(f"{member.name!r}, which is no ordinary file")
        # A new file in folders that were made here: there is no link that could lead out, and no file to replace.
        with content, target.open("xb") as file:
            while chunk := content.read(_CHUNK):
                file.write(chunk)
        target.chmod(stat.S_IMODE(target.stat().st_mode) | member.mode & 0o111)
        os.utime(target, (member.mtime, member.mtime))

    def _odd(self, what: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(f"checkpoint {self._path} holds {what}; {_REMEDY}")


def pack(folder: Path, path: Path, identity: str, note: Mapping[str, Any]) -> None:
    """Write all files of a folder to `path` so that a reader, or a crash at any moment, meets the old file or the new.

    Args:
        folder: its files, empty folders, bits that make files executable, and times of change are kept.
        path: the trial's checkpoint.
        identity: of the trial.
        note: plain values, kept beside the files.

    Raises:
        ValueError: there is a link, a device or the like in the folder, or a file that cannot be read.
        StantuneError: the checkpoint cannot be written; the one that was there before is untouched.
    """
    head = json.dumps({"version": VERSION, "identity": identity, "note": dict(note)}).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as file:
            sealed = _Sealing(file)
            with tarfile.open(fileobj=cast(IO[bytes], sealed), mode="w|", format=tarfile.PAX_FORMAT) as archive:
                archive.addfile(_member(NOTE, len(head)), io.BytesIO(head))
                for place, name in _walk(folder):
                    _add(archive, place, name)
            file.write(_seal(sealed.digest.hexdigest()))
    except OSError as error:
        raise StantuneError(
            f"checkpoint {path} cannot be written ({error.strerror or error}); make room or choose another directory, "
            "then give the same command again"
        ) from error


@contextmanager
def opened(path: Path, identity: str) -> Iterator[Pack | None]:
    """Open what was packed under `identity`; give None where there is no such file. Nothing in it is executed.

    Raises:
        DamagedCheckpointError: the file is cut short or altered; found before anything of it is used.
        CheckpointError: it cannot be read, or is another trial's.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        try:
            sound = _is_sound(file)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not sound:
            raise DamagedCheckpointError(f"checkpoint {path} is cut short or altered; {_REMEDY}")
        with _archive(path, file) as archive:
            yield Pack(path, archive, _note(path, archive, identity))


@contextmanager
def _archive(path: Path, file: BinaryIO) -> Iterator[tarfile.TarFile]:
    file.seek(0)
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
    except Exception as error:
        raise DamagedCheckpointError(f"checkpoint {path} holds what no checkpoint holds; {_REMEDY}") from error
    with archive:
        yield archive


def _note(path: Path, archive: tarfile.TarFile, identity: str) -> Mapping[str, Any]:
    """Return the note; raises ForeignCheckpointError where it is another trial's, DamagedCheckpointError for none."""
    try:
        member = archive.next()
        there = member is not None and member.name == NOTE and member.isreg() and not member.issparse()
        content = archive.extractfile(member) if member is not None and there else None
        head = {} if content is None else json.load(content)
        mine = head.get("version") == VERSION and head.get("identity") == identity
        sound = not mine or all(isinstance(head["note"].get(name), kind) for name, kind in _NOTED.items())
    except Exception as error:  # tarfile lets many kinds through, and JSON may be nested without end
        raise DamagedCheckpointError(f"checkpoint {path} holds what no checkpoint holds; {_REMEDY}") from error
    if not mine:
        raise ForeignCheckpointError(
            f"checkpoint {path} is another trial's or another version's; put the right file back, or {_REMEDY}"
        )
    if not sound:
        raise DamagedCheckpointError(f"checkpoint {path} holds a note that no training makes; {_REMEDY}")
    note: Mapping[str, Any] = head["note"]
    return note


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Go through a folder in the order of names, each folder before what is in it; give each place and its name."""
    yield folder, STATE
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=False):
        folders.sort()
        for name in sorted([*folders, *files]):
            place = Path(root, name)
            yield place, f"{STATE}/{place.relative_to(folder).as_posix()}"


def _add(archive: tarfile.TarFile, place: Path, name: str) -> None:
    known = place.lstat()
    if stat.S_ISDIR(known.st_mode):
        member = _member(name, 0)
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member)
        return
    if not stat.S_ISREG(known.st_mode):
        what = "a link" if stat.S_ISLNK(known.st_mode) else "no ordinary file"
        raise ValueError(f"{place} is {what}, and a checkpoint keeps files and folders alone; leave none there")
    try:
        content = place.open("rb")
    except OSError as error:
        _refuse(error)
    with content:
        known = os.fstat(content.fileno())
        member = _member(name, known.st_size)
        member.mode = 0o644 | known.st_mode & 0o111
        member.mtime = known.st_mtime
        archive.addfile(member, content)


def _refuse(error: OSError) -> NoReturn:
    raise ValueError(
        f"{error.filename} cannot be read ({error.strerror}), so that no checkpoint can keep it; leave none such there"
    ) from error


def _member(name: str, size: int) -> tarfile.TarInfo:
    # Without owners, which mean nothing elsewhere, and without what tarfile makes of hard links.
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


class _Sealing:
    """A file that is written to and digested at the same time."""

    def __init__(self, file: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)


def _seal(digest: str) -> bytes:
    return _LABEL + digest.encode() + b"\n"


def _is_sound(file: BinaryIO) -> bool:
    left = os.fstat(file.fileno()).st_size - _SEAL_LENGTH
    digest = hashlib.sha256()
    while left > 0 and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    return left == 0 and file.read() == _seal(digest.hexdigest())


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} cannot be read ({error.strerror or error}); mend that, or move it away and the trial is "
        "trained again from its beginning"
    )
