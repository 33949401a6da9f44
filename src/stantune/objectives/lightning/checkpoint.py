"""Lightning's own checkpoints as those of trials: written whole, with a note and a digest, and read with suspicion."""

from __future__ import annotations

import io
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stantune.errors import (
    CheckpointError,
    DamagedCheckpointError,
    ForeignCheckpointError,
    StantuneError,
    UsageError,
)
from stantune.files import write_whole
from stantune.training import archive
from stantune.training.checkpoint import is_sound, sealed

VERSION = 1
# Lightning leaves keys alone that it does not know, so that the file remains one that it can read itself.
KEY = "stantune"
# What every training notes.
_NOTED = {"done", "metrics", "start", "cost"}
_REMEDY = "delete it and the trial is trained again from its beginning"


def taken(trainer: Any, path: Path) -> dict[str, Any]:
    """Return what `trainer.save_checkpoint` writes, as it can be read without executing anything.

    Args:
        trainer: whose fit is over, or whose last epoch is.
        path: of the trial's checkpoint, beside which it is written for a moment.

    Raises:
        UsageError: there is something in it that cannot be read so.
        StantuneError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(part)
        saved: dict[str, Any] = torch.load(part, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kinds = " ".join(str(error).split())
        raise UsageError(
            "the Lightning checkpoint of this module holds what cannot be read without executing code "
            f"({kinds[:120]}…); keep tensors, numbers, texts and containers of them in save_hyperparameters, "
            "state_dict and on_save_checkpoint, of callbacks too"
        ) from error
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        part.unlink(missing_ok=True)
    return saved


def save(path: Path, identity: str, saved: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    """Write what was `taken` under the trial's identity, with plain values beside it.

    Raises:
        StantuneError: it cannot be written; the one that was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save({**saved, KEY: {"version": VERSION, "identity": identity, "note": dict(note)}}, buffer)
    try:
        write_whole(path, sealed(buffer.getvalue()))
    except OSError as error:
        raise _unwritten(path, error) from error


def load_note(path: Path, identity: str) -> dict[str, Any] | None:
    """Return the note of the checkpoint that was saved under `identity`, None where there is no such file.

    Where there is one, Lightning may read the file: it was found whole, and to hold nothing that executes anything.

    Raises:
        DamagedCheckpointError: it is cut short or altered, or no training made it.
        ForeignCheckpointError: it is another trial's.
        CheckpointError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({error.strerror or error}); mend that, or move it away and the trial "
            "is trained again from its beginning"
        ) from error
    if not is_sound(content):
        raise DamagedCheckpointError(f"checkpoint {path} is cut short or altered; {_REMEDY}")
    try:
        saved = archive.read(content)
    except Exception as error:  # torch.load lets many kinds through
        raise DamagedCheckpointError(f"checkpoint {path} holds what no checkpoint holds; {_REMEDY}") from error
    ours = saved.get(KEY) if isinstance(saved, dict) else None
    if not isinstance(ours, dict) or ours.get("version") != VERSION or ours.get("identity") != identity:
        raise ForeignCheckpointError(
            f"checkpoint {path} is another trial's or another version's; put the right file back, or {_REMEDY}"
        )
    note = ours.get("note")
    if not isinstance(note, dict) or not isinstance(note.get("done"), int) or not note.keys() >= _NOTED:
        raise DamagedCheckpointError(f"checkpoint {path} holds a note that no training makes; {_REMEDY}")
    return note


def _unwritten(path: Path, error: OSError) -> StantuneError:
    return StantuneError(
        f"checkpoint {path} cannot be written ({error.strerror or error}); make room or choose another directory, then "
        "give the same command again"
    )
