"""What all of STAN's layers share: what the handle sets on them, and whether a pass may be reduced."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from functools import cache
from itertools import count
from threading import get_ident
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from stantune.errors import StanWarning
from stantune.stan.entries.entries import EntryMatrix, Grid
from stantune.stan.layers.stand_in import StandIn, copied

# What takes, and gives back, all that is saved now; None without any. PyTorch 2.7 does not tell.
_hooks: Callable[[bool], tuple[Callable[[Tensor], object], Callable[[object], Tensor]] | None] | None = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", None
)
_turns = count(1)
_MARKS = 64


class Recollection(NamedTuple):
    """What a reduced iteration under the memo fill begins with.

    Attributes:
        entries: those that are computed now; of a linear layer the run of its neurons.
        values: (B, C, H, W), or (B, N) of a linear layer: what every entry had at its sample's last visit; a tensor
            that the layer may write into.
    """

    entries: Grid | EntryMatrix | slice
    values: Tensor


class Memory(Protocol):
    """What a layer remembers of the samples of the present batch."""

    def recall(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Recollection | None:
        """Return what the batch had last, in `dtype`; None where this iteration computes every entry.

        Raises:
            UsageError: the batch's output is to have another `shape` than what is remembered.
        """
        ...

    def remember(self, output: Tensor, entries: Grid | EntryMatrix | slice | None) -> None:
        """Keep an output, (B, C, H, W) or (B, N), without its graph; `entries` are those computed, None for all."""
        ...


class Earlier(NamedTuple):
    """What a layer was in the last iteration before this one in which it ran.

    Attributes:
        last: as the layer's then.
        grid: as the layer's then.
        watched: whether the layer was.
        turn: the layer's then.
    """

    last: dict[int | None, str]
    grid: Grid | EntryMatrix | None
    watched: bool
    turn: int


class StanLayer(StandIn):
    """What the handle sets on a layer for one iteration; a copied or pickled layer has but `sizes` of it and is exact.

    Attributes:
        grid: the entries to compute, an EntryMatrix of a 1-D layer being (B, L); None for all.
        watch: called with the exact output, without its graph, where `grid` is None.
        memory: what skipped entries receive under the memo fill.
        passed: called at each forward pass in training.
        stan_name: the layer's name in the model, for errors.
        sizes: (H_out, W_out) of the last output that was large enough to be filled, under True, and of the last that
            was not, under False; None where nobody asks. By it a handle knows the layers that are still its own.
        last: what the last training pass of each thread in this iteration, by its number, was; under None that of any
            thread. "reduced" if it might be, "without gradients" or "not plain" (`kernels.gate`) if it was exact for
            that, "exact again" once a reentrant checkpoint has computed it again.
        earlier: what a checkpoint may have to compute again, where the handle has gone on between a forward pass and
            its backward pass.
        turn: the number of the iteration, of all that layers in this process have had.
        marks: of the last passes that had no graph; see `hold`.
    """

    grid: Grid | EntryMatrix | None = None
    watch: Callable[[Tensor], None] | None = None
    memory: Memory | None = None
    passed: Callable[[], None] | None = None
    stan_name: str | None = None
    sizes: dict[bool, tuple[int, int]] | None = None
    last: dict[int | None, str]
    earlier: Earlier | None = None
    turn: int = 0
    marks: deque[object]

    def __getstate__(self) -> dict[str, Any]:
        # A copy stands in for the same class, and shows a copy of the handle that it is its own.
        dropped = set(SET_BY_HANDLE) - {"__module__", "sizes"}
        return {key: value for key, value in self.__dict__.items() if key not in dropped}

    def __deepcopy__(self, memo: dict[int, Any]) -> StanLayer:
        return copied(self, StanLayer.__getstate__(self), memo)

    def _begin(self) -> bool:
        """Say that a pass in training begins; tell whether it may be reduced, watched and remembered.

        A pass without gradients trains nothing: it takes statistics (`update_bn`), or it is the first pass of a
        reentrant checkpoint. It is exact, and so is what such a checkpoint computes again in the backward pass: its
        gradients are then those of what the loss has seen.
        """
        if not torch.is_grad_enabled():
            self._took("without gradients")
            return False
        last = self._took("reduced")
        if last == "without gradients":
            _say_reentrant()
        if last != "reduced":
            return False
        if self.passed is not None:
            self.passed()
        return True

    def go_on(self) -> None:
        """Say that the next pass is of another iteration."""
        own = self.__dict__  # a module's own way of setting attributes takes longer
        if _counts(last := own.get("last", {})):
            own["earlier"] = Earlier(last, self.grid, self.watch is not None, self.turn)
        own["last"] = {}
        own["turn"] = next(_turns)

    def _again(self) -> Earlier | None:
        """Return what a pass is of, where it computes again one of an earlier iteration: within a backward pass."""
        earlier = self.earlier
        if earlier is None or not in_backward() or _in_reentrant_checkpoint():
            return None
        return None if _counts(self.__dict__.get("last", {})) else earlier

    def entries_now(self) -> Grid | EntryMatrix | None:
        """Return the entries that this pass computes, None for all."""
        again = self._again()
        return self.grid if again is None else again.grid

    def watched_now(self) -> bool:
        """Tell whether somebody wants, or wanted, this pass's own output."""
        again = self._again()
        return self.watch is not None if again is None else again.watched

    def mark(self) -> object:
        """Say, to a checkpoint that computes this reduced pass again, of which iteration it is.

        A checkpoint that is not reentrant compares the shapes of what a pass saves, in turn, with those of the first
        one. So it refuses what would be computed from other entries: it cannot be known here which of several earlier
        passes it is that comes again. To be done before anything else of the pass is saved.

        Returns:
            what `hold` is to keep; None outside such checkpoints.
        """
        hooks = None if _hooks is None else _hooks(True)
        # Others may be methods of PyTorch's, such as Tensor.cpu, which are of no module.
        if hooks is None or getattr(hooks[1], "__module__", None) != "torch.utils.checkpoint":
            return None
        again = self._again()
        turn = self.turn if again is None else again.turn
        return hooks[0](torch.empty((0, turn), device="cpu", dtype=torch.float32))

    def hold(self, output: Tensor, mark: object) -> Tensor:
        """Return a pass's output, and keep its `mark` as long as its graph: what is given up is not compared."""
        if mark is not None:
            if (node := output.grad_fn) is not None:
                node.metadata["stantune"] = mark  # type: ignore[index]  # a property, which PyTorch writes as a method
            else:  # nothing here is trained, but what comes behind it may be
                self.__dict__.setdefault("marks", deque(maxlen=_MARKS)).append(mark)
        return output

    def came_by_others(self) -> bool:
        """Tell whether this pass computes one again that was PyTorch's alone, under a mode that is over by now."""
        if not in_backward():
            return False
        again = self._again()
        last = self.__dict__.get("last", {}) if again is None else again.last
        return bool(last.get(get_ident(), last.get(None)) == "not plain")

    def note(self, fills: bool, size: tuple[int, int]) -> None:
        """Take down an output's size, (H_out, W_out), and whether it was large enough to be filled."""
        if self.sizes is not None:
            self.sizes[fills] = size

    def _took(self, pass_: str) -> str:
        """Take down what a pass is; return what it has to be, if it is one again: within a backward pass."""
        # Other threads may be at this layer, too, such as one that only evaluates; PyTorch's own go backward only.
        last, thread = self.__dict__.setdefault("last", {}), get_ident()
        if in_backward():
            if _in_reentrant_checkpoint():
                # So are checkpoints within it, which know nothing of it by the time that they compute again.
                for key in (thread, None):
                    if last.get(key) == "without gradients":
                        last[key] = "exact again"
                return "without gradients"
            if (again := self._again()) is not None:
                last = again.last
            return last.get(thread, last.get(None, pass_))  # type: ignore[no-any-return]
        for key in (thread, None):
            # What has no gradients is computed again for a reentrant checkpoint alone. Where another pass has some,
            # it is that one whose checkpoint may be.
            if torch.is_grad_enabled() or key not in last:
                last[key] = pass_
        return pass_

    def _named(self, error: Exception) -> None:
        """Add the layer's name to an error of PyTorch's."""
        if self.stan_name is not None:
            error.add_note(f"in layer {self.stan_name!r}" if self.stan_name else "in the model, a single layer")


SET_BY_HANDLE = (
    "grid",
    "watch",
    "memory",
    "passed",
    "stan_name",
    "sizes",
    "last",
    "earlier",
    "turn",
    "marks",
    "__module__",
)


def forget_(layer: nn.Module) -> None:
    """Take away what STAN has set on a layer, and leave what is its owner's."""
    for name in SET_BY_HANDLE if isinstance(layer, StanLayer) else ("__module__",):
        layer.__dict__.pop(name, None)


def in_backward() -> bool:
    """Tell whether what is computed now is part of a backward pass, as what a checkpoint computes again is."""
    return torch._C._current_graph_task_id() != -1


def _counts(last: dict[int | None, str]) -> bool:
    """Tell whether a layer has run in an iteration: passes without gradients count for nothing."""
    # Of a copy: another thread may begin a pass meanwhile.
    return any(pass_ != "without gradients" for pass_ in last.copy().values())


def _in_reentrant_checkpoint() -> bool:
    """Tell whether what computes again is a reentrant checkpoint's own backward pass."""
    node = torch._C._current_autograd_node()
    return node is not None and node.name() == "CheckpointFunctionBackward"


@cache
def _say_reentrant() -> None:
    """Say, once in a process, why a model that is checkpointed in this way computes every entry."""
    warnings.warn(
        "layers within a reentrant checkpoint train exactly, since its first pass has no gradients; give checkpoint "
        "use_reentrant=False for STAN to reduce them",
        StanWarning,
        stacklevel=2,
    )


def result_type(input: Tensor) -> torch.dtype:
    """Return the type of a product with this input: autocast's where it is on, which leaves float64 as it is."""
    kind = input.device.type
    casts = torch.is_autocast_enabled(kind) and input.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if casts else input.dtype
