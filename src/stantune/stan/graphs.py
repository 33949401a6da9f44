"""A training step as CUDA graphs, one for each set of entries: for networks that mostly wait for launches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor, nn

from stantune.errors import StanWarning
from stantune.kernels.cuda.lanes import Lane
from stantune.kernels.cuda.ways import replayed
from stantune.stan.entries.entries import EntryMatrix
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.layers.linear import StanLinear
from stantune.stan.layers.meprop import MePropLinear
from stantune.stan.layers.stan_layer import result_type

Step = Callable[..., Tensor]
LAYERS = (StanConv1d, StanConv2d, StanLinear)
# So many sets of entries are recorded; the steps of all others run as they are written.
MOST = 64
# So many sets are remembered as having come once; where numbers change in every step, none would ever come again.
SEEN = 1024


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
    Each layer draws its offset by itself, so that a deep network hardly ever has the same set twice: give it a small
    number of them (`Stan(offset_sets=16)`). Refreshes that measure errors, the memo fill and any other entries than
    grids are never recorded.

    A replayed step does what the recorded one gave the device, and nothing of what it did in Python. Parameters'
    gradients are the graphs' own between steps: read them inside of the step alone. Where model or optimizer get other
    tensors (load_state_dict), make a new GraphedStep. A step that cannot be recorded, since it waits for the device or
    moves data to it, runs as it is written, with a warning.
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
            constants: returns all numbers outside of tensors that the step depends on, such as learning rates and what
                dropout leaves out: a graph is good for those alone that it was recorded with. What is accelerated and
                how, modes of training, what has gradients, and autocast around the step are asked for by themselves.
            recorder: where steps run and are recorded, such as OnCuda in a training's lane; by default in a lane of its
                own.
        """
        self._step = step
        self._constants = constants
        self._recorder = recorder or OnCuda()
        self._modules, self._parameters = list(model.modules()), list(model.parameters())
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, tuple[tuple[Tensor, ...], Callable[[], Tensor]]] = {}
        self._most = MOST

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Do one step on a batch, and return a copy of what it returns, without its graph."""
        key = self._key(inputs)
        if key not in self._recorded:
            wanted = key is not None and key in self._seen and len(self._recorded) < self._most
            if not wanted or not self._record(key, inputs):
                if len(self._seen) == SEEN:
                    self._seen.clear()
                self._seen.add(key)
                return self._recorder.run(self._step, inputs).detach()
        own, replay = self._recorded[key]
        for mine, given in zip(own, inputs, strict=True):
            mine.copy_(given)
        return replay().detach().clone()

    def _record(self, key: Hashable, inputs: tuple[Tensor, ...]) -> bool:
        """Record the step with inputs of its own; tell whether that could be done, and never try again if not."""
        own = tuple(each.clone() for each in inputs)
        try:
            self._recorded[key] = own, self._recorder.record(self._step, own)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # CUDA's errors among them
            warn_unrecorded(error)
            self._most = 0
        return key in self._recorded

    def _key(self, inputs: tuple[Tensor, ...]) -> Hashable:
        """Return all that a recorded step depends on; None where it must not be recorded."""
        # Some may have been restored meanwhile, or accelerated anew.
        layers = [module for module in self._modules if isinstance(module, LAYERS)]
        if any(
            layer.watch is not None or layer.memory is not None or isinstance(layer.grid, EntryMatrix)
            for layer in layers
        ):
            return None
        kinds = tuple((each.shape, each.dtype, each.stride(), each.device, result_type(each)) for each in inputs)
        # The class says what a module is now, and so whose the grids and numbers are.
        modes = tuple((type(module), module.training) for module in self._modules)
        kept = tuple(
            (module.top_k, module.unified, module.sparse_bias)
            for module in self._modules
            if isinstance(module, MePropLinear)
        )
        trained = tuple(parameter.requires_grad for parameter in self._parameters)
        return tuple(layer.grid for layer in layers), modes, kept, trained, kinds, self._constants()


def warn_unrecorded(error: RuntimeError) -> None:
    """Say why a step is not replayed."""
    first = str(error).partition("\n")[0]
    warnings.warn(
        f"the step cannot be recorded as a CUDA graph and runs as it is written: {first}", StanWarning, stacklevel=4
    )


class OnCuda:
    """Records CUDA graphs, which share their memory: none is replayed while another one runs, or its result needed."""

    def __init__(self, lane: Lane | None = None) -> None:
        """Record in a training's lane; in one of its own where there is none."""
        self._lane = lane or Lane(torch.cuda.current_device())

    def run(self, step: Step, inputs: tuple[Tensor, ...]) -> Tensor:
        """Do a step now; on the stream that records, as parts of the autograd graph remember theirs."""
        with self._lane.between(), replayed():
            return step(*inputs)

    def record(self, step: Step, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        """Record a step without doing it; return what replays it."""
        graph, result = self._lane.recorded(lambda: step(*inputs).detach())

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
