"""Settings of stantune's own processes that make training on a CPU fast: threads, allocator, denormals."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch

from stantune.arguments import digits
from stantune.errors import UsageError

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def tune_process(threads: int | None) -> int:
    """Prepare this process for training; call it once, before any tensor work.

    - `threads` for PyTorch, its own choice where None.
    - Large buffers stay in the heap (glibc): by default each is mapped and unmapped again in every iteration, and the
      kernel zeroes its pages each time.
    - Denormal numbers count as zero: strong weight decay makes millions of them, each a hundred times slower.

    Returns:
        The number of threads.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    mallopt = _mallopt()
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    torch.set_flush_denormal(True)
    return torch.get_num_threads()


def keeps_buffers() -> bool:
    """Tell whether `tune_process` can keep large buffers in the heap: the C library is glibc."""
    return _mallopt() is not None


def _mallopt() -> Any:
    """Return the C library's mallopt, None where it has none."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None


def device_named(text: str) -> str:
    """Return the device to train on, "cpu", "cuda" or "cuda:N"; "auto" is cuda where there is one.

    Raises UsageError where there is none such.
    """
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = text.partition(":")
    if kind == "cpu" and not index:
        return text
    number = digits(index or "0")
    if kind != "cuda" or number is None:
        raise UsageError(f"`device`={text} is no device; give auto, cpu, cuda or cuda:N")
    if number >= torch.cuda.device_count():
        raise UsageError(
            f"`device`={text}: PyTorch sees {torch.cuda.device_count()} CUDA devices here; give auto or cpu"
        )
    return text
