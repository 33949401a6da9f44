"""What the callbacks share: what they take from a batch, and putting STAN into a model at its first training batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stantune.errors import UsageError, words_of
from stantune.stan.config import Stan
from stantune.stan.handle import StanHandle
from stantune.stan.planning.example import Example, tensors_in, to_device
from stantune.stan.surgery import accelerate_, restore_

# A batch is whatever the user's data loader makes.
FromBatch = Callable[[Any], Tensor]
# What of it the model is called with, see `stan.example.called`.
Inputs = Callable[[Any], Example]


def first_of(batch: Any) -> Tensor:
    """Return the inputs, (B, C, H, W), of a batch that is a tuple or list which begins with them.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        return batch[0]
    raise UsageError(
        f"the batch, a {type(batch).__name__}, does not begin with a tensor; give the callback inputs=, a function "
        'from a batch to the model\'s input, such as inputs=lambda batch: batch["image"]'
    )


def require_ids(stan: Stan, ids: FromBatch | None) -> None:
    """Raise UsageError where the memo fill is asked for and nothing tells the samples apart."""
    if stan.memo is not None and ids is None:
        raise UsageError(
            "Stan(memo=...) remembers outputs sample by sample; give the callback ids=, a function from a batch to "
            "the ids of its samples, such as ids=lambda batch: batch[2]"
        )


def accelerate_at(
    model: nn.Module,
    stan: Stan,
    batch: Any,
    inputs: Inputs,
    state: Mapping[str, Any],
    iteration: int,
    processes: int = 1,
) -> StanHandle:
    """Put STAN into a model that is about to train on `batch`.

    Args:
        model: changed in place.
        stan: the settings; for rate="auto" and the memo fill the batch's inputs are the example that they need.
        batch: the first batch to train on.
        inputs: gives what the model is called with, of the batch.
        state: of `state_of`, to go on there and with what was planned there; empty for a training that begins.
        iteration: where to go on if that is not where `state` is.
        processes: how many train this model together, each with a part of the data, and all call this now; of those of
            torch.distributed the first one plans for all, since each by itself would find another plan.

    Returns:
        The handle.

    Raises:
        UsageError: as accelerate_ does, or the state is of other settings; the model is as it was.
    """
    # By what is the same in all: of one alone the state may be another, and the others would wait for ever.
    together = stan.rate == "auto" and stan.plan is None and processes > 1 and _are_all(processes)
    saved = state.get("planned")
    if together and torch.distributed.get_rank():
        stan, together, saved = stan.with_plan(_planned_by_the_first()), False, None

    def accelerated() -> StanHandle:
        # Here, since the others wait until they are told: also of a plan that was saved and cannot be.
        settings = stan.with_plan(saved) if stan.rate == "auto" and saved is not None else stan
        example = None
        if settings.rate == "auto" or settings.memo is not None:
            example = inputs(batch)
            first = next(model.parameters(), None)
            if first is not None:
                example = to_device(example, first.device)
        return accelerate_(model, settings, example)

    handle = _telling_the_others(accelerated) if together else accelerated()
    if state.get("iteration") != iteration:
        handle.seek(iteration)
        return handle
    try:
        handle.load_state_dict(state)
    except UsageError:
        restore_(model)
        raise
    return handle


def _are_all(processes: int) -> bool:
    """Tell whether torch.distributed knows these processes, and no others."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() == processes


def _telling_the_others(accelerated: Callable[[], StanHandle]) -> StanHandle:
    """Return this process's handle, and tell the others, which wait, what was planned for it; a failure, too."""
    try:
        handle = accelerated()
    except Exception as error:
        torch.distributed.broadcast_object_list([words_of(error)], src=0)
        raise
    torch.distributed.broadcast_object_list([handle.stan.planned], src=0)
    return handle


def _planned_by_the_first() -> Mapping[str, Any]:
    """Return what the first process has planned, as `Stan.planned`; raises UsageError where it could not."""
    told: list[Any] = [None]
    torch.distributed.broadcast_object_list(told, src=0)
    planned = told[0]
    if isinstance(planned, Mapping):
        return planned
    raise UsageError(f'rate="auto" is planned by the first process for all, and that could not: {planned}')


def state_of(handle: StanHandle) -> dict[str, Any]:
    """Return the handle's state and what was planned, since timings would not give the same plan again.

    Numbers, words and tensors alone, so that torch.load(weights_only=True) reads it.
    """
    state = handle.state_dict()
    planned = handle.stan.planned
    if planned is not None:
        state["planned"] = planned
    return state


def visit(handle: StanHandle, batch: Any, ids: FromBatch | None, inputs: Inputs) -> None:
    """Tell the memo fill of which samples `batch` is; `inputs` lets it refuse samples that augmentation changes."""
    if handle.stan.memo is not None and ids is not None:
        handle.visit(ids(batch), next(tensors_in(inputs(batch)), None))
