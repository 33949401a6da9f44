"""A training step as CUDA graphs, one for each set of entries: for small networks, which wait for launches mostly."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor, nn

from stantune.stan.entries import EntryMatrix
from stantune.stan.layers import StanConv1d, StanConv2d, StanLinear

Step = Callable[..., Tensor]
LAYERS = (StanConv1d, StanConv2d, StanLinear)
# So many sets of entries are recorded; the steps of all others run as they are written.
MOST = 64


class Recorder(Protocol):
    """Where steps run, and how one is recorded."""

    def run(self, step: Step, inputs: tuple[Tensor, ...]) -> Tensor:
        """Do a step now, where it would be recorded."""
        ...

    def record(self, step: Step, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        """Record a step without doing it; return what does it, on what `inputs` then hold, and returns its result."""
        ...


class GraphedStep:
    """Replays a training step, where it was recorded with the same entries; otherwise does it as it is written.

    The grids of a schedule come in a few phases, so that after a few of each all reduced and exact steps are replayed.
    A set of entries is recorded when it comes for the second time: the first time compiles, measures and allocates.
    Refreshes that measure errors, the memo fill and any other entries than grids are never recorded.

    Parameters' gradients are the graphs' own between steps: read them inside of the step alone.

    What decides is tested without a device; `OnCuda`, which records, has not run on one yet.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        constants: Callable[[], Hashable] = tuple,
        recorder: Recorder | None = None,
    ) -> None:
        """Wrap a step.

        Args:
            model: accelerated; its layers say what an iteration computes.
            step: one whole training step on a batch of tensors: gradients set to None, forward and backward pass, the
                optimizer's step, no synchronisation. Returns a tensor such as the loss. The handle's `step()` is not
                part of it.
            constants: returns all numbers outside of tensors that the step depends on, such as learning rates: a graph
                is good for those alone that it was recorded with.
            recorder: for tests; by default CUDA's.
        """
        self._step = step
        self._constants = constants
        self._recorder = recorder or OnCuda()
        self._modules = list(model.modules())
        self._layers = [module for module in self._modules if isinstance(module, LAYERS)]
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, tuple[tuple[Tensor, ...], Callable[[], Tensor]]] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Do one step on a batch, and return a copy of what it returns, without its graph."""
        key = self._key(inputs)
        if key not in self._recorded:
            if key is None or key not in self._seen or len(self._recorded) == MOST:
                self._seen.add(key)
                return self._recorder.run(self._step, inputs).detach()
            own = tuple(each.clone() for each in inputs)
            self._recorded[key] = own, self._recorder.record(self._step, own)
        own, replay = self._recorded[key]
        for mine, given in zip(own, inputs, strict=True):
            mine.copy_(given)
        return replay().detach().clone()

    def _key(self, inputs: tuple[Tensor, ...]) -> Hashable:
        """Return all that a recorded step depends on; None where it must not be recorded."""
        if any(
            layer.watch is not None or layer.memory is not None or isinstance(layer.grid, EntryMatrix)
            for layer in self._layers
        ):
            return None
        kinds = tuple((each.shape, each.dtype, each.stride(), each.device) for each in inputs)
        modes = tuple(module.training for module in self._modules)
        return tuple(layer.grid for layer in self._layers), modes, kinds, self._constants()


class OnCuda:
    """Records CUDA graphs, which share their memory: none is replayed while another one runs, or its result needed."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, step: Step, inputs: tuple[Tensor, ...]) -> Tensor:
        """Do a step now; on the stream that records, as parts of the autograd graph remember theirs."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = step(*inputs)
        here.wait_stream(self._stream)
        return result

    def record(self, step: Step, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        """Record a step without doing it; return what replays it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = step(*inputs).detach()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
