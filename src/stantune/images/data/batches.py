"""Batches gathered by index, normalised on the way, with sample ids; their order needs no state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from stantune.errors import UsageError
from stantune.images.data.normalising import Normaliser
from stantune.images.data.splits import Split
from stantune.seeds import derive

Augment = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""A user's augmentation: (images (B, C, H, W) float32, ids (B,), CPU generator) -> images (B, C, H', W')."""


class Batch(NamedTuple):
    """What an iteration trains on.

    Attributes:
        inputs: images (B, C, H, W) float32 in channels_last memory, a table (B, features) float32, or token ids
            (B, length) int64.
        targets: (B, ...) int64, or float32 where they are numbers or booleans.
        ids: (B,) int64.
    """

    inputs: Tensor
    targets: Tensor
    ids: Tensor


def _generator(purpose: str, seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(purpose, seed, number))


class Batches:
    """Endless training batches of a split, reshuffled each epoch: pure functions of seed and iteration.

    Epoch e visits the samples in an order drawn from (seed, e) alone, and leaves out the last n mod batch_size of it,
    so that batch i needs no state: it is the same in a new process, after a resume, on any device. The split and the
    normaliser's mean are copied to `device` once and batches are gathered there. A split that takes more than half of
    a GPU's free memory stays where it is, and each batch is copied from page-locked memory, without waiting for it.
    `augment` is applied after normalisation with a generator drawn from (seed, iteration).

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
        self._device = torch.device(device)
        self._resident = split.has_room_on(device)
        self._split = split.to(device) if self._resident else split
        self._normaliser = normaliser.to(device)
        self._augment = augment
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, device="cpu"))

    def at(self, iteration: int) -> Batch:
        """The batch of training iteration `iteration`, counted from 0.

        Raises UsageError for a negative iteration, or where `augment` returns anything but B inputs.
        """
        if iteration < 0:
            raise UsageError(f"there is no training iteration {iteration}: they are counted from 0.")
        batch = self.gathered(self._row(iteration))
        if self._augment is None:
            return batch
        return batch._replace(inputs=self._augmented(self._augment, batch.inputs, batch.ids, iteration))

    def feeds(self, first: int) -> bool:
        """See training.trainable.Feeding: all samples are on the device, and what is done to them is the same work."""
        return self._resident and self._augment is None

    def rows(self, first: int, count: int) -> Tensor:
        """See training.trainable.Feeding."""
        return torch.stack([self._row(iteration) for iteration in range(first, first + count)])

    def gathered(self, rows: Tensor) -> Batch:
        """Return the batch of these samples, (B,) int64, before any augmentation."""
        inputs, targets, ids = (
            self._there(part.index_select(0, rows))
            for part in (self._split.inputs, self._split.targets, self._split.ids)
        )
        return Batch(self._normaliser(inputs), _targets(targets), ids)

    def _row(self, iteration: int) -> Tensor:
        """Return the places of an iteration's samples in the split, (B,) int64."""
        epoch, place = divmod(iteration, self.per_epoch)
        return self._epoch_order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def _there(self, part: Tensor) -> Tensor:
        """Return a part of a batch on the device."""
        if self._resident:
            return part
        # PyTorch keeps page-locked memory until it has been copied; the device goes on with what it has meanwhile.
        locked = part.pin_memory() if self._device.type == "cuda" else part
        return locked.to(self._device, non_blocking=True)

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            # Drawn on the CPU, so that a GPU sees the same order.
            generator = _generator("order", self.seed, epoch)
            order = torch.randperm(len(self._split), generator=generator, device="cpu")
            self._order = (epoch, order.to(self._split.inputs.device))
        return self._order[1]

    def _augmented(self, augment: Augment, inputs: Tensor, ids: Tensor, iteration: int) -> Tensor:
        result = augment(inputs, ids, _generator("augment", self.seed, iteration))
        # An image may be cropped, and keeps its channels.
        same = inputs.shape[: 2 if inputs.dim() == 4 else 1]
        if not isinstance(result, Tensor) or result.dim() != inputs.dim() or result.shape[: len(same)] != same:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            what = "images" if inputs.dim() == 4 else "inputs"
            raise UsageError(f"augment must return {what} for a batch of {tuple(inputs.shape)}, not {found}.")
        if inputs.dim() != 4:
            return result.to(inputs.dtype)
        return result.to(torch.float32, memory_format=torch.channels_last)


def _targets(targets: Tensor) -> Tensor:
    """Return targets as losses take them."""
    return targets.to(torch.float32 if targets.is_floating_point() or targets.dtype == torch.bool else torch.int64)


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
        yield Batch(there(part.inputs), _targets(part.targets), part.ids)
