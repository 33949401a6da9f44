"""Entry lists as the Triton kernels go through them: computed entries, what each one fills, what each pixel gets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Pixels are sorted by the taps that reach them, one bit each; further taps than a whole number has bits do not count.
BITS = 62


class Window(NamedTuple):
    """Where a convolution's kernel meets its input; pairs are of rows and columns.

    Attributes:
        size: of the input.
        out: of the output.
        kernel: taps of the weight.
        stride: as in F.conv2d.
        corner: zeros above and left of the input.
        dilation: as in F.conv2d.
    """

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    corner: tuple[int, int]
    dilation: tuple[int, int]


class Rows(NamedTuple):
    """The computed entries of a run of images as rows of a matrix; all tensors are int32 on the kernels' device.

    Attributes:
        images: how many images it speaks of. A batch consists of whole runs that are alike: runs of one image where all
            images share their entries, or else one of all images.
        positions: (n,), image * H_out * W_out + row * W_out + column of each computed entry, ascending.
        begins: (n + 1,), where in `copies` the places begin that an entry fills.
        copies: (images * H_out * W_out,), places as in `positions`, those of each entry together.
        numbers: (images * H_out * W_out,), the number of the entry that is computed at a place, -1 where none is.
        pixels: (images * H * W,), all places of the input, those together that the same taps reach from a computed
            entry.
    """

    images: int
    positions: Tensor
    begins: Tensor
    copies: Tensor
    numbers: Tensor
    pixels: Tensor


def rows_of(positions: Tensor, sources: Tensor, images: int, window: Window) -> Rows:
    """Make the lists of `Rows`.

    Args:
        positions: of the computed entries, whole numbers, (n,), n at least 1; see `Rows`.
        sources: which of them fills each place, (images * H_out * W_out,), each at least one.
        images: of a run.
        window: the convolution.
    """
    number = len(positions)
    begins = torch.zeros(number + 1, dtype=torch.int32, device=positions.device)
    begins[1:] = torch.bincount(sources, minlength=number).cumsum(0)
    numbers = torch.full_like(sources, -1, dtype=torch.int32)
    numbers[positions.long()] = torch.arange(number, dtype=torch.int32, device=positions.device)
    reach = _reach((numbers >= 0).view(images, *window.out), window)
    return Rows(
        images,
        positions.int(),
        begins,
        sources.argsort(stable=True).int(),
        numbers,
        reach.flatten().argsort(stable=True).int(),
    )


def _reach(computed: Tensor, window: Window) -> Tensor:
    """Return which taps reach each pixel from a computed entry, as bits of a whole number, (images, H, W)."""
    (height, width), (out_h, out_w), (top, left) = window.size, window.out, window.corner
    (stride_h, stride_w), (down, across) = window.stride, window.dilation
    kernel_h, kernel_w = window.kernel
    # As large as all that the kernel meets, which may be less or more than the padded input.
    met = (out_h - 1) * stride_h + (kernel_h - 1) * down + 1, (out_w - 1) * stride_w + (kernel_w - 1) * across + 1
    shape = len(computed), max(met[0], top + height), max(met[1], left + width)
    reach = torch.zeros(shape, dtype=torch.int64, device=computed.device)
    for tap in range(min(kernel_h * kernel_w, BITS)):
        y, x = tap // kernel_w * down, tap % kernel_w * across
        rows = slice(y, y + (out_h - 1) * stride_h + 1, stride_h)
        columns = slice(x, x + (out_w - 1) * stride_w + 1, stride_w)
        reach[:, rows, columns] += computed.long() << tap
    return reach[:, top : top + height, left : left + width]
