"""The built-in data sets, loaded from checked files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stantune.errors import DataError
from stantune.images.data.fetching.catalog import Description, data_root, describe, fetch_command, locate
from stantune.images.data.reading.formats import UnsoundError, read
from stantune.images.data.splits import Dataset, Split


def load(name: str, root: Path | str | None = None) -> Dataset:
    """Load data set `name` from `root` (see `data_root`), checking sizes and sha256 of everything it reads.

    Raises UsageError for an unknown name, and DataError where a file is missing, cut short, altered or
    unreadable; the message names the file and the command that mends it.
    """
    description = describe(name)
    return Dataset(
        name,
        train=_load_part(description, "train", root),
        test=_load_part(description, "test", root),
        classes=description.classes,
    )


def _load_part(description: Description, part: Literal["train", "test"], root: Path | str | None) -> Split:
    folder = data_root(root) / description.folder
    remedy = fetch_command(description.name, root)
    all_images, all_labels = [], []
    for file in description.files:
        if file.part != part:
            continue
        path = locate(folder, file)
        if path is None:
            raise DataError(f"{description.name} is not in {folder} ({file.name} is missing): run {remedy}.")
        try:
            images, labels = read(path, file)
        except UnsoundError as error:
            raise DataError(f"{path} {error}: delete it and run {remedy}.") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}): check its permissions.") from None
        if images is not None:
            all_images.append(images)
        if labels is not None:
            all_labels.append(labels)
    # One copy, from the files' order of dimensions straight into a tensor's own memory.
    count = sum(map(len, all_images))
    images = np.concatenate(all_images, out=np.empty((count, *all_images[0].shape[1:]), np.uint8))
    return Split(
        torch.from_numpy(images),
        torch.from_numpy(np.concatenate(all_labels).astype(np.int64)),
        torch.arange(count, device="cpu"),
    )
