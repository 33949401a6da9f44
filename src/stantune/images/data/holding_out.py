"""Which training samples a search compares settings by: drawn by class and by a seed, or the first or the last ones."""

from __future__ import annotations

from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from stantune.errors import UsageError
from stantune.images.data.splits import Split
from stantune.seeds import derive

How = Literal["stratified", "random", "first", "last"]
HOW: tuple[str, ...] = get_args(How)
# Where nobody says how many: a fifth, and no more than tell settings apart well.
SHARE = 0.2
MOST = 10_000
# Of splits, how many values their targets have: each training asks, and it takes a pass over all of them.
_VALUES: WeakKeyDictionary[Split, int] = WeakKeyDictionary()


def hold_out(train: Split, validation: int | float | None, how: How = "last", seed: int = 0) -> tuple[Split, Split]:
    """Return (training, validation), each in the order of `train`; "first" and "last" share its memory.

    Args:
        train: all training samples.
        validation: how many to hold out, or which share (a float below 1); None: a fifth, 10 000 at most.
        how: "stratified": drawn, as many of each class as the share of that class in all; where targets are no classes
            of samples, and for "random": drawn; "first" and "last": those of the file's two ends.
        seed: of the drawing.

    Raises UsageError unless 0 <= validation < n: something must be left to train on.
    """
    count = _count(len(train), validation)
    if not 0 <= count < len(train):
        raise UsageError(f"cannot hold out {count} of {len(train)} training samples: choose 0 to {len(train) - 1}.")
    if how == "last" or not count:
        cut = len(train) - count
        return train.take(0, cut), train.take(cut, len(train))
    if how == "first":
        return train.take(count, len(train)), train.take(0, count)
    # On the CPU, as the data, whatever the process's default is.
    generator = torch.Generator().manual_seed(derive("hold out", seed))
    order = torch.randperm(len(train), generator=generator, device="cpu")
    by_class = how == "stratified" and _are_whole(train.targets)
    held = torch.zeros(len(train), dtype=torch.bool, device="cpu")
    held[_of_each_class(order, train.targets, count) if by_class else order[:count]] = True
    places = torch.arange(len(train), device="cpu")
    return train.select(places[~held]), train.select(places[held])


def are_numbers(train: Split, validation: int | float | None, classes: bool | None) -> bool:
    """Tell whether targets that are whole numbers (n,) are no classes, so that none of them has a share to be held out.

    Args:
        train: all training samples.
        validation: see `hold_out`.
        classes: whether such targets are classes; None where nobody says: they are none where there are more of them
            than samples to be held out.
    """
    if not _are_whole(train.targets):
        return False
    if classes is not None:
        return not classes
    if train not in _VALUES:
        _VALUES[train] = len(torch.unique(train.targets))
    return _VALUES[train] > _count(len(train), validation)


def _are_whole(targets: Tensor) -> bool:
    return targets.dim() == 1 and targets.dtype == torch.int64


def _count(samples: int, validation: int | float | None) -> int:
    if validation is None:
        return min(max(round(SHARE * samples), 1), MOST)
    return max(round(validation * samples), 1) if isinstance(validation, float) else validation


def _of_each_class(order: Tensor, classes: Tensor, count: int) -> Tensor:
    """Return `count` places, of each class the first ones in `order`: its share, rounded so that the sum is right.

    Args:
        order: all places, (n,) int64.
        classes: of each sample, (n,) int64, whatever numbers they are.
        count: how many places, n at most.
    """
    # Not counted from 0: the least may be -1, and the largest a time in seconds.
    _, numbers, there = torch.unique(classes, return_inverse=True, return_counts=True)
    wanted = there * count
    quotas, rests = wanted // len(classes), wanted % len(classes)
    # The largest rests are rounded up; of equal ones those of the first classes.
    up = rests.argsort(descending=True, stable=True)[: count - int(quotas.sum())]
    quotas[up] += 1
    ordered = numbers[order]
    # One class after the other, each in the order of `order`: a sample's rank is how far it is from its class's first.
    by_class = ordered.argsort(stable=True)
    first_of, quota_of = (each[ordered[by_class]] for each in (there.cumsum(0) - there, quotas))
    ranks = torch.arange(len(order), device="cpu") - first_of
    return order[by_class[ranks < quota_of]]
