"""Backward passes in plain PyTorch, for what native ones must not read, and for derivatives of derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stantune.kernels.gate import ordinary

Gradients = tuple[Tensor | None, ...]


def gradients_of(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], wanted: Sequence[bool], gradient: Tensor
) -> Gradients:
    """Return a function's gradients by PyTorch's autograd, differentiable in turn where grad mode is on.

    To be called in a backward pass: grad mode is on there where the user asked for `create_graph`.

    Args:
        function: of the inputs, in operations of PyTorch.
        inputs: as the backward pass unpacked them, so that what depends on them is known to autograd.
        wanted: which gradients to return; None is returned for the others.
        gradient: of the function's output.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        # Others of the same values: an input may itself be made of another one, and that path is not this function's.
        own = [
            None
            if each is None
            else each.view_as(each)
            if further and each.requires_grad
            else each.detach().requires_grad_(want)
            for each, want in zip(inputs, wanted, strict=True)
        ]
        targets = [each for each, want in zip(own, wanted, strict=True) if each is not None and want]
        found = iter(torch.autograd.grad(function(*own), targets, gradient, create_graph=further))
    return tuple(next(found) if each is not None and want else None for each, want in zip(own, wanted, strict=True))


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Have a backward pass refuse to be differentiated, whatever it was given.

    PyTorch's `once_differentiable` refuses only where the output's gradient has a graph: under the last layer it has
    none, and derivatives would lack what depends on the weights without a word.
    """

    as_pytorch_does = once_differentiable(backward)

    @wraps(backward)
    def once(ctx: Any, *gradients: Tensor) -> Any:
        if torch.compiler.is_compiling() or not ordinary():
            # There is no making of leaves within a program that is compiled, or a transform.
            return as_pytorch_does(ctx, *gradients)
        further = torch.is_grad_enabled()
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not further:
            return found
        if isinstance(found, tuple):
            return tuple(_refused(each) for each in found)
        return _refused(found)

    return once


def _refused(gradient: Tensor | None) -> Tensor | None:
    """Return a gradient that raises where it is differentiated."""
    if gradient is None:
        return None
    # The first words are PyTorch's own.
    refuse = torch._C._functions.DelayedError(
        b"trying to differentiate twice a function that was marked with @once_differentiable: this backward pass of "
        b"STAN's is an approximation or a program of its own; train exactly where create_graph is needed",
        1,
    )
    result: Tensor = refuse(gradient.detach().requires_grad_())
    return result
