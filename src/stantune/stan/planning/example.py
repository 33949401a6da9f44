"""An example batch as the model takes it, a tensor, several arguments or named ones, and an iteration on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.stan.eligible import has_no_weights_yet

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
# The training's loss of what the model returns.
Loss = Callable[[Any], Tensor]

HOW = "a tensor, a tuple of the arguments that the model is called with in training, or a dictionary of them by name"


def called(model: nn.Module, example: Example) -> Any:
    """Return what the model makes of the example."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in what a model takes or returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name, None))


def to_device(value: Any, device: torch.device) -> Any:
    """Return the same with all its tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(part, device) for key, part in value.items()}
    if isinstance(value, list):
        return [to_device(part, device) for part in value]
    if isinstance(value, tuple):
        parts = [to_device(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def device_of(example: Example) -> torch.device:
    """Return where the first of its tensors is; raises UsageError where it holds no sample."""
    for tensor in tensors_in(example):
        if tensor.dim() and len(tensor):
            return tensor.device
    raise UsageError("the example holds no sample, and nothing can be timed on it; give a batch as in training")


def require_weights(model: nn.Module) -> None:
    """Raise UsageError where a layer's weights wait for its first input."""
    for name, module in model.named_modules():
        if has_no_weights_yet(module):
            raise UsageError(
                f"layer {name!r}, a {type(module).__name__}, has no weights before its first input; call the model "
                "once on a batch, then accelerate_ it"
            )


# What exchanges values with all other processes in a forward pass, by the names of its classes.
_EXCHANGE = {"SyncBatchNorm", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


def require_alone(model: nn.Module) -> None:
    """Raise UsageError where passes wait for other processes, each of which would time as many as its clock allows."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized() and group.get_world_size() > 1):
        return
    for name, module in model.named_modules():
        if any(kind.__name__ in _EXCHANGE for kind in type(module).__mro__):
            layer = f"layer {name!r}" if name else "the model"
            raise UsageError(
                f'rate="auto" times passes of the model, and in those {layer}, a {type(module).__name__}, waits for '
                "other processes, which time other numbers of passes; accelerate_ the model before it becomes one, or "
                "plan in one process and give all of them its handle.plan.stan"
            )


def differentiate(model: nn.Module, example: Example, loss: Loss | None) -> bool:
    """Perform the forward and backward pass of an iteration; gradients go nowhere.

    Returns:
        Whether there was anything to differentiate, of a model that has parameters to train.

    Raises:
        UsageError: the model, the loss or the backward pass fails on the example.
    """
    try:
        output = called(model, example)
    except Exception as error:
        raise refused(model, example, error) from error
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses = _losses(output, loss)
    if losses and parameters:
        try:
            torch.autograd.grad(losses, parameters, allow_unused=True)
        except RuntimeError as error:
            raise _not_differentiated(error) from error
    return bool(losses) or not parameters


def no_backward(loss: Loss | None) -> UsageError:
    """Return what to say of a model of whose output nothing depends on its parameters."""
    return UsageError(
        f"nothing in what {'the model' if loss is None else 'loss='} returned depends on the model's parameters, so no "
        "backward pass can be timed; give the training's own as loss=, a function of what the model returns"
    )


def _losses(output: Any, loss: Loss | None) -> list[Tensor]:
    """Return what is differentiated; nothing where nothing depends on parameters."""
    if loss is None:
        found = [each for each in tensors_in(output) if each.requires_grad]
        return [each.float().square().sum() for each in found]
    try:
        value = loss(output)
    except Exception as error:
        raise UsageError(
            f"loss= failed on the model's output, a {type(output).__name__}: {_told(error)}; give a "
            "function from that to the training's loss"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UsageError(f"loss= returned {what}; give a function from the model's output to one number, a tensor")
    return [value] if value.requires_grad else []


def _not_differentiated(error: RuntimeError) -> UsageError:
    if "use_reentrant" in str(error):
        return UsageError(
            "the model uses reentrant checkpoints, within which STAN trains exactly and nothing can be timed; give "
            'checkpoint use_reentrant=False, or a number as rate instead of "auto"'
        )
    return UsageError(
        f"the backward pass from the model's output failed: {_told(error)}; give the training's own as loss=, a "
        'function of that output, or a number as rate instead of "auto"'
    )


def refused(model: nn.Module, example: Example, error: Exception) -> UsageError:
    """Return what to say of an error that the model raised on the example: in which layer, and what to do."""
    name = _failing(model, error.__traceback__)
    where = f"in layer {name!r}" if name else "in the model's forward"
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(example)) or "none"
    return UsageError(
        f"the model cannot be called on the example (tensors: {shapes}): {_told(error)} {where}; give as example= {HOW}"
    )


def _told(error: Exception) -> str:
    """Return an error's kind and its first line."""
    return f"{type(error).__name__} ({next(iter(str(error).splitlines()), '')})"


def _failing(model: nn.Module, traceback: TracebackType | None) -> str:
    """Return the name of the innermost layer of the model in which an error was raised, "" for the model itself."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    while traceback is not None:
        found = names.get(id(traceback.tb_frame.f_locals.get("self")), found)
        traceback = traceback.tb_next
    return found
