"""What is done to a convolution's output: ReLU and a pooling."""

from __future__ import annotations

from typing import NamedTuple

POOLS = ("none", "max", "average")


class Follow(NamedTuple):
    """What is done to a convolution's filled output.

    Attributes:
        pool: of POOLS; windows are counted from the top left corner, without padding.
        size: of its windows, rows and columns.
        stride: between windows, rows and columns.
        ceil: whether a last window that reaches beyond the border counts.
        relu: ReLU, before or after the pooling.
    """

    pool: str = "none"
    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    ceil: bool = False
    relu: bool = False

    def pooled(self, height: int, width: int) -> tuple[int, int]:
        """Return the output's rows and columns, for a convolution's output of `height` x `width`."""
        if self.pool == "none":
            return height, width
        return tuple(  # type: ignore[return-value]  # of two
            windows(length, size, stride, 0, self.ceil)
            for length, size, stride in zip((height, width), self.size, self.stride, strict=True)
        )


def windows(length: int, size: int, stride: int, padding: int, ceil: bool) -> int:
    """Return how many windows a pooling has on a side of a length, as PyTorch counts them."""
    over = length + 2 * padding - size
    if not ceil:
        return over // stride + 1
    number = -(-over // stride) + 1
    # The last window must begin inside of the image, or before it.
    return number if (number - 1) * stride < length + padding else number - 1
