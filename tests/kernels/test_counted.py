"""Sizes that native code counts in 32 bits: what may be too large for that is PyTorch's. No number here is touched."""

from __future__ import annotations

import pytest
import torch

from stantune.kernels import batch_norm, lrn, pool
from stantune.kernels.block.follow import Follow
from stantune.kernels.block.shapes import MOST_NUMBERS, _shapes
from stantune.kernels.library import kernels

pytestmark = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")


@pytest.mark.parametrize(("images", "fit"), [(MOST_NUMBERS, True), (MOST_NUMBERS + 1, False), (2**32 + 1, False)])
def test_images_of_a_convolution(images: int, fit: bool) -> None:
    shapes = _shapes((images, 1, 1, 1), (1, 1, 1, 1), 1, (1, 1), (0, 0, 0, 0), Follow())
    assert (shapes is not None) == fit


# A square image of MOST_NUMBERS numbers.
SIDE = 2**14


@pytest.mark.parametrize(
    ("input", "weight", "stride", "padding", "follow", "fit"),
    [
        ((1, 1, SIDE, SIDE), (1, 1, 1, 1), (2, 2), (0, 0, 0, 0), Follow(), True),
        ((1, 1, SIDE, SIDE), (1, 1, 1, 1), (2, 2), (1, 0, 0, 0), Follow(), False),
        ((1, 1, SIDE, SIDE), (1, 1, 1, 1), (2, 2), (0, 0, 0, 1), Follow(), False),
        ((1, 2, SIDE, SIDE), (1, 2, 1, 1), (2, 2), (0, 0, 0, 0), Follow(), False),
        ((1, 1, SIDE, SIDE), (2, 1, 1, 1), (1, 1), (0, 0, 0, 0), Follow(), False),
        ((1, SIDE, 1, 1), (SIDE, SIDE, 1, 1), (1, 1), (0, 0, 0, 0), Follow(), True),
        ((1, 2 * SIDE, 1, 1), (SIDE, 2 * SIDE, 1, 1), (1, 1), (0, 0, 0, 0), Follow(), False),
        ((1, 1, 1, 1), (1, 1, 1, 1), (MOST_NUMBERS, 1), (0, 0, 0, 0), Follow(), True),
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, MOST_NUMBERS + 1), (0, 0, 0, 0), Follow(), False),
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0, 0, 0), Follow("max", (1, 1), (MOST_NUMBERS + 1, 1)), False),
    ],
)
def test_numbers_of_a_convolution(
    input: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    follow: Follow,
    fit: bool,
) -> None:
    assert (_shapes(input, weight, weight[0], stride, padding, follow) is not None) == fit


@pytest.mark.parametrize("more", [0, 1])
def test_numbers_of_an_image_under_lrn(more: int) -> None:
    assert lrn.fits(torch.empty(1, 1, 1, lrn.MOST_NUMBERS + more), 3) == (not more)


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("place", [1, 2, 3], ids=["channels", "rows", "columns"])
def test_sides_of_a_batch_norm(place: int, more: int) -> None:
    shape = [2, 1, 1, 1]
    shape[place] = batch_norm.MOST + more
    assert batch_norm.fits(torch.empty(shape), None, None) == (not more)


@pytest.mark.parametrize("more", [0, 1])
def test_rows_of_a_pooling(more: int) -> None:
    x = torch.empty(1, 2, pool.MOST + more, 1, memory_format=torch.channels_last)
    assert pool.fits(x, pool.Pool(True, (2, 1), (2, 1))) == (not more)


@pytest.mark.parametrize("more", [0, 1])
def test_numbers_of_a_window_s_row(more: int) -> None:
    pooled = torch.empty(1, pool.MOST // 4 + more, 1, 4, memory_format=torch.channels_last)
    assert pool.fits(pooled, pool.Pool(True, (1, 4), (1, 4))) == (not more)
    normalised = torch.empty(1, batch_norm.MOST // 2 + more, 2, 4, memory_format=torch.channels_last)
    assert batch_norm.fits(normalised, None, None, pool=(1, 4)) == (not more)
