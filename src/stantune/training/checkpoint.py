"""A trial's state on disk: written whole, read with suspicion."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from stantune.errors import CheckpointError, DamagedCheckpointError, ForeignCheckpointError, StantuneError
from stantune.files import write_whole
from stantune.texts import brief
from stantune.training import archive

VERSION = 1
# torch.save writes a zip archive, and torch.load checks no sum of it: a flipped bit would become another weight. The
# archive's comment, the last thing in the file, is the digest of all that comes before it, so that the file remains
# one that torch.load itself can read.
_LABEL = b"sha256 "
_COMMENT_LENGTH = len(_LABEL) + 2 * hashlib.sha256().digest_size
_REMEDY = "delete it and the trial is trained again from its first iteration"


def save(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) under the trial's `identity`.

    The file is what torch.save writes, {"version", "identity", "state"}, with a digest as the archive's comment.

    Raises:
        StantuneError: the file cannot be written; the one that was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"version": VERSION, "identity": identity, "state": state}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, sealed(buffer.getvalue()))
    except OSError as error:
        raise StantuneError(
            f"checkpoint {path} cannot be written ({error.strerror or error}); make room or choose another directory, "
            "then give the same command again"
        ) from error


def load(path: Path, identity: str, earlier: str | None = None) -> dict[str, Any] | None:
    """Return the state that was saved under `identity`, or by an earlier version under `earlier`; None without a file.

    Nothing in the file is executed, whoever wrote it; see `archive`.

    Raises:
        DamagedCheckpointError: the file is cut short or altered.
        ForeignCheckpointError: it is another trial's.
        CheckpointError: it cannot be read.
    """
    try:
        saved = _read(path)
    except FileNotFoundError:
        return None
    mine = {"version": VERSION, "identity": identity}
    before = {"version": VERSION, "identity": earlier}
    # Of whatever kind they are: not all can be compared.
    marks = {name: saved.get(name) for name in ("version", "identity")} if isinstance(saved, dict) else {}
    if not all(isinstance(mark, str | int) for mark in marks.values()) or marks not in (mine, before):
        other = f"is another trial's or another version's{_differing(marks.get('identity'), identity)}"
        raise ForeignCheckpointError(f"checkpoint {path} {other}; put the right file back, or {_REMEDY}")
    return _state_of(saved, path)


def load_any(path: Path) -> dict[str, Any]:
    """Return the state that was saved under any identity; as `load` does.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedCheckpointError: it is cut short or altered, or no checkpoint.
        CheckpointError: it cannot be read.
    """
    return _state_of(_read(path), path)


def _read(path: Path) -> Any:
    """Return what a file holds, found to be as it was written; raises as `load_any` does."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({error.strerror or error}); mend that, or move it away and the trial "
            "is trained again from its first iteration"
        ) from error
    if not is_sound(content):
        raise DamagedCheckpointError(f"checkpoint {path} is cut short or altered; {_REMEDY}")
    try:
        return archive.read(content)
    except Exception as error:  # torch.load lets many kinds through: zip, pickle, EOF, runtime errors
        raise DamagedCheckpointError(f"checkpoint {path} holds what no checkpoint holds; {_REMEDY}") from error


def _state_of(saved: Any, path: Path) -> dict[str, Any]:
    state = saved.get("state") if isinstance(saved, dict) else None
    if not isinstance(state, dict):
        raise DamagedCheckpointError(f"checkpoint {path} holds what no checkpoint holds; {_REMEDY}")
    return state


def _differing(saved: object, mine: str) -> str:
    """Return which parts of two identities differ, in brackets, "" where those are no mappings in JSON."""
    try:
        one, other = json.loads(saved if isinstance(saved, str) else ""), json.loads(mine)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return ""
    names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return f" (it was trained with another {brief(', '.join(names))}: undo that change)" if names else ""


def sealed(archive: bytes) -> bytes:
    """Return what torch.save wrote with a digest of it as its comment; torch.load reads it as before."""
    # A zip archive ends with the length of its comment, 0 as torch.save leaves it, and the comment.
    body = archive[:-2] + _COMMENT_LENGTH.to_bytes(2, "little")
    return body + _digest(body)


def is_sound(content: bytes) -> bool:
    """Tell whether a sealed file is as it was written."""
    return content[-_COMMENT_LENGTH:] == _digest(content[:-_COMMENT_LENGTH])


def _digest(body: bytes) -> bytes:
    return _LABEL + hashlib.sha256(body).hexdigest().encode()
