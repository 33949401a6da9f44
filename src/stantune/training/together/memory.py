"""What memory a training keeps: told before several are begun in one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.training.together.randomness import seeded
from stantune.training.trainable import Splits, Trainable
from stantune.training.trial import Trial, cuda_index


def bytes_kept(
    problem: Trainable,
    setting: Mapping[str, Any],
    splits: Splits,
    *,
    stan: Stan | None = None,
    device: str = "cpu",
    precision: str | None = None,
) -> int:
    """Return how many bytes a training keeps from step to step, and in a step for its backward pass.

    Weights, gradients, the optimizer's numbers, a batch, what layers remember, STAN's memory: counted in a training of
    one iteration. Not the data, nor what single operations take for a moment.
    """
    saved: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        saved.update(_sizes([tensor]))
        return tensor

    with seeded(derive("memory"), cuda_index(device)):
        trial = Trial(problem, setting, splits, seed=0, stan=stan, device=device, precision=precision)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            trial.train(1, lambda: False, lambda iteration: None)
    weights = _sizes([*trial.model.parameters(), *trial.model.buffers()])
    # Which lie where something was that the step had saved, and freed.
    made_of_them = _sizes(_beside(trial.model, trial.optimizer))
    step = {where: size for where, size in saved.items() if where not in weights}
    memory = 0 if trial.handle is None else trial.handle.memory_bytes
    return sum(map(sum, (weights.values(), made_of_them.values(), step.values()))) + memory


def _sizes(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Return the bytes of each piece of memory that these are in, by its address."""
    pieces = [tensor.untyped_storage() for tensor in tensors]
    return {piece.data_ptr(): piece.nbytes() for piece in pieces}


def _beside(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield gradients, and what the optimizer keeps of each weight."""
    yield from (weight.grad for weight in model.parameters() if weight.grad is not None)
    for kept in optimizer.state.values():
        yield from (value for value in kept.values() if isinstance(value, Tensor))
