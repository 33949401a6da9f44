"""A training step: forward pass, loss, backward pass, update; replayed from CUDA graphs where that may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from stantune.kernels.cuda.lanes import Lane
from stantune.kernels.sgd import Sgd
from stantune.stan.graphs import GraphedStep, OnCuda
from stantune.training.trainable import Criterion

Step = Callable[[Tensor, Tensor], Tensor]
"""(inputs, targets) -> the loss."""
Casting = Callable[[], AbstractContextManager[object]]
"""Makes a context in which forward passes and losses are computed."""


def plain_step(
    model: Callable[[Tensor], Any],
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    casting: Casting = nullcontext,
) -> Step:
    """Return what does a step as it is written."""

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        with casting():
            loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step


def recorded_step(
    model: nn.Module, criterion: Criterion, optimizer: torch.optim.Optimizer, casting: Casting, lane: Lane
) -> Step:
    """Return what records steps on a CUDA device as graphs, and replays them."""
    if isinstance(optimizer, Sgd):
        optimizer.follow()
    with torch.cuda.device(lane.device):
        step = plain_step(model, criterion, optimizer, casting)
        return GraphedStep(model, step, lambda: numbers_of(optimizer), OnCuda(lane))


def can_be_recorded(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether a graph of the optimizer's step does all that the step does."""
    if isinstance(optimizer, Sgd):
        return not any(group["nesterov"] or group["dampening"] or group["maximize"] for group in optimizer.param_groups)
    return all(group.get("capturable", False) for group in optimizer.param_groups)


def load_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Have an optimizer go on from a state, of another kind of device as well: what a graph needs is its own."""
    # Changed before it is loaded: PyTorch puts counts of steps where these say.
    groups = [
        {**saved, "capturable": own["capturable"]} if "capturable" in own else saved
        for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def numbers_of(optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """Return what a step depends on besides tensors: the groups' settings, hashable.

    Of rates and momenta that it reads from tensors (`Sgd.follow`) only what decides by which operations.
    """
    left_out, kind = {"params"}, []
    if isinstance(optimizer, Sgd) and optimizer.follows:
        left_out |= {"lr", "momentum"}
        kind = [Sgd.kind_of_step([(group["lr"], group["momentum"]) for group in optimizer.param_groups])]
    settings = [
        tuple((name, group[name]) for name in sorted(group.keys() - left_out)) for group in optimizer.param_groups
    ]
    return *kind, *settings
