"""Samples in memory: inputs of any common kind with what is to be said of each, and how some of them are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from stantune.arguments import text, whole
from stantune.errors import UsageError

_SMALL = (torch.uint8, torch.int16)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_TOKENS = (torch.int32, torch.int64)
_INPUTS = (
    "images (n, H, W, C) or (n, H, W) or a table (n, features) as uint8, int16 or float, or token ids (n, length) as "
    "int64"
)


@dataclass(frozen=True, eq=False)
class Split:
    """Samples in a fixed order: tensors or NumPy arrays.

    Attributes:
        inputs: images (n, H, W, C) or grey ones (n, H, W), or a table (n, features), as uint8, int16 or float; or token
            ids (n, length) as int32 or int64. Grey images are held as (n, H, W, 1), float64 as float32.
        targets: what is to be said of each, (n, ...): classes, (n,) or one per pixel (n, H, W); labels (n, L) of 0 and
            1; or numbers. Held as int64, bool or float32; classes of pixels as they are.
        ids: each sample's number, (n,) int64: its place in the original file, say. 0 … n - 1 where left out.

    Raises:
        UsageError: shapes or types are others; the message names the field and what to give.
    """

    inputs: Tensor
    targets: Tensor
    ids: Tensor = None  # type: ignore[assignment]  # a tensor once it is made

    def __post_init__(self) -> None:
        inputs = _checked_inputs(_tensor("inputs", self.inputs))
        targets = _tensor("targets", self.targets)
        ids = torch.arange(len(inputs), device="cpu") if self.ids is None else _tensor("ids", self.ids)
        if targets.dim() == 0 or len(targets) != len(inputs):
            raise UsageError(
                f"a split's targets are of shape {tuple(targets.shape)}, and its inputs {len(inputs)}: give one target "
                "for each input"
            )
        if targets.dtype == torch.uint64 and bool((targets.long() < 0).any()):
            # They would come round to negative ones.
            raise UsageError(
                f"a split's targets are {targets.dtype} and go beyond {2**63 - 1}; give smaller ones, or give them as "
                "float"
            )
        if targets.dtype == torch.float64:
            targets = targets.float()
        elif not targets.is_floating_point() and targets.dtype != torch.bool and targets.dim() == 1:
            targets = targets.long()
        if ids.dtype != torch.int64 or ids.shape != inputs.shape[:1]:
            raise UsageError(
                f"a split's ids are {ids.dtype} of shape {tuple(ids.shape)}: give int64 ({len(inputs)},), or leave "
                "them out"
            )
        for name, value in (("inputs", inputs), ("targets", targets), ("ids", ids)):
            object.__setattr__(self, name, value.contiguous())

    @property
    def images(self) -> Tensor:
        """The inputs, where they are images: (n, H, W, C), so that permute(0, 3, 1, 2) is channels_last uncopied."""
        return self.inputs

    @property
    def labels(self) -> Tensor:
        """The targets, where they are classes: (n,) int64."""
        return self.targets

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, start: int, stop: int) -> Split:
        """Samples start..stop-1, sharing memory; raises UsageError unless 0 <= start <= stop <= n."""
        if not 0 <= start <= stop <= len(self):
            raise UsageError(f"samples {start} to {stop} are not within a split of {len(self)} samples.")
        return Split(self.inputs[start:stop], self.targets[start:stop], self.ids[start:stop])

    def select(self, places: Tensor) -> Split:
        """The samples at these places (m,) int64, copied."""
        return Split(self.inputs[places], self.targets[places], self.ids[places])

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self.inputs.nbytes + self.targets.nbytes + self.ids.nbytes

    def has_room_on(self, device: torch.device | str) -> bool:
        """Tell whether it is on `device`, or would leave half of a GPU's free memory to what trains there."""
        where = torch.device(device)
        if where.type != "cuda" or self.inputs.device == where or where in _COPIES.get(self, {}):
            return True
        # What earlier trainings gave back PyTorch keeps for those to come.
        kept = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
        return self.nbytes <= (torch.cuda.mem_get_info(where)[0] + kept) // 2

    def to(self, device: torch.device | str) -> Split:
        """The same samples on `device`: itself where they are there already; all who have a copy have the same."""
        where = torch.device(device)
        if {each.device for each in (self.inputs, self.targets, self.ids)} == {where}:
            return self
        copies = _COPIES.setdefault(self, WeakValueDictionary())
        copy = copies.get(where)
        if copy is None:
            copy = copies[where] = Split(self.inputs.to(where), self.targets.to(where), self.ids.to(where))
        return copy


# Of splits, their copies on other devices as long as somebody has them: trainings that take turns share one.
_COPIES: WeakKeyDictionary[Split, WeakValueDictionary[torch.device, Split]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set.

    Attributes:
        name: for messages.
        train: training samples: a Split, or what makes one: (inputs, targets).
        test: test samples likewise; None where there are none.
        classes: how many classes there are, 0 … classes - 1; None where the targets are no classes, or for one more
            than the largest.

    Raises:
        UsageError: a field of another kind, or inputs of train and test of different shapes.
    """

    name: str
    train: Split
    test: Split = None  # type: ignore[assignment]  # a Split once it is made
    classes: int | None = None

    def __post_init__(self) -> None:
        text("name", self.name)
        if self.classes is not None:
            object.__setattr__(self, "classes", whole("classes", self.classes, 1))
        for name in ("train", "test"):
            given = getattr(self, name)
            if given is None and name == "test":
                given = self.train.take(0, 0)
            if not isinstance(given, Split):
                if not isinstance(given, tuple | list) or len(given) not in (2, 3):
                    raise UsageError(
                        f"data set {self.name!r}: its {name} is a {type(given).__name__}: give a Split, or a pair "
                        "(inputs, targets)"
                    )
                given = Split(*given)
            # Where a training has room for them they go to its device by themselves.
            object.__setattr__(self, name, given.to("cpu"))
        if self.train.inputs.shape[1:] != self.test.inputs.shape[1:]:
            raise UsageError(
                f"data set {self.name!r}: an input of test is {tuple(self.test.inputs.shape[1:])} and one of train "
                f"{tuple(self.train.inputs.shape[1:])}: give both the same shape"
            )


def is_tokens(inputs: Tensor) -> bool:
    """Tell whether inputs are token ids, which are neither normalised nor turned into float."""
    return inputs.dtype in _TOKENS


def _tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given.detach()
    try:
        return torch.from_numpy(np.ascontiguousarray(given))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a split's {name} cannot be made a tensor ({error}): give a tensor or a NumPy array of numbers"
        ) from None


def _checked_inputs(inputs: Tensor) -> Tensor:
    if inputs.dtype == torch.float64:
        inputs = inputs.float()
    fits = (inputs.dtype in (*_SMALL, *_FLOATS) and inputs.dim() in (2, 3, 4)) or (
        inputs.dtype in _TOKENS and inputs.dim() == 2
    )
    if not fits:
        raise UsageError(f"a split's inputs are {inputs.dtype} of shape {tuple(inputs.shape)}: give {_INPUTS}")
    return inputs.unsqueeze(3) if inputs.dim() == 3 else inputs
