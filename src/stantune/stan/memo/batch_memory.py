"""What each layer of a model remembers of the batch at hand: the MemoStore joined to a handle's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.stan.config import Stan
from stantune.stan.entries.entries import EntryMatrix, Grid, along_line, grid_in_turn
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.linear import StanLinear, neuron_block
from stantune.stan.layers.stan_layer import Recollection
from stantune.stan.memo.budget import LayerSpace, choose_layers, free_memory
from stantune.stan.memo.fingerprints import Fingerprints
from stantune.stan.memo.memo import MemoStore
from stantune.stan.planning.example import Example, called, device_of, refused
from stantune.stan.schedule import Phase
from stantune.stan.untouched import untouched


class BatchMemory:
    """The memory of all accelerated layers under the memo fill, for the samples that `visit` named last.

    Attributes:
        bytes: memory held in all, by the values, what is kept of their changes, and the samples' fingerprints.
    """

    def __init__(self, stan: Stan, spaces: tuple[LayerSpace, ...], device: torch.device) -> None:
        assert stan.memo is not None
        rate = float(stan.least_rate)
        self._stan = stan
        self._iteration = 0
        self._store = MemoStore(
            stan.memo.samples, spaces, dtype=stan.memo.dtype, positions=stan.memo.positions, rate=rate, device=device
        )
        self._fingerprints = Fingerprints(stan.memo.samples, device)
        self.bytes = self._store.bytes + self._fingerprints.bytes

    def begin(self, iteration: int) -> None:
        """Say which training iteration the next forward pass belongs to."""
        self._iteration = iteration

    def visit(self, ids: Tensor, inputs: Tensor | None) -> None:
        """See `StanHandle.visit`."""
        self._store.visit(ids)
        if inputs is not None:
            self._fingerprints.check(self._store.ids, inputs)

    def of(self, place: int, layer: nn.Module) -> LayerMemory:
        """Return the memory of one layer."""
        return LayerMemory(self, place, layer)

    def recall(self, place: int, layer: nn.Module, dtype: torch.dtype, shape: tuple[int, ...]) -> Recollection | None:
        """See `stan_layer.Memory.recall`."""
        if self._stan.schedule.phase(self._iteration) is not Phase.REDUCED:
            return None
        recalled = self._store.recall(place, dtype)
        self._store.check(place, shape)
        if recalled.entries is not None and not isinstance(layer, StanLinear):
            if not bool(recalled.known.any()):
                return None
            return Recollection(EntryMatrix(recalled.entries), recalled.values)
        if not bool(recalled.known.all()):
            # Samples that the last epoch left out: too few of them for a program of their own.
            return None
        return Recollection(self._in_turn(place, layer), recalled.values)

    def remember(self, place: int, output: Tensor, entries: Grid | EntryMatrix | slice | None) -> None:
        """See `stan_layer.Memory.remember`."""
        if self._stan.schedule.phase(self._iteration) is Phase.EXACT:
            return
        shape = (len(output), *output.shape[2:]) if output.dim() > 2 else output.shape
        if isinstance(entries, Grid):
            sides = shape[1:] if len(shape) == 3 else (1, *shape[1:])
            computed: Tensor | None = entries.matrix(*sides).to(output.device).reshape(shape[1:]).expand(shape)
        elif isinstance(entries, slice):
            run = torch.zeros(shape, dtype=torch.bool, device=output.device)
            run[:, entries] = True
            computed = run
        else:
            computed = None if entries is None else entries.entries.reshape(shape)
        self._store.remember(place, output, computed)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, tensors by reference."""
        return {"store": self._store.state_dict(), "fingerprints": self._fingerprints.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy what `state_dict` returned; raises UsageError where it does not fit."""
        self._store.load_state_dict(state["store"])
        self._fingerprints.load_state_dict(state["fingerprints"])

    def _in_turn(self, place: int, layer: nn.Module) -> Grid | slice:
        """Return the entries of this visit: all take their turn, so that none is remembered longer than need be.

        On outputs of CQ recorded over eight epochs (rate 1/2, no refresh) the filled output's relative error was 0.20,
        0.26 and 0.33 in conv1, 2 and 3 in turn, and 0.22, 0.29 and 0.37 at offsets drawn for each visit.
        """
        assert self._stan.memo is not None
        turn = self._iteration // self._stan.memo.epoch + place
        if isinstance(layer, StanLinear):
            return neuron_block(len(layer.weight), round(1 / float(self._stan.least_rate)), turn)
        patterns = self._stan.patterns_of(self._store.layers[place].name)
        usable = patterns if isinstance(layer, StanConv2d) else along_line(patterns)
        return grid_in_turn(usable[0], turn)


class LayerMemory:
    """One layer's part of a BatchMemory: what `stan_layer.Memory` asks for."""

    def __init__(self, batch: BatchMemory, place: int, layer: nn.Module) -> None:
        self._batch = batch
        self._place = place
        self._layer = layer

    def recall(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Recollection | None:
        """See `stan_layer.Memory.recall`."""
        return self._batch.recall(self._place, self._layer, dtype, shape)

    def remember(self, output: Tensor, entries: Grid | EntryMatrix | slice | None) -> None:
        """See `stan_layer.Memory.remember`."""
        self._batch.remember(self._place, output, entries)


def memory_for(
    model: nn.Module, stan: Stan, layers: Mapping[str, nn.Module], example: Example
) -> tuple[BatchMemory, dict[str, str]]:
    """Return the memory of the layers that fit into the budget, and why the others were left out, by name.

    Which layers get it is decided by the multiply-adds that a byte saves, which no timing disturbs.

    Args:
        model: not accelerated yet; it is left as it was.
        stan: settings with a memo.
        layers: those to accelerate, by name.
        example: what the model is called with, see `example.called`.

    Raises:
        UsageError: nothing fits, or the example is no input of the model.
    """
    assert stan.memo is not None
    shapes = output_shapes(model, layers, example)
    missing = [name for name in layers if name not in shapes]
    if missing:
        raise UsageError(f"the example does not pass through {', '.join(missing)}; leave them out of layers=")
    sizes = {name: several[-1] for name, several in shapes.items()}
    spaces = [
        LayerSpace(name, sizes[name], (1 - float(stan.least_rate)) * _multiply_adds(layer, sizes[name]))
        for name, layer in layers.items()
    ]
    memo = stan.memo
    device = device_of(example)
    budget = free_memory(device) // 2 if memo.budget is None else memo.budget
    selection = choose_layers(spaces, memo.samples, budget, memo.dtype, memo.positions)
    left_out = {space.name: f"memo's {budget} bytes are taken by others" for space in selection.left_out}
    return BatchMemory(stan, selection.chosen, device), left_out


def output_shapes(
    model: nn.Module, layers: Mapping[str, nn.Module], example: Example
) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes of one sample's outputs of each layer, one of each call, from an evaluation on `example`.

    The model is left as it was. Layers that the example does not pass through are left out. Raises UsageError where the
    model cannot be called on it.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {}
    names = {layer: name for name, layer in layers.items()}

    def note(layer: nn.Module, _: Any, output: Tensor) -> None:
        # A convolution takes a single sample, too.
        single = isinstance(layer, nn.modules.conv._ConvNd) and output.dim() == 1 + len(layer.kernel_size)
        shapes.setdefault(names[layer], []).append(tuple(output.shape if single else output.shape[1:]))

    with untouched(model, example):
        hooks = [layer.register_forward_hook(note) for layer in names]
        try:
            model.eval()
            with torch.no_grad():
                called(model, example)
        except Exception as error:
            raise refused(model, example, error) from error
        finally:
            for hook in hooks:
                hook.remove()
    return shapes


def _multiply_adds(layer: nn.Module, size: tuple[int, ...]) -> float:
    """Return the multiply-adds of one sample, forward."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    places = 1
    for side in size[1:]:
        places *= side
    return float(weight.numel() * places)
