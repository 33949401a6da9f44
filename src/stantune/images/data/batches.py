"""Batches gathered by index, normalised on the way, with sample ids; their order needs no state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stantune.errors import UsageError
from stantune.images.data.datasets import Split
from stantune.seeds import derive

Augment = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""A user's augmentation: (images (B, C, H, W) float32, ids (B,), CPU generator) -> images (B, C, H', W')."""


class Batch(NamedTuple):
    """`inputs` (B, C, H, W) float32 in channels_last memory, `targets` (B,) int64, `ids` (B,) int64."""

    inputs: Tensor
    targets: Tensor
    ids: Tensor


@dataclass(frozen=True, eq=False)
class Normaliser:
    """Maps pixels to (pixels - mean) * scale.

    `mean` is float32 in pixel units, (H, W, C) or (C,), or None for no mean.
    """

    mean: Tensor | None
    scale: float

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, H, W, C) to float32 images (B, C, H, W) in channels_last memory."""
        # Converting first and working in place is 10 times faster on a CPU than one operation of mixed types.
        values = pixels.to(torch.float32)
        if self.mean is not None:
            values.sub_(self.mean)
        if self.scale != 1.0:
            values.mul_(self.scale)
        return values.permute(0, 3, 1, 2)

    def to(self, device: torch.device | str) -> Normaliser:
        """The same normaliser with its mean on `device`."""
        return Normaliser(None if self.mean is None else self.mean.to(device), self.scale)


@dataclass(frozen=True)
class Normalise:
    """How pixels (0 to 255) are normalised: subtract the training mean, then multiply by `scale`.

    `mean` is "none", "image" (one mean per position and channel, Caffe's mean file) or "channel". Raises
    UsageError for another word.
    """

    scale: float = 1.0
    mean: Literal["none", "image", "channel"] = "none"

    def __post_init__(self) -> None:
        if self.mean not in ("none", "image", "channel"):
            raise UsageError(f"mean={self.mean!r} is not a kind of mean: choose none, image or channel.")

    def fit(self, split: Split) -> Normaliser:
        """The normaliser with the mean of `split`, summed exactly and divided in float64.

        Raises UsageError where a mean is wanted of no samples.
        """
        if self.mean == "none":
            return Normaliser(None, self.scale)
        if not len(split):
            raise UsageError("a mean image needs at least one training sample, and the split has none.")
        # Below 2^24 float32 counts exactly, so that pieces of 1000 images are summed fast and without error.
        total = torch.zeros(split.images.shape[1:], dtype=torch.float64, device=split.images.device)
        for piece in torch.split(split.images, 1000):
            total += piece.float().sum(0)
        mean = total / len(split)
        if self.mean == "channel":
            mean = mean.mean((0, 1))
        return Normaliser(mean.float(), self.scale)


def _generator(purpose: str, seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(purpose, seed, number))


class Batches:
    """Endless training batches of a split, reshuffled each epoch: pure functions of seed and iteration.

    Epoch e visits the samples in an order drawn from (seed, e) alone, and leaves out the last
    n mod batch_size of it, so that batch i needs no state: it is the same in a new process, after a resume,
    on any device. The split and the normaliser's mean are copied to `device` once and batches are gathered
    there. `augment` is applied after normalisation with a generator drawn from (seed, iteration).

    Raises UsageError unless 1 <= batch_size <= n.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        normaliser: Normaliser,
        augment: Augment | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= batch_size <= len(split):
            raise UsageError(
                f"batch size {batch_size} does not fit {len(split)} training samples: choose 1 to {len(split)}."
            )
        self.batch_size = batch_size
        self.seed = seed
        self.per_epoch = len(split) // batch_size
        self._split = split.to(device)
        self._normaliser = normaliser.to(device)
        self._augment = augment
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def at(self, iteration: int) -> Batch:
        """The batch of training iteration `iteration`, counted from 0.

        Raises UsageError for a negative iteration, or where `augment` returns anything but B images.
        """
        if iteration < 0:
            raise UsageError(f"there is no training iteration {iteration}: they are counted from 0.")
        epoch, place = divmod(iteration, self.per_epoch)
        index = self._epoch_order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        images = self._normaliser(self._split.images.index_select(0, index))
        ids = self._split.ids.index_select(0, index)
        if self._augment is not None:
            images = self._augmented(self._augment, images, ids, iteration)
        return Batch(images, self._split.labels.index_select(0, index), ids)

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            # Drawn on the CPU, so that a GPU sees the same order.
            order = torch.randperm(len(self._split), generator=_generator("order", self.seed, epoch))
            self._order = (epoch, order.to(self._split.images.device))
        return self._order[1]

    def _augmented(self, augment: Augment, images: Tensor, ids: Tensor, iteration: int) -> Tensor:
        result = augment(images, ids, _generator("augment", self.seed, iteration))
        if not isinstance(result, Tensor) or result.dim() != 4 or result.shape[:2] != images.shape[:2]:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise UsageError(f"augment must return images for a batch of {tuple(images.shape)}, not {found}.")
        return result.to(torch.float32, memory_format=torch.channels_last)


def in_order(
    split: Split, batch_size: int, normaliser: Normaliser, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Every sample of `split` once, in order, for evaluation; the last batch may be smaller.

    Raises UsageError, at the first batch, unless batch_size >= 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} is too small: choose at least 1.")
    there = normaliser.to(device)
    for start in range(0, len(split), batch_size):
        part = split.take(start, min(start + batch_size, len(split))).to(device)
        yield Batch(there(part.images), part.labels, part.ids)
