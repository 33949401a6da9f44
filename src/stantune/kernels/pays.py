"""Which convolutions, batch norms and poolings native kernels do faster than PyTorch: a rule of shapes and threads.

A rule, not a timing: what computes a layer decides how its sums are rounded, and one seed is to give one result,
whatever the machine was busy with. Its figures are those of `benchmarks/kernels/shapes.py`: milliseconds of a forward
and a backward pass on one core with AVX-512, fitted to random shapes. Only the ratio of the two sides matters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from stantune.kernels.block.follow import Follow

# Rows of the kernels that minimal filtering is there for.
TAPS = (3, 5)
# Native code is to take less than this share of PyTorch's time: the fit errs by about a tenth.
MARGIN = 0.9
# For fewer entries the weights are all of the work, and PyTorch leaves them in their order.
FEWEST = 32
# Milliseconds for each of a side's `terms`.
FILTERED = (0.108, 0.0219, 3.1, 3.16, 0.829, 0.708)
STOCK = (0.147, 0.0181, 1.64, 0.264, 0.444, 0.338)
# With a pooling behind a convolution native code takes about half of PyTorch's time: it pays up to so many threads for
# each image.
POOLED_THREADS = 2
# What PyTorch takes for a ReLU more than native code, for a million numbers.
RELU = 0.4
# Of a batch norm: the fewest numbers of a channel, and the most channels; with a ReLU behind it, the fewest numbers.
NORM_ROWS, NORM_CHANNELS, NORM_NUMBERS = 4096, 128, 2**16
# With a maximum pooling behind it: the fewest numbers.
POOLED_NORM_NUMBERS = 2**15
# Of a pooling by itself: the fewest numbers of its input, of maxima and of averages, and what its channels divide by.
MAXIMUM_NUMBERS, AVERAGE_NUMBERS, POOL_CHANNELS = 2**18, 2**21, 16


class Work(NamedTuple):
    """The shapes of a convolution of one group.

    Attributes:
        batch: B.
        channels: C_in.
        filters: C_out.
        kernel: its rows and columns.
        stride: of rows and columns.
        input: rows and columns.
        out: rows and columns.
        planes: whether input and weight are contiguous, not channels last.
    """

    batch: int
    channels: int
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    input: tuple[int, int]
    out: tuple[int, int]
    planes: bool


def may_pay(kernel_rows: int, stride: int, follow: Follow) -> bool:
    """Tell whether native code pays for some input, of a kernel of so many rows and a stride from row to row."""
    return follow.pool != "none" or (kernel_rows in TAPS and stride == 1)


def filtered(work: Work) -> bool:
    """Tell whether native code does it by minimal filtering: `Winograd::pays` of native/winograd.hpp."""
    taps, wide = work.kernel
    if taps not in TAPS or work.stride[0] != 1:
        return False
    points, length = taps + 3, wide * work.channels
    rows, columns = work.out
    tiles = -(-rows // 4)
    inputs = 2.0 * points * points * work.input[1] * work.channels / (columns * _whole(work.filters))
    return tiles * (points * (length + 3) + points * 4 + inputs) < rows * (taps * length + 3)


def native_terms(work: Work) -> tuple[float, ...]:
    """Return what native code's time for a filtered convolution is made of.

    One call; millions of products; of weights, and of those that are turned to channels last; of numbers in input and
    output, and of those that are turned.
    """
    rows = -(-work.out[0] // 4) * (work.kernel[0] + 3)
    products = work.batch * work.out[1] * rows * work.kernel[1] * _whole(work.filters) / 1e6
    passes = products * work.channels
    passes += passes + products * _whole(work.channels) if _differentiated(work) else passes
    return (1.0, passes, *_sizes(work))


def stock_terms(work: Work) -> tuple[float, ...]:
    """Return the same of PyTorch's time."""
    channels = _whole(work.channels) if _differentiated(work) else work.channels
    places = work.batch * work.out[0] * work.out[1]
    products = places * _whole(work.filters) * channels * work.kernel[0] * work.kernel[1] / 1e6
    return (1.0, products * (3 if _differentiated(work) else 2), *_sizes(work))


@lru_cache(maxsize=4096)
def pays(work: Work, follow: Follow, threads: int = 1) -> bool:
    """Tell whether native code is the faster one, with every entry computed.

    What a pooling follows is native: PyTorch's own poolings take as long as many a convolution. All else is, where
    minimal filtering does it: of other shapes, too many take longer, and no rule told which. Native code gives each
    thread whole images, so that of few images some threads have none, and PyTorch divides images, too.

    Args:
        work: the convolution.
        follow: what is done to its output.
        threads: how many there are.
    """
    idle = max(1.0, threads / max(1, work.batch))  # how many times as long native code takes for it
    if follow.pool != "none":
        return idle <= POOLED_THREADS
    if not filtered(work) or work.batch * work.out[0] * work.out[1] < FEWEST:
        return False
    native, stock = idle * _time(native_terms(work), FILTERED), _time(stock_terms(work), STOCK)
    if follow.relu:
        stock += RELU * work.batch * work.filters * work.out[0] * work.out[1] / 1e6
    return native < MARGIN * stock


def norm_pays(rows: int, channels: int, relu: bool, pooled: bool) -> bool:
    """Tell whether native batch norm, with what is behind it, is the faster one, of so many numbers of each channel.

    A call takes longer than one of PyTorch's own, and so does what is done once for each channel; each number takes
    less. `benchmarks/kernels/norms_and_pools.py` has the figures.
    """
    if pooled:
        return rows * channels >= POOLED_NORM_NUMBERS
    if relu:
        return rows * channels >= NORM_NUMBERS or rows >= NORM_ROWS // 2
    return rows >= NORM_ROWS and channels <= NORM_CHANNELS


def pool_pays(numbers: int, channels: int, average: bool) -> bool:
    """Tell whether a native pooling is the faster one, of an input of so many numbers; the bits are the same.

    `benchmarks/kernels/norms_and_pools.py` has the figures.
    """
    return channels % POOL_CHANNELS == 0 and numbers >= (AVERAGE_NUMBERS if average else MAXIMUM_NUMBERS)


def _time(terms: tuple[float, ...], each: tuple[float, ...]) -> float:
    return sum(term * time for term, time in zip(terms, each, strict=True))


def _sizes(work: Work) -> tuple[float, ...]:
    weights = work.channels * work.filters * work.kernel[0] * work.kernel[1] / 1e6
    of_image = work.channels * work.input[0] * work.input[1] + work.filters * work.out[0] * work.out[1]
    numbers = work.batch * of_image / 1e6
    return weights, weights * work.planes, numbers, numbers * work.planes


def _differentiated(work: Work) -> bool:
    """Tell whether the input's gradient is needed: that of images, which have so few channels, is not."""
    return work.channels > 3


def _whole(channels: int) -> int:
    """Return so many channels rounded up to whole vectors, of 16."""
    return -(-channels // 16) * 16
