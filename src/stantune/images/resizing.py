"""Small images first: trainings whose first part sees images of fewer pixels, and is compared by such."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.images.data import Batch, Batches, Normaliser
from stantune.images.problem.problem import Problem, Splits
from stantune.images.resizing_checks import check_small
from stantune.stan.config import Stan
from stantune.training.trainable import Trainable

# Digits of other scripts, and 1_0 as ten, are Python's alone.
_SHARE = re.compile(r"\d+/\d+|(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_LONGEST = 100
# What is beyond this is nobody's share, and no sentence has room for it.
_FINEST = 10**30
# Up to the last rung but one of a search with eta 3.
UNTIL = Fraction(1, 3)
FORM = "give the share of the sides, 1/2 say, or with the share of the longest training behind it, 1/2:1/3"


@dataclass(frozen=True)
class Resize:
    """Progressive resizing: images averaged to a share of their sides, in the first part of a training.

    As in fast.ai's entry to DAWNBench (Howard, 2018) and in EfficientNetV2 (Tan & Le, 2021). Its iterations take less
    time, and low rungs put settings in order by them. What is evaluated within that part is evaluated on images that
    are as small. Final trainings from scratch see whole images alone.

    Attributes:
        share: of height and of width, between 0 and 1.
        until: the share of a search's longest training up to which images are small, between 0 and 1.

    Raises:
        UsageError: a share that is none.
    """

    share: Fraction
    until: Fraction = UNTIL

    def __post_init__(self) -> None:
        given = (self.share, self.until)
        object.__setattr__(self, "share", _share(self.share, given))
        object.__setattr__(self, "until", _share(self.until, given))

    @classmethod
    def of(cls, given: object) -> Resize:
        """Return what is meant by "1/2", "1/2:1/3", 0.5, or a Resize; raises UsageError where nothing is."""
        if isinstance(given, Resize):
            return given
        shares = [_share(part, given) for part in _text(given, given).split(":")]
        if len(shares) > 2:
            raise UsageError(f"`resize`={shown(given)} has more than two parts; {FORM}")
        return cls(*shares)

    def __str__(self) -> str:
        return f"{self.share}:{self.until}"

    def iterations(self, length: int) -> int:
        """Return how many iterations of a training that may get so long see small images."""
        return math.floor(length * self.until)

    def shrunk(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), each pixel the mean of those that it covers: (B, C, H * share, W * share)."""
        rows, columns = (max(1, round(side * self.share)) for side in images.shape[-2:])
        return F.adaptive_avg_pool2d(images, (rows, columns)).contiguous(memory_format=torch.channels_last)

    def check(
        self,
        problem: Problem,
        splits: Splits,
        length: int,
        stan: Stan | None = None,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        """Raise UsageError where this does not go with a problem, or makes nothing small.

        Args:
            problem: its network, loss and measure are shown images, and are to take small ones, too.
            splits: its data.
            length: of the longest training of its search.
            stan: what remembers entries of images does not go with it.
            fixed: parameters that have one value in all settings; of the others the network has what is its own.
        """
        self.check_memory(stan)
        if splits.train.inputs.dim() != 4:
            raise UsageError(
                f"`resize`={self} is for images, and the inputs of problem {problem.name!r} are none; leave it away"
            )
        if not self.iterations(length):
            raise UsageError(
                f"`resize`={self} makes no image small: {self.until} of {length} iterations is less than one; train "
                "longer, or leave `resize` away"
            )
        height, width = splits.train.inputs.shape[1:3]
        if self.shrunk(torch.empty(1, 1, height, width)).shape[2:] == (height, width):
            raise UsageError(
                f"`resize`={self} makes no image small: {self.share} of {height} by {width} pixels is as many; give "
                "a smaller share, or leave `resize` away"
            )
        try:
            check_small(problem, fixed or {}, splits, self.small(splits), self.shrunk)
        except UsageError as error:
            raise UsageError(
                f"`resize`={self} does not go with this: {error}; a network whose last map is averaged "
                "(nn.AdaptiveAvgPool2d(1)) takes images of any size; with others leave `resize` away"
            ) from error

    def check_memory(self, stan: Stan | None) -> None:
        """Raise UsageError where STAN remembers entries, which would be of images of two sizes."""
        if stan is not None and stan.memo is not None:
            raise UsageError(
                f"`resize`={self} does not go with a memory of entries, which are those of whole images; leave one of "
                "them away"
            )

    def small(self, splits: Splits) -> Splits:
        """Return the data with images that become small where they are normalised."""
        whole = splits.normaliser
        return replace(splits, normaliser=_Shrinking(whole.mean, whole.scale, whole.std, self))


def _share(given: object, whole: object) -> Fraction:
    """Return a share; raises UsageError, which shows all that was given, where it is none."""
    text = _text(given, whole).strip()
    if len(text) > _LONGEST or not _SHARE.fullmatch(text) or not int(text.partition("/")[2] or 1):
        raise _no_share(text, whole)
    share = Fraction(text)
    if not 0 < share < 1:
        raise _no_share(text, whole)
    if share.denominator > _FINEST:
        raise UsageError(f"`resize`={shown(whole)}: {shown(text)} is too fine a share; {FORM}")
    return share


def _text(given: object, whole: object) -> str:
    try:
        return str(given)
    except Exception:  # of some thousand digits Python makes no text, and an object's own method may raise anything
        raise _no_share(given, whole) from None


def _no_share(part: object, given: object) -> UsageError:
    return UsageError(f"`resize`={shown(given)}: {shown(part)} is no share between 0 and 1; {FORM}")


@dataclass(frozen=True, eq=False)
class _Shrinking(Normaliser):
    """Normalises, and makes images small."""

    resize: Resize | None = None

    def __call__(self, samples: Tensor) -> Tensor:
        """See Normaliser."""
        assert self.resize is not None
        return self.resize.shrunk(super().__call__(samples))

    def to(self, device: torch.device | str) -> Normaliser:
        """See Normaliser."""
        there = super().to(device)
        return _Shrinking(there.mean, there.scale, there.std, self.resize)


class _SmallFirst:
    """Batches whose first ones are of small images, after whatever the user's augmentation does with whole ones.

    Those of a segment that are all small, or all whole, a device can gather by itself.
    """

    def __init__(self, batches: Batches, resize: Resize, until: int, stop: int) -> None:
        self._batches, self._resize, self._until, self._stop = batches, resize, until, stop

    def at(self, iteration: int) -> Any:
        """See Batches."""
        batch = self._batches.at(iteration)
        return batch if iteration >= self._until else self._small(batch)

    def feeds(self, first: int) -> bool:
        """See training.trainable.Feeding. A segment whose checkpoint is lost begins with iteration 0."""
        return self._batches.feeds(first) and not first < self._until < self._stop

    def rows(self, first: int, count: int) -> Tensor:
        """See training.trainable.Feeding."""
        return self._batches.rows(first, count)

    def gathered(self, rows: Tensor) -> Batch:
        """See training.trainable.Feeding."""
        batch = self._batches.gathered(rows)
        return self._small(batch) if self._stop <= self._until else batch

    def _small(self, batch: Batch) -> Batch:
        return batch._replace(inputs=self._resize.shrunk(batch.inputs))


class _Resized:
    """A problem as it is trained within a segment; all that is not below is the problem's."""

    def __init__(self, problem: Problem, resize: Resize, length: int, start: int, stop: int) -> None:
        self._problem, self._resize, self._until = problem, resize, resize.iterations(length)
        self._stop = stop
        self._small_at_end = stop <= self._until
        # Steps are recorded for one shape.
        self.recordable = problem.recordable and not start < self._until < stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    @property
    def identity(self) -> Mapping[str, Any]:
        """See Trainable."""
        return {**self._problem.identity, "resize": [str(self._resize.share), self._until]}

    def batches(self, splits: Splits, setting: Mapping[str, Any], seed: int, device: str) -> Any:
        """See Trainable."""
        whole = self._problem.batches(splits, setting, seed, device)
        return _SmallFirst(whole, self._resize, self._until, self._stop)

    def evaluate(self, model: torch.nn.Module, splits: Splits, split: str, device: str) -> dict[str, float]:
        """See Trainable; at the segment's end, by images as they were trained on last."""
        compared = self._resize.small(splits) if self._small_at_end else splits
        return self._problem.evaluate(model, compared, split, device)


def resized(problem: Problem, resize: Resize, length: int, start: int, stop: int) -> Trainable:
    """Return the problem as it is trained from iteration `start` to `stop` of a training of up to `length`."""
    return cast(Trainable, _Resized(problem, resize, length, start, stop))
