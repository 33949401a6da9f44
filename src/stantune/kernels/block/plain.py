"""The operation in PyTorch's own: what native code is held against, and does not do."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.block.follow import Follow
from stantune.kernels.block.lists import Lists


def plainly(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    lists: Lists | None,
    follow: Follow,
) -> Tensor:
    """Do as `convolve` in operations of PyTorch, differentiable as often as those; -1 as a source gives any value.

    Arguments and result are those of `convolve`.
    """
    left, right, top, bottom = padding
    if (left, top) != (right, bottom):
        input, left, top = F.pad(input, padding), 0, 0
    output = F.conv2d(input, weight, bias, stride, (top, left))
    if lists is not None:
        output = _filled(output, lists)
    if follow.relu:
        output = output.relu()
    return pooled(output, follow)


def pooled(output: Tensor, follow: Follow) -> Tensor:
    """Return the pooling of a convolution's output, (B, C, H, W), that `follow` asks for."""
    if follow.pool == "max":
        return F.max_pool2d(output, follow.size, follow.stride, ceil_mode=follow.ceil)
    if follow.pool == "average":
        return F.avg_pool2d(output, follow.size, follow.stride, ceil_mode=follow.ceil)
    return output


def _filled(output: Tensor, lists: Lists) -> Tensor:
    """Return the listed entries of an output (B, C, H, W) at all places that they fill."""
    places = lists.sources.clamp(min=0).view(-1, output.shape[2] * output.shape[3])
    if lists.begins is not None:
        places = places + lists.begins[:-1, None]
    if not len(lists.positions):
        return output
    # Of each place the one that fills it, in its own image: (B or 1, H * W).
    sources = lists.positions[places.clamp(max=len(lists.positions) - 1)].long().to(output.device)
    index = sources.unsqueeze(1).expand(len(output), output.shape[1], -1)
    return output.flatten(2).gather(2, index).view_as(output)


def listed(lists: Lists, output: Tensor) -> Tensor:
    """Return which places of an output (B, C, H, W) are filled by an entry, bool (B or 1, 1, H, W)."""
    return (lists.sources >= 0).view(-1, 1, *output.shape[2:]).to(output.device)
