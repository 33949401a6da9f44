"""Any torch Dataset, read once into memory, by worker processes where that pays."""

from __future__ import annotations

import io
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from stantune.errors import UsageError
from stantune.images.data.splits import Split
from stantune.process.machine import usable_cores
from stantune.process.start_method import chosen_method

# So many samples tell how long one takes; worker processes take about a second to start.
TRIED = 16
WORTH_SECONDS = 10.0
MOST_WORKERS = 4
BATCH = 256
# Of an image whose channels come first.
CHANNELS = (1, 3, 4)

Convert = Callable[[Any], tuple[Any, Any]]


def first_two(sample: Any) -> tuple[Any, Any]:
    """Return a sample's first two parts, its input and its target as most data sets have them."""
    return sample[0], sample[1]


def from_torch(dataset: Any, convert: Convert = first_two) -> Split:
    """Return all samples of a map-style torch Dataset, in its order, each read once.

    Where worker processes fail, what they have not sent is read here, of which they may have read some already.

    What a transform draws at random is drawn here, once; draw it in the problem's `augment` instead. Images as
    torchvision's ToTensor makes them, float (C, H, W), become (H, W, C); PIL images are taken as they are.

    Args:
        dataset: with a length and samples by index.
        convert: a sample -> (input, target); by default its first two parts.

    Raises UsageError where it has no length, or samples of several shapes.
    """
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise UsageError(f"a {type(dataset).__name__} has no length or no samples by index; give a map-style Dataset")
    read = _Reading(dataset, convert)
    began = time.perf_counter()
    samples = [read[place] for place in range(min(TRIED, len(dataset)))]
    seconds = (time.perf_counter() - began) / max(len(samples), 1) * (len(dataset) - len(samples))
    rest = range(len(samples), len(dataset))
    if seconds < WORTH_SECONDS:
        pieces = [_stacked(samples + [read[place] for place in rest])]
    else:
        pieces = [_stacked(samples), *_batches(read, rest)]
    why = next((piece for piece in pieces if isinstance(piece, str)), "")
    try:
        inputs, targets = (torch.cat(parts) for parts in zip(*([] if why else pieces), strict=True))
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the samples of {type(dataset).__name__} do not make one tensor ({why or error}); have each of the same "
            "shape"
        ) from None
    return Split(inputs, targets)


def _batches(read: _Reading, places: Sequence[int]) -> list[tuple[Tensor, Tensor] | str]:
    """Return the samples at these places batch by batch, as `_stacked` does; by worker processes where they can."""
    pieces: list[tuple[Tensor, Tensor] | str] = []
    if workers := _workers(read):
        try:
            # One by one: they come in order, and those that are here need not be read again.
            for piece in _loaded(read, places, workers):
                pieces.append(piece)
            return pieces
        except Exception:
            # Too little shared memory, a process that was killed, a module that it does not find: this one may do
            # better, and what fails here, too, says so without the lines of another process. But not a process in which
            # the script runs once more as it starts: that is not to go on.
            if getattr(multiprocessing.current_process(), "_inheriting", False):
                raise
    pieces += _loaded(read, places[BATCH * len(pieces) :], {})
    return pieces


def _loaded(read: _Reading, places: Sequence[int], workers: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor] | str]:
    loader = DataLoader(read, BATCH, sampler=places, collate_fn=_stacked, **workers)
    # Copied: what a worker sends keeps a file open for as long as it lives, and there may be a thousand open files.
    for piece in loader:
        yield piece if isinstance(piece, str) else _copied(piece)


def _workers(read: _Reading) -> Mapping[str, Any]:
    """Return what makes a DataLoader's processes that can read it; nothing where this process is to."""
    number = min(MOST_WORKERS, usable_cores())
    if sys.platform == "linux" and chosen_method() in (None, "fork"):
        # Whatever Python's way is, which may be one that runs the script once more in each process. What the program
        # has chosen stays: its reader may hang in copies.
        return {"num_workers": number, "multiprocessing_context": "fork"}
    pickled = io.BytesIO()
    try:
        ForkingPickler(pickled).dump(read)
    except Exception:
        # A lambda, an open file: whatever it is, this process can read it.
        return {}
    # What is of the script (of __main__ or __mp_main__) a process has only where it runs that once more.
    return {} if b"_main__" in pickled.getvalue() else {"num_workers": number}


class _Reading(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Samples as tensors of the kinds that a Split holds."""

    def __init__(self, dataset: Any, convert: Convert) -> None:
        self._dataset = dataset
        self._convert = convert

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        sample, target = self._convert(self._dataset[place])
        if getattr(sample, "mode", None) in ("P", "PA"):
            raise UsageError(
                f"sample {place} of {type(self._dataset).__name__} is an image with a palette, whose numbers are no "
                'colours; have its transform, or `convert`, make it sample.convert("L") or "RGB"'
            )
        value = sample if isinstance(sample, Tensor) else torch.from_numpy(np.array(sample))
        if value is sample and value.dim() == 3 and value.is_floating_point() and value.shape[0] in CHANNELS:
            value = value.permute(1, 2, 0)
        # A split is in this machine's memory, wherever tensors are made by default, or by the data set.
        return value.cpu(), torch.as_tensor(target, device="cpu")


def _stacked(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | str:
    """Return all inputs and all targets, (n, …) each; where they are of several shapes, what PyTorch says of that."""
    try:
        inputs, targets = (torch.stack(parts) for parts in zip(*samples, strict=True))
    except (RuntimeError, ValueError) as error:
        # Not raised: of an error in a worker process all its lines would be said.
        return str(error)
    return inputs, targets


def _copied(piece: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    inputs, targets = piece
    return inputs.clone(), targets.clone()
