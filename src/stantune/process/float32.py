"""In what numbers PyTorch multiplies float32 ones; it keeps that by old names and, since 2.9, by new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@contextmanager
def kept_float32() -> Iterator[None]:
    """Have float32 numbers be multiplied in the end as they are at first, whatever is set meanwhile."""
    before, old = _new_names(), _old_names()
    try:
        yield
    finally:
        if (matrices := old[0]) not in (None, _old_names()[0]):
            torch.set_float32_matmul_precision(matrices)
        if (convolutions := old[1]) not in (None, _old_names()[1]):
            torch.backends.cudnn.allow_tf32 = convolutions
        # What had its numbers from a place above has them from there again, and is not written.
        for place, numbers in before:
            if place.fp32_precision != numbers:
                place.fp32_precision = numbers


def allow_tf32(allowed: bool) -> None:
    """Have a CUDA device multiply float32 numbers in TF32, or not."""
    # Both names: PyTorch refuses to tell by the old ones, as torch.compile asks, what was set by the new ones alone.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        # By the old name they are not forbidden it, but left to what is set for all of them.
        for place in (cudnn.conv, cudnn.rnn):
            place.fp32_precision = "tf32" if allowed else "ieee"


def _new_names() -> list[tuple[Any, str]]:
    """Return places and their numbers, those first that others have theirs from; nothing before PyTorch 2.9."""
    every: Any = torch.backends
    cudnn, of_cpu = every.cudnn, every.mkldnn
    if not hasattr(cudnn, "conv"):
        return []
    of_all = every, cudnn, of_cpu
    places = *of_all, every.cuda.matmul, cudnn.conv, cudnn.rnn, of_cpu.matmul, of_cpu.conv, of_cpu.rnn
    return [(place, place.fp32_precision) for place in places]


def _old_names() -> tuple[str | None, bool | None]:
    """Return the numbers of matrices, and whether convolutions may be in TF32; None for what cannot be told."""

    def told(ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except RuntimeError:  # it was set by the new names alone
            return None

    return told(torch.get_float32_matmul_precision), told(lambda: torch.backends.cudnn.allow_tf32)
