"""A trial's state on disk: written whole, read with suspicion."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from stantune.errors import CheckpointError, StantuneError
from stantune.files import write_whole

VERSION = 1


def save(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them) under the trial's `identity`.

    Raises:
        StantuneError: the file cannot be written; the one that was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"version": VERSION, "identity": identity, "state": state}, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise StantuneError(
            f"checkpoint {path} cannot be written ({error.strerror}); make room or choose another directory, then "
            "give the same command again"
        ) from error


def load(path: Path, identity: str) -> dict[str, Any] | None:
    """Return the state that was saved under `identity`, or None where there is no such file.

    Raises:
        CheckpointError: the file is cut short or altered, or is another trial's.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch.load lets many kinds through: zip, pickle, EOF, runtime, OS errors
        raise CheckpointError(
            f"checkpoint {path} cannot be read: it is cut short or altered; delete it and the trial is trained again "
            "from its first iteration"
        ) from error
    if not isinstance(saved, dict) or saved.get("version") != VERSION or saved.get("identity") != identity:
        raise CheckpointError(
            f"checkpoint {path} is another trial's or another version's; put the right file back, or delete it and the "
            "trial is trained again from its first iteration"
        )
    state: dict[str, Any] = saved["state"]
    return state
