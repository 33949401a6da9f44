"""untouched: whatever a model's passes change, in the model, its example and the random generators, is put back."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stantune.stan.eligible import has_no_weights_yet


@contextmanager
def untouched(model: nn.Module, example: object = None) -> Iterator[None]:
    """Put back what passes of a model change, bit for bit, whatever happens inside.

    Of each module: parameters, gradients, buffers, mode, and all that its attributes hold in tensors, generators and
    Python's own containers (a counter, a flag, a bank of outputs); what it did not have before is gone. Of the example:
    its tensors, which a model may change in place. Of this process: the random states of PyTorch, Python and NumPy.
    What other objects hold, that modules only know, is theirs.

    Args:
        model: any module.
        example: what it is called with, in tensors and containers of them.
    """
    seen: set[int] = set()
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    # Last in, first out: containers get their tensors back before tensors get their values.
    with torch.random.fork_rng(devices), ExitStack() as back:
        for put_back in _random_states():
            back.callback(put_back)
        # What a module becomes by its first input it is to remain.
        held = [module.__dict__ for module in model.modules() if not has_no_weights_yet(module)]
        parts = (value for attributes in held for name, value in attributes.items() if not _is_foreign(name))
        for value in (example, *model.parameters(), *model.buffers(), *parts):
            _keep(value, back, seen)
        for parameter in model.parameters():
            back.callback(_set_gradient, parameter, parameter.grad)
            _keep(parameter.grad, back, seen)
        for attributes in held:
            back.callback(_fill, attributes, dict(attributes))
        yield


def _is_foreign(name: str) -> bool:
    """Tell whether an attribute holds hooks, which are their owners', or modules, whose own turn comes."""
    return name == "_modules" or (name.startswith("_") and "hooks" in name)


def _keep(value: object, back: ExitStack, seen: set[int]) -> None:
    """Have the content of a tensor, a generator or a container put back, and what is in that."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if _is_written(value):
                back.callback(_copy, value, value.detach().clone())
        elif isinstance(value, torch.Generator):
            back.callback(value.set_state, value.get_state())
        elif isinstance(value, dict):
            back.callback(_fill, value, dict(value))
            waiting += value.values()
        elif isinstance(value, list | deque):
            back.callback(_refill, value, list(value))
            waiting += value
        elif isinstance(value, set):
            back.callback(_reset, value, set(value))
        elif isinstance(value, tuple):
            waiting += value


def _is_written(tensor: Tensor) -> bool:
    """Tell whether a tensor has values of its own that a pass could write to: not so where several of them are one."""
    # A lazy one, which has no values yet, refuses all other questions.
    if is_lazy(tensor) or tensor.is_inference() or tensor.is_meta or tensor.layout is not torch.strided:
        return False
    plain = type(tensor) in (Tensor, nn.Parameter)
    return not plain or all(stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)


def _copy(tensor: Tensor, value: Tensor) -> None:
    # What was not written to is not written to here, so that graphs made of it before can still be differentiated.
    if type(tensor) not in (Tensor, nn.Parameter) or not torch.equal(tensor, value):
        with torch.no_grad():
            tensor.copy_(value)


def _set_gradient(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    parameter.grad = gradient


def _fill(held: dict[Any, Any], before: Mapping[Any, Any]) -> None:
    """Give a dictionary what it held before; at no moment does it lack what it keeps, for another thread may look."""
    for key in [key for key in held if key not in before]:
        del held[key]
    for key, value in before.items():
        if key not in held or held[key] is not value:
            held[key] = value


def _refill(held: list[object] | deque[object], before: list[object]) -> None:
    if len(held) != len(before) or any(one is not other for one, other in zip(held, before, strict=True)):
        held.clear()
        held.extend(before)


def _reset(held: set[object], before: set[object]) -> None:
    if held != before:
        held.clear()
        held.update(before)


def _random_states() -> Iterator[Callable[[], object]]:
    """Yield what puts back the random states of Python and, where it is there, of NumPy."""
    state = random.getstate()
    yield lambda: random.setstate(state)
    if (numpy := sys.modules.get("numpy")) is not None:
        numbers = numpy.random.get_state()
        yield lambda: numpy.random.set_state(numbers)
