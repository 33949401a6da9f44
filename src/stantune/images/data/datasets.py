"""Data sets in memory: images as bytes with labels and sample ids, loaded from checked files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stantune.errors import DataError, UsageError
from stantune.images.data.catalog import Description, data_root, describe, fetch_command, locate
from stantune.images.data.formats import UnsoundError, read


@dataclass(frozen=True, eq=False)
class Split:
    """Samples in a fixed order.

    `images` (n, H, W, C) uint8, contiguous, so that permute(0, 3, 1, 2) is channels_last without a copy;
    `labels` (n,) int64; `ids` (n,) int64, each sample's index in the original training or test file order.
    Raises UsageError where shapes or types are others.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or not self.images.is_contiguous():
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise UsageError(f"a split's images are a contiguous uint8 tensor (n, H, W, C), not {found}.")
        for name, values in (("labels", self.labels), ("ids", self.ids)):
            if values.dtype != torch.int64 or values.shape != self.images.shape[:1]:
                found = f"{values.dtype} of shape {tuple(values.shape)}"
                raise UsageError(f"a split's {name} are an int64 tensor ({len(self.images)},), not {found}.")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, start: int, stop: int) -> Split:
        """Samples start..stop-1, sharing memory; raises UsageError unless 0 <= start <= stop <= n."""
        if not 0 <= start <= stop <= len(self):
            raise UsageError(f"samples {start} to {stop} are not within a split of {len(self)} samples.")
        return Split(self.images[start:stop], self.labels[start:stop], self.ids[start:stop])

    def to(self, device: torch.device | str) -> Split:
        """The same samples on `device`; itself where they are there already."""
        if self.images.device == torch.device(device):
            return self
        return Split(self.images.to(device), self.labels.to(device), self.ids.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set: training and test samples, and the number of classes (labels are 0..classes-1)."""

    name: str
    train: Split
    test: Split
    classes: int


def hold_out(train: Split, validation: int) -> tuple[Split, Split]:
    """(training, validation) where validation is the last `validation` samples of `train`, sharing memory.

    Raises UsageError unless 0 <= validation < n: something must be left to train on.
    """
    if not 0 <= validation < len(train):
        raise UsageError(
            f"cannot hold out {validation} of {len(train)} training samples: choose 0 to {len(train) - 1}."
        )
    cut = len(train) - validation
    return train.take(0, cut), train.take(cut, len(train))


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
        torch.arange(count),
    )
