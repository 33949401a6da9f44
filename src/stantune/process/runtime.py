"""Settings of stantune's own processes that make training on a CPU fast: threads, allocator, denormals."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stantune.arguments import digits
from stantune.errors import UsageError
from stantune.process.forked import forked

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
    flush_denormals(True)
    return torch.get_num_threads()


@contextmanager
def kept_process() -> Iterator[None]:
    """Leave the number of threads and how denormals count as they were: `tune_process` is for those inside alone."""
    threads, flushes = torch.get_num_threads(), flushes_denormals()
    try:
        yield
    finally:
        if (torch.get_num_threads(), flushes_denormals()) != (threads, flushes):
            # Those that have computed inside, and those that were there before.
            for count in (torch.get_num_threads(), threads):
                torch.set_num_threads(count)
                flush_denormals(flushes)


def flushes_denormals() -> bool:
    """Tell whether denormal numbers count as zero in this thread, which PyTorch can set and not tell."""
    smallest = torch.full((1,), torch.finfo(torch.float32).tiny, dtype=torch.float32, device="cpu")
    return not bool((smallest / 2).item())


def flush_denormals(flush: bool) -> None:
    """Have denormal numbers count as zero or not, in this thread and in those that PyTorch computes with beside it.

    Each thread has that from the one that began it: PyTorch's setting would not reach those that have computed before.
    In a forked process it is this thread's alone, and that of those that begin later. Native passes need none of it:
    all threads of one compute as the calling thread does.
    """
    torch.set_flush_denormal(flush)
    threads, parallel = torch.get_num_threads(), None if forked() else _openmp()
    if threads > 1 and parallel is not None:
        # It returns nothing, and ctypes heeds nothing that it does.
        each = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: torch.set_flush_denormal(flush))
        parallel(each, None, ctypes.c_uint(threads), ctypes.c_uint(0))


def _openmp() -> Any:
    """Return what has all of PyTorch's threads call a function (GNU's OpenMP, on Linux), None where there is none."""
    if sys.platform != "linux":
        return None
    # Its calls go to what the whole process has, such as what is preloaded, before what PyTorch was linked with.
    scopes = (ctypes.CDLL(scope) for scope in (None, torch._C.__file__))
    return next((scope.GOMP_parallel for scope in scopes if hasattr(scope, "GOMP_parallel")), None)


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
