"""In what numbers PyTorch multiplies float32 ones; it keeps that by old names and, since 2.9, by new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")


# What they are where nobody has set anything, by names of ours; before and since PyTorch 2.9. Once
# `cuda.matmul.allow_tf32` or `set_float32_matmul_precision` has been set back to what it was, matrices are said to be
# in "ieee" numbers, which they were in before, too; so are all that a CPU multiplies.
FLOAT32: dict[str, tuple[Any, ...]] = {
    "float32-matmul": ("highest",),
    "cudnn-allow-tf32": (True,),
    "fp32": ("none",),
    "cudnn-fp32": ("none",),
    "mkldnn-fp32": ("none", "ieee"),
    "cuda-matmul-fp32": ("none", "ieee"),
    "cudnn-conv-fp32": ("none", "tf32"),
    "cudnn-rnn-fp32": ("none", "tf32"),
    "mkldnn-matmul-fp32": ("none", "ieee"),
    "mkldnn-conv-fp32": ("none", "ieee"),
    "mkldnn-rnn-fp32": ("none", "ieee"),
}

# What `allow_tf32` decides.
ALLOWED = ("float32-matmul", "cudnn-allow-tf32", "cuda-matmul-fp32", "cudnn-conv-fp32", "cudnn-rnn-fp32")


@contextmanager
def kept_float32() -> Iterator[None]:
    """Have float32 numbers be multiplied in the end as they are at first, whatever is set meanwhile."""
    before = float32_numbers()
    try:
        yield
    finally:
        put_float32(before)


def float32_numbers() -> dict[str, Any]:
    """Return in what numbers float32 ones are multiplied, by the names of FLOAT32; None for what cannot be told."""
    return {**_old_names(), **{name: place.fp32_precision for name, place in _new_names().items()}}


def put_float32(numbers: Mapping[str, Any]) -> None:
    """Have float32 numbers be multiplied as `float32_numbers` has told; what it did not tell stays as it is."""
    told = _old_names()
    if (matrices := numbers.get("float32-matmul")) not in (None, told["float32-matmul"]):
        torch.set_float32_matmul_precision(matrices)
    if (convolutions := numbers.get("cudnn-allow-tf32")) not in (None, told["cudnn-allow-tf32"]):
        torch.backends.cudnn.allow_tf32 = convolutions
    # What had its numbers from a place above has them from there again, and is not written.
    for name, place in _new_names().items():
        if name in numbers and place.fp32_precision != numbers[name]:
            place.fp32_precision = numbers[name]


def allow_tf32(allowed: bool) -> None:
    """Have a CUDA device multiply float32 numbers in TF32, or not."""
    # Both names: PyTorch refuses to tell by the old ones, as torch.compile asks, what was set by the new ones alone.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        # By the old name they are not forbidden it, but left to what is set for all of them.
        for place in (cudnn.conv, cudnn.rnn):
            place.fp32_precision = "tf32" if allowed else "ieee"


def _new_names() -> dict[str, Any]:
    """Return places that have such numbers, those first that others have theirs from; nothing before PyTorch 2.9."""
    every: Any = torch.backends
    cudnn, of_cpu = every.cudnn, every.mkldnn
    if not hasattr(cudnn, "conv"):
        return {}
    return {
        "fp32": every,
        "cudnn-fp32": cudnn,
        "mkldnn-fp32": of_cpu,
        "cuda-matmul-fp32": every.cuda.matmul,
        "cudnn-conv-fp32": cudnn.conv,
        "cudnn-rnn-fp32": cudnn.rnn,
        "mkldnn-matmul-fp32": of_cpu.matmul,
        "mkldnn-conv-fp32": of_cpu.conv,
        "mkldnn-rnn-fp32": of_cpu.rnn,
    }


def _old_names() -> dict[str, Any]:
    """Return the numbers of matrices, and whether convolutions may be in TF32; None for what cannot be told."""

    def told(ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except RuntimeError:  # it was set by the new names alone
            return None

    return {
        "float32-matmul": told(torch.get_float32_matmul_precision),
        "cudnn-allow-tf32": told(lambda: torch.backends.cudnn.allow_tf32),
    }
