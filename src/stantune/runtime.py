"""Settings of stantune's own processes that make training on a CPU fast: threads, allocator, denormals."""

from __future__ import annotations

import ctypes
import sys

import torch

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
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    torch.set_flush_denormal(True)
    return torch.get_num_threads()
