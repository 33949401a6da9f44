"""The files of run.checkpoint_dir as values of a checkpoint, and back."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from stantune.errors import CheckpointError, StantuneError, UsageError
from stantune.files import all_below, mode_of


def packed(folder: Path) -> dict[str, Tensor]:
    """Return the bytes, (N,), of all files below a folder by their paths in it; links to files are followed.

    One that is not there is empty: a function may delete it when it has no more use for it.

    Raises:
        UsageError: something in it would be left behind: a link to a folder or to nothing, a device.
        StantuneError: one cannot be read.
    """
    files: dict[str, Tensor] = {}
    try:
        for path in all_below(folder) if mode_of(folder) else ():
            mode = mode_of(path)
            if stat.S_ISREG(mode):
                content = np.frombuffer(bytearray(path.read_bytes()), dtype=np.uint8)
                files[path.relative_to(folder).as_posix()] = torch.from_numpy(content)
            elif path.is_symlink() or (mode and not stat.S_ISDIR(mode)):
                what = f"a link to {path.readlink()}" if path.is_symlink() else "no file"
                raise UsageError(
                    f"{path.relative_to(folder)} in run.checkpoint_dir is {what}, and only files are kept; write the "
                    "folder's name into a file, or copy what is there"
                )
    except OSError as error:
        raise StantuneError(
            f"{error.filename or folder} cannot be read into the checkpoint ({error.strerror or error}); mend that, "
            "and give the same command again"
        ) from error
    return files


def unpack(files: Mapping[str, Tensor], folder: Path) -> None:
    """Make the folder hold these files and nothing else.

    Raises:
        CheckpointError: a file's path leads out of the folder.
        StantuneError: one cannot be written.
    """
    try:
        empty(folder)
        for name, content in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise CheckpointError(f"the checkpoint has a file {name!r} that is not inside of its folder; delete it")
            target = folder.joinpath(*path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.numpy().tobytes())
    except OSError as error:
        raise StantuneError(
            f"{folder} cannot be written ({error.strerror or error}); make room, then give the same command again"
        ) from error


def empty(folder: Path) -> None:
    """Make the folder, without anything in it; raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
