"""The order in which a tensor's numbers lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

LAST = torch.channels_last


def empty(shape: tuple[int, ...], last: bool) -> Tensor:
    """Return new memory of a shape (B, C, H, W), float32 on the CPU, channels last or contiguous."""
    # In full: the default dtype and device are the user's.
    order = LAST if last else torch.contiguous_format
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=order)


def in_order(tensor: Tensor) -> Tensor:
    """Return a tensor (B, C, H, W) in one of the two orders that native code reads."""
    return tensor if tensor.is_contiguous() else tensor.contiguous(memory_format=LAST)


def in_planes(tensor: Tensor) -> bool:
    """Tell whether a tensor (B, C, H, W) in one of the two orders has channels apart: several, and several places."""
    return not tensor.is_contiguous(memory_format=LAST)


def is_last(tensor: Tensor) -> bool:
    """Tell whether PyTorch takes a tensor (B, C, H, W) for channels last: c10's `suggest_memory_format`, by strides."""
    sizes, strides = tensor.shape, tensor.stride()
    least = 0
    if strides[1] == 0:
        return False
    for side in (1, 3, 2, 0):
        stride = strides[side]
        if stride < least or (side == 0 and least == strides[1]):  # the latter are sides of 1, and ambiguous
            return False
        least = stride * sizes[side] if sizes[side] > 1 else stride
    return True
