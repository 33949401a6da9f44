"""A part of a split that tells settings apart as the whole does: drawn once, with each class in its proportion."""

from __future__ import annotations

import torch
from torch import Tensor

from stantune.images.data.splits import Split
from stantune.seeds import derive

# Fewer samples, or fewer of a class, order settings by luck.
FEWEST = 2000
FEWEST_OF_CLASS = 20


def samples_of(share: float, samples: int, classes: int | None) -> int:
    """Return how many of so many samples a share of them is: rounded up, and not too few to tell settings apart."""
    fewest = max(FEWEST, FEWEST_OF_CLASS * (classes or 0))
    # A share is a quotient of whole numbers, which rounding may have made a little larger than it is.
    return min(samples, max(-int(-(share * samples - 1e-6) // 1), fewest))


def part_of(split: Split, count: int, seed: int) -> Split:
    """Return `count` samples of a split, in its order; a larger part holds a smaller one. All of them: itself.

    Of each class one share, the same for all, rounded to whole samples: where many small classes are rounded the same
    way, that is a little more or less than `count` of all, so that a large one makes up for them. Where targets are no
    classes of samples, just drawn.
    """
    if count >= len(split):
        return split
    return split.select(_in_turn(split.targets, seed)[:count].sort().values)


def _in_turn(targets: Tensor, seed: int) -> Tensor:
    """Return all places (n,), so that any first ones of them have each class in its proportion."""
    # On the CPU, as the data, whatever the process's default is.
    generator = torch.Generator().manual_seed(derive("part", seed))
    order = torch.randperm(len(targets), generator=generator, device="cpu")
    if targets.dim() != 1 or targets.dtype != torch.int64:
        return order
    drawn = targets[order]
    # The k-th of the n of a class stands at (k + 1/2) / n of the way.
    way = torch.empty(len(drawn), dtype=torch.float64, device="cpu")
    for each in sorted(set(drawn.tolist())):
        places = (drawn == each).nonzero().squeeze(1)
        way[places] = (torch.arange(len(places), dtype=torch.float64, device="cpu") + 0.5) / len(places)
    return order[way.argsort(stable=True)]
