"""Fingerprints of samples' inputs: they tell that an input is not what it was at its sample's first visit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stantune.errors import UsageError
from stantune.seeds import derive

# A sample's input may differ by this share of its norm between visits: the rounding of whatever prepared it differs by
# 1e-6; an augmentation's difference is a good part of the norm, and of a tenth one visit in a thousand stays below it.
_TOLERANCE = 1e-4
_REMEDY = "memo needs the same input each time; switch augmentation off, or use the neighbour fill (memo=None)"


class Fingerprints:
    """A number for each sample's input, taken at its first visit, that tells whether it is still the same input.

    It is the dot product with a fixed normal vector, compared within rounding: any augmentation changes it, and so do
    ids that do not stay with their samples. 0.4 ms for 100 images of 3x32x32 on one core.

    Attributes:
        bytes: memory held, 4 for each sample.
    """

    def __init__(self, samples: int, device: torch.device | str = "cpu") -> None:
        # NaN is a sample that was not seen: it compares as different from nothing.
        self._first = torch.full((samples,), torch.nan, dtype=torch.float32, device=device)
        self._vector: Tensor | None = None
        self._shape: tuple[int, ...] = ()
        self.bytes = self._first.nbytes

    def check(self, ids: Tensor, input: Tensor) -> None:
        """Compare a batch with the first visits of its samples, and note those that come for the first time.

        Args:
            ids: (B,) int64, from 0 to samples - 1, none of them twice (`MemoStore.ids`).
            input: the model's input, (B, ...).

        Raises:
            UsageError: a sample's input is not what it was, or another number or shape of samples came.
        """
        shape = tuple(input.shape[1:])
        if len(ids) != len(input):
            raise UsageError(f"visit() was given {len(ids)} sample ids for a batch of {len(input)}; give one for each")
        vector = self._vector if self._vector is not None else self._prepare(shape)
        if shape != self._shape:
            raise UsageError(f"memo saw samples of the shape {self._shape} and now of {shape}: {_REMEDY}")
        rows = input.detach().to(self._first.device, torch.float32).reshape(len(ids), math.prod(shape))
        with torch.autocast(rows.device.type, enabled=False):
            now = rows @ vector
        first = self._first.index_select(0, ids)
        differ = (now - first).abs() > _TOLERANCE * torch.linalg.vector_norm(rows, dim=1)
        if bool(differ.any()):
            raise UsageError(
                f"sample {int(ids[differ][0])} differs from its first visit, or its id was another sample's: {_REMEDY}"
            )
        self._first.index_copy_(0, ids, torch.where(first.isnan(), now, first))

    def _prepare(self, shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        generator = torch.Generator().manual_seed(derive("fingerprint", size))
        # A process may have other defaults.
        vector = torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")
        self._vector, self._shape = vector.to(self._first.device), shape
        return self._vector

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, by reference."""
        return {"first": self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy what `state_dict` returned.

        Raises:
            UsageError: it is of another number of samples.
        """
        if state["first"].shape != self._first.shape:
            raise UsageError(
                f"the saved fingerprints are of {len(state['first'])} samples, and this run has {len(self._first)}; go "
                "on with the data that they were saved with"
            )
        self._first.copy_(state["first"])
