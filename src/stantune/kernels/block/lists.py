"""Which entries of a convolution are computed, and which of them fills each place."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Lists(NamedTuple):
    """Which entries are computed, and which of them fills each place of the output.

    Attributes:
        positions: row * W_out + column of each computed entry, int32: (n,) where all images share them, otherwise those
            of one image after the other's.
        sources: which of its image's computed entries fills each place, int32: (H_out * W_out,), or (B, H_out * W_out);
            -1 for a place that `convolve_into` leaves as it is.
        begins: where each image's entries begin in `positions`, int32 (B + 1,); None where all images share them.
        most: the largest number of entries that an image has.
        grid: where the entries form a grid: rows and columns from one to the next, and the first one's.
    """

    positions: Tensor
    sources: Tensor
    begins: Tensor | None
    most: int
    grid: tuple[int, int, int, int] | None = None
