"""What the memo fill remembers: a layer's output for each sample, by sample id, within a budget of bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stantune.errors import UsageError
from stantune.stan.memo.budget import DTYPES, SCORE, LayerSpace, Positions, Precision, bytes_per_sample

# Smaller changes count as this one: doubling it overtakes any other change in time, which doubling zero never would.
_LEAST_SCORE = 2.0**-60


class Recalled(NamedTuple):
    """What a layer's memory holds of a batch of B samples.

    Attributes:
        known: bool (B,): false for a sample without a memory; all of its entries must be computed.
        entries: E, bool (B, H, W) or (B, N), all true for a sample that is not known; None where positions="grid".
        values: the outputs of the last visits, (B, C, H, W) in channels_last memory or (B, N); zeros for a sample that
            is not known. A copy without gradient, the caller's to write into.
    """

    known: Tensor
    entries: Tensor | None
    values: Tensor


class MemoStore:
    """The memory of the memo fill (approximate memoisation, ours): for each sample its last output of each layer.

    `visit(ids)` names the samples of the batch, before each forward pass; in it a layer calls `recall` (if reduced)
    and `remember` (always), once each.

    Which entries to compute (positions="changed"): those that changed most, exactly ceil(rate * entries) of each
    sample, ties settled by the smallest index. An entry's score is the norm over its channels of its change when it
    was last computed, doubled for each visit since that left it out. Without the doubling an entry that changed little
    once would be left out for ever; with it, one that changes c beside others that change C waits for about log2(C / c)
    visits. (CQ, outputs recorded over seven visits, rate 1/2, no refresh: the relative error of the filled output was
    0.18, 0.24, 0.32 in conv1, 2, 3 with doubling; 0.21, 0.32, 0.40 without; 0.20, 0.26, 0.33 for every second entry in
    turn; 0.23, 0.31, 0.38 for random ones.)

    A sample is known to a layer after one complete computation of its output, or two for a change to choose by. A
    sample whose output holds a NaN or an infinity, or is so large that its sum does, is forgotten: its next visit is
    complete, so that what once diverged is not copied on.

    Attributes:
        samples: how many samples there are; their ids are 0 to samples - 1.
        layers: what is remembered; `layer` in the methods is a place in it.
        bytes: memory held in all; the system hands it over as samples are first written.
    """

    def __init__(
        self,
        samples: int,
        layers: Sequence[LayerSpace],
        *,
        dtype: Precision = "bf16",
        positions: Positions = "grid",
        rate: float = 0.5,
        device: torch.device | str = "cpu",
    ) -> None:
        """Reserve the memory, on `device`, where outputs must be; `rate` is for positions="changed" alone.

        Raises:
            UsageError: the system refuses that much memory.
        """
        self.samples = samples
        self.layers = tuple(layers)
        self.bytes = sum(samples * bytes_per_sample(space, dtype, positions) for space in layers)
        self._positions = positions
        self._rate = rate
        self._device = torch.device(device)
        self._batch: Tensor | None = None
        self._written = [False] * len(self.layers)
        try:
            # Rows of whole samples, entries of them in channels_last order: a batch is one gather or scatter of rows.
            self._values = [self._reserve(space.shape, DTYPES[dtype]) for space in self.layers]
            changes = self.layers if positions == "changed" else ()
            self._scores = [self._reserve(space.places, SCORE) for space in changes]
        except RuntimeError as error:
            raise UsageError(
                f"the system refuses the {self.bytes} bytes that memo asks for {samples} samples; give it a smaller "
                "budget (Memo(budget=bytes))"
            ) from error
        self._complete = [torch.zeros(samples, dtype=torch.uint8, device=self._device) for _ in self.layers]

    def _reserve(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        # Not `empty`, which would bring what lay there before into checkpoints.
        return torch.zeros(self.samples, math.prod(shape), dtype=dtype, device=self._device)

    @property
    def ids(self) -> Tensor:
        """The samples of the present batch, (B,) int64.

        Raises:
            UsageError: `visit` was not called.
        """
        if self._batch is None:
            raise UsageError("memo does not know this batch's samples; call visit(ids) before each forward pass")
        return self._batch

    def visit(self, ids: Tensor | None) -> None:
        """Name the samples of the next forward pass.

        Args:
            ids: (B,), integers from 0 to samples - 1, none of them twice.

        Raises:
            UsageError: anything else; then no batch is announced.
        """
        self._batch = None
        self._written = [False] * len(self.layers)
        remedy = (
            f"give visit() a tensor (B,) of integers from 0 to {self.samples - 1}, each sample's own in every epoch"
        )
        if ids is None:
            raise UsageError(f"memo is without the ids of this batch's samples; {remedy}")
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            kind = str(ids.dtype) if isinstance(ids, Tensor) else type(ids).__name__
            raise UsageError(f"memo cannot take sample ids of the type {kind}; {remedy}")
        if ids.dim() != 1:
            raise UsageError(f"memo cannot take sample ids of the shape {tuple(ids.shape)}; {remedy}")
        found = ids.detach().to(self._device, torch.int64, copy=True)
        outside = found[(found < 0) | (found >= self.samples)]
        if len(outside):
            raise UsageError(
                f"sample id {int(outside[0])} is not among the {self.samples} samples that memo was made for; {remedy}"
            )
        ordered = found.sort().values
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated):
            raise UsageError(
                f"sample id {int(repeated[0])} is in the batch more than once, and memo keeps one output of a sample; "
                "draw batches without replacement"
            )
        self._batch = found

    def known(self, layer: int) -> Tensor:
        """Tell which samples of the batch the layer has a memory of, bool (B,).

        Raises:
            UsageError: `visit` was not called.
        """
        needed = 2 if self._positions == "changed" else 1
        return self._complete[layer].index_select(0, self.ids) >= needed

    def check(self, layer: int, shape: tuple[int, ...]) -> None:
        """See that an output of this shape, (B, C, H, W) or (B, N), is the layer's for the announced batch.

        Raises:
            UsageError: another shape than the layer's or another batch than the announced one, or no `visit`.
        """
        space = self.layers[layer]
        wanted = (len(self.ids), *space.shape)
        if shape != wanted:
            raise UsageError(
                f"layer {space.name!r} gave an output {shape}, and after visit() with {len(self.ids)} ids memo expects "
                f"{wanted}; give visit() this batch's ids, and keep the inputs' size"
            )

    def recall(self, layer: int, dtype: torch.dtype) -> Recalled:
        """Return what the layer's last outputs for the batch were, in `dtype`, and which entries to compute now.

        Raises:
            UsageError: `visit` was not called for this forward pass.
        """
        ids = self._current(layer)
        space = self.layers[layer]
        known = self.known(layer)
        unknown = ~known
        rows = self._values[layer].index_select(0, ids).to(dtype)
        if bool(unknown.any()):
            rows[unknown] = 0
        values = rows.view(len(ids), *space.places, space.channels).movedim(-1, 1) if len(space.shape) > 1 else rows
        if self._positions == "grid":
            return Recalled(known, None, values)
        chosen = largest(self._scores[layer].index_select(0, ids), _count(self._rate, math.prod(space.places)))
        entries = (chosen | unknown[:, None]).view(len(ids), *space.places)
        return Recalled(known, entries, values)

    def remember(self, layer: int, output: Tensor, entries: Tensor | None = None) -> None:
        """Keep the batch's outputs of the layer.

        Args:
            layer: a place in `layers`.
            output: (B, C, H, W) or (B, N), after the fill: an entry that was not computed holds what `recall` gave, so
                that whole rows are written (half the time of writing the computed entries alone).
            entries: E, bool (B, H, W) or (B, N), true where the entry was computed; None where all were.

        Raises:
            UsageError: another shape than the layer's or another batch than the announced one, no `visit` for this
                forward pass, or a second call in it.
        """
        ids = self._current(layer)
        space = self.layers[layer]
        self.check(layer, tuple(output.shape))
        rows = output.detach()
        if len(space.shape) > 1:
            rows = rows.movedim(1, -1)
        rows = rows.reshape(len(ids), math.prod(space.shape))
        sound = rows.sum(1, dtype=torch.float32).isfinite()
        new = rows.to(self._values[layer].dtype)
        computed = None if entries is None else entries.reshape(len(ids), math.prod(space.places))
        if self._positions == "changed":
            self._renew_scores(layer, ids, new, computed)
        self._values[layer].index_copy_(0, ids, new)
        complete = self._complete[layer].index_select(0, ids)
        increase = sound if computed is None else sound & computed.all(1)
        complete = ((complete + increase).clamp_(max=2) * sound).to(torch.uint8)
        self._complete[layer].index_copy_(0, ids, complete)
        self._written[layer] = True

    def _renew_scores(self, layer: int, ids: Tensor, new: Tensor, computed: Tensor | None) -> None:
        space = self.layers[layer]
        change = new - self._values[layer].index_select(0, ids)
        change = change.view(len(ids), math.prod(space.places), space.channels)
        scores = torch.linalg.vector_norm(change, dim=-1, dtype=torch.float32).to(SCORE).clamp_(min=_LEAST_SCORE)
        if computed is not None:
            scores = torch.where(computed, scores, self._scores[layer].index_select(0, ids) * 2)
        self._scores[layer].index_copy_(0, ids, scores)

    def _current(self, layer: int) -> Tensor:
        if self._written[layer]:
            raise UsageError(
                f"layer {self.layers[layer].name!r} runs again after it remembered this batch; call visit(ids) before "
                "each forward pass, and leave a layer out of layers= that runs twice in one, or is recomputed"
            )
        return self.ids

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, tensors by reference; call it between two iterations."""
        return {
            "layers": [space.name for space in self.layers],
            "values": list(self._values),
            "scores": list(self._scores),
            "complete": list(self._complete),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy what `state_dict` returned; the next batch must be announced by `visit`.

        Raises:
            UsageError: the state is of other layers, shapes, number of samples, dtype or positions.
        """
        own = self.state_dict()
        saved, wanted = _described(state), _described(own)
        if saved != wanted:
            raise UsageError(
                f"the saved memory is of {saved}, and this run's is of {wanted}; go on with the model, the data and "
                "the memo settings that it was saved with"
            )
        for part in ("values", "scores", "complete"):
            for kept, other in zip(own[part], state[part], strict=True):
                kept.copy_(other)
        self._batch = None
        self._written = [False] * len(self.layers)


def _described(state: Mapping[str, Any]) -> str:
    tensors = [f"{tuple(kept.shape)} {kept.dtype}" for part in ("values", "scores", "complete") for kept in state[part]]
    return f"layers {', '.join(state['layers'])}: {', '.join(tensors)}"


def _count(rate: float, entries: int) -> int:
    # 0.07 * 100 is a little more than 7 in floats.
    return min(math.ceil(rate * entries * (1 - 1e-12)), entries)


def largest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` largest of each row of scores (B, n), of equal ones those of smallest index: bool (B, n)."""
    if count == scores.shape[1] or not len(scores):
        return torch.ones_like(scores, dtype=torch.bool)
    least = scores.kthvalue(scores.shape[1] - count + 1, dim=1, keepdim=True).values
    above = scores > least
    equal = scores == least
    return above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True)))
