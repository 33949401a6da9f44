"""Triton's programs against plain PyTorch in double: forward and gradients, in Triton's interpreter or on a device."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stantune.kernels.cuda.rows import Rows, Window, rows_of
from stantune.stan.entries.entries import PATTERNS, Entries, EntryMatrix, Grid
from stantune.stan.entries.fill import neighbour_of_exact
from stantune.stan.entries.filled import Convolution, by_triton, has_triton_form

pytest.importorskip("triton")
from stantune.kernels.cuda import triton_conv
from stantune.kernels.cuda.triton_conv import INTERPRETED, Tiles, convolve_rows

pytestmark = pytest.mark.usefixtures("one_thread")
# TRITON_INTERPRET=0 pytest tests/kernels/test_triton_conv.py runs them on a device.
DEVICE = "cpu" if INTERPRETED else "cuda"
PLANES = torch.contiguous_format
SMALL = Tiles(16, 16, 16, 4)
GRIDS = [
    Grid(pattern, top, left)
    for pattern in PATTERNS.values()
    for top in range(pattern.rows)
    for left in range(pattern.columns)
]


@pytest.fixture(autouse=True)
def _small_outputs_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a few entries, too, which are computed whole in a training."""
    monkeypatch.setattr("stantune.stan.entries.entries.PERIODS", 1)


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shapes are many blocks."""
    for name in ("tiles_of_output", "tiles_of_weight", "tiles_of_input"):
        monkeypatch.setattr(triton_conv, name, lambda *sizes: SMALL)


def whole(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return small whole numbers: products and sums of a few of them are exact in every dtype."""
    numbers = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(DEVICE, dtype)


def matrix(batch: int, out: tuple[int, int], kept: float, seed: int) -> EntryMatrix:
    """Return entries drawn independently, at least one in each image."""
    generator = torch.Generator().manual_seed(seed)
    entries = torch.rand(batch, out[0] * out[1], generator=generator) < kept
    entries[torch.arange(batch), torch.arange(batch) * 7 % (out[0] * out[1])] = True
    return EntryMatrix(entries.view(batch, *out).to(DEVICE))


def check(convolution: Convolution, entries: Entries, gradient: Tensor) -> None:
    """Compare output and gradients; sums of small whole numbers leave rounding only to what bfloat16 cannot hold."""
    assert has_triton_form(convolution, entries)
    leaves = [each for each in convolution[:3] if isinstance(each, Tensor)]
    doubles = [each.detach().double().requires_grad_() for each in leaves]
    padded = F.pad(doubles[0], list(convolution.padding))
    exact = F.conv2d(padded, *doubles[1:], stride=convolution.stride, dilation=convolution.dilation)
    expected = neighbour_of_exact(exact, entries)
    wanted = [number for number, each in enumerate(leaves) if each.requires_grad]
    oracles = torch.autograd.grad(expected, [doubles[number] for number in wanted], gradient.double())

    found = by_triton(convolution, entries)
    assert found.shape == expected.shape
    assert found.dtype == convolution.input.dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad(found, [leaves[number] for number in wanted], gradient)
    rounding = 0.0 if found.dtype is torch.float32 else 2.0**-8
    for mine, its in zip((found, *gradients), (expected, *oracles), strict=True):
        torch.testing.assert_close(mine.double(), its, rtol=rounding, atol=0.0)


@st.composite
def cases(draw: st.DrawFn, plain: bool = False) -> tuple[Convolution, Entries, Tensor]:
    """Draw a convolution, its entries and its output's gradient; `plain` ones have many channels instead."""
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    kernel = (draw(st.integers(1, 2)), 2) if plain else (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = (1, 1) if plain else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    around = padding[2] + padding[3], padding[0] + padding[1]
    least = [max(1, step * (taps - 1) + 1 - pad) for step, taps, pad in zip(dilation, kernel, around, strict=True)]
    size = least[0] + draw(st.integers(0, 7)), least[1] + draw(st.integers(0, 7))
    batch = draw(st.integers(1, 3))
    channels = draw(st.sampled_from([16, 17, 33] if plain else [1, 3, 5]))
    filters = draw(st.sampled_from([1, 16, 20] if plain else [1, 2, 7, 17]))
    seed = draw(st.integers(0, 1000))
    order = draw(st.sampled_from([torch.channels_last, torch.contiguous_format]))
    input = whole(batch, channels, *size, seed=seed, dtype=dtype).contiguous(memory_format=order)
    weight = whole(filters, channels, *kernel, seed=seed + 1, dtype=dtype).contiguous(memory_format=order)
    bias = whole(filters, seed=seed + 2, dtype=dtype) if draw(st.booleans()) else None
    # Input, weight and bias, not all of which are trained.
    trained = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    input.requires_grad_(trained[0])
    weight.requires_grad_(trained[1])
    if bias is not None:
        bias.requires_grad_()
    convolution = Convolution(input, weight, bias, stride, padding, dilation, 1)
    out = convolution.out
    grids = [grid for grid in GRIDS if grid.covers(*out)]
    entries: Entries = matrix(batch, out, draw(st.sampled_from([0.1, 0.4, 1.0])), seed)
    if grids and draw(st.booleans()):
        entries = draw(st.sampled_from(grids))
    return convolution, entries, whole(batch, filters, *out, seed=seed + 3, dtype=dtype)


@settings(max_examples=25)
@given(case=cases())
def test_any_convolution_of_few_channels(case: tuple[Convolution, Entries, Tensor]) -> None:
    check(*case)


@settings(max_examples=12)
@given(case=cases(plain=True))
def test_any_convolution_of_many_channels(case: tuple[Convolution, Entries, Tensor]) -> None:
    check(*case)


def plain_case(
    entries: str | Grid, dtype: torch.dtype, channels: int = 18, filters: int = 17
) -> tuple[Convolution, Entries, Tensor]:
    """Return a 2x2 convolution with padding, stride 1, on two images of 5x6."""
    input = whole(2, channels, 5, 6, seed=0, dtype=dtype).requires_grad_()
    weight = whole(filters, channels, 2, 2, seed=1, dtype=dtype).requires_grad_()
    bias = whole(filters, seed=2, dtype=dtype).requires_grad_()
    convolution = Convolution(input, weight, bias, (1, 1), (1, 0, 0, 1), (1, 1), 1)
    chosen = entries if isinstance(entries, Grid) else matrix(2, (5, 6), 0.4, 3)
    return convolution, chosen, whole(2, filters, 5, 6, seed=4, dtype=dtype)


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(
    ("entries", "dtype"), [(Grid(PATTERNS["blocks"], 1, 0), torch.bfloat16), ("matrix", torch.float32)], ids=str
)
def test_many_blocks_are_one_product(entries: str | Grid, dtype: torch.dtype) -> None:
    check(*plain_case(entries, dtype))


@pytest.mark.usefixtures("_small_tiles")
def test_many_blocks_of_few_channels_are_one_product() -> None:
    check(*plain_case(Grid(PATTERNS["columns"], 0, 1), torch.float32, channels=3, filters=17))


@pytest.mark.parametrize(
    "bias",
    [lambda filters: whole(filters, 2, seed=2)[:, 0], lambda filters: whole(1, seed=2).expand(filters)],
    ids=["a column", "expanded"],
)
def test_a_bias_may_have_any_strides(bias: Callable[[int], Tensor]) -> None:
    convolution, entries, gradient = plain_case("matrix", torch.float32)
    check(convolution._replace(bias=bias(17)), entries, gradient)


def test_what_is_saved_may_come_back_in_another_order() -> None:
    """As what is kept in pinned memory does."""
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(memory_format=PLANES), lambda kept: kept):
        check(*plain_case("matrix", torch.float32))


def test_runs_of_images_repeat_their_entries() -> None:
    convolution, entries, _ = plain_case("matrix", torch.float32, channels=2, filters=3)
    window = Window((5, 6), (5, 6), (2, 2), (1, 1), (0, 1), (1, 1))
    rows = lists(entries.entries.cpu(), window)
    rows = Rows(2, *(each.to(DEVICE) for each in rows[1:]))
    twice = torch.cat([convolution.input, convolution.input.flip(0)]).detach().requires_grad_()
    upstream = whole(4, 3, 5, 6, seed=5)
    trained = [twice, convolution.weight]
    output = convolve_rows(twice, convolution.weight, convolution.bias, window, rows)
    halves = [convolve_rows(half, convolution.weight, convolution.bias, window, rows) for half in twice.split(2)]
    assert torch.equal(output, torch.cat(halves))
    gradients = torch.autograd.grad(output, trained, upstream)
    assert all(map(torch.equal, gradients, torch.autograd.grad(torch.cat(halves), trained, upstream)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_input_gives_one_result(dtype: torch.dtype) -> None:
    convolution, entries, gradient = plain_case("matrix", dtype)
    convolution.input.data.mul_(0.37)

    def results() -> list[Tensor]:
        output = by_triton(convolution, entries)
        return [output, *torch.autograd.grad(output, [each for each in convolution[:3] if each is not None], gradient)]

    assert all(map(torch.equal, results(), results()))


def test_sums_are_in_single_precision() -> None:
    # 1024 + 1 - 1024: bfloat16 cannot hold 1025.
    input = (
        torch.tensor([1024.0, 1.0, -1024.0], dtype=torch.bfloat16, device=DEVICE).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    )
    weight = torch.ones(1, 3, 1, 1, dtype=torch.bfloat16, device=DEVICE)
    convolution = Convolution(input, weight, None, (1, 1), (0, 0, 0, 0), (1, 1), 1)
    assert by_triton(convolution, Grid(PATTERNS["columns"], 0, 0)).flatten().tolist() == [1.0, 1.0]


def test_autocast_computes_in_its_dtype_as_pytorch_does() -> None:
    convolution, entries, gradient = plain_case(Grid(PATTERNS["blocks"], 0, 1), torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        output = by_triton(convolution, entries)
    assert output.dtype is torch.bfloat16
    gradients = torch.autograd.grad(output, [convolution.input, convolution.weight], gradient.bfloat16())
    assert [each.dtype for each in gradients] == [torch.float32, torch.float32]
    exact, _, _ = plain_case(Grid(PATTERNS["blocks"], 0, 1), torch.float32)
    expected = torch.autograd.grad(by_triton(exact, entries), [exact.input, exact.weight], gradient)
    for mine, its in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=2.0**-7, atol=0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"groups": 2},
        {"input": torch.zeros(2, 4, 5, 5, dtype=torch.float64)},
        {"input": torch.zeros(2, 3, 5, 5)},
        {"input": torch.zeros(2, 4, 5, 5, dtype=torch.bfloat16)},
        {"input": torch.zeros(2, 4, 1, 2)},
        {"input": torch.zeros(1).expand(2**22, 4, 16, 16)},
    ],
    ids=["groups", "double", "other channels", "mixed", "smaller than the kernel", "large"],
)
def test_the_rest_is_pytorchs(change: dict) -> None:
    fits = Convolution(torch.zeros(2, 4, 5, 5), torch.zeros(6, 4, 3, 3), None, (1, 1), (0, 0, 0, 0), (1, 1), 1)
    assert has_triton_form(fits, Grid(PATTERNS["blocks"], 0, 0))
    assert not has_triton_form(fits._replace(**change), Grid(PATTERNS["blocks"], 0, 0))


def test_entries_of_another_shape_are_refused() -> None:
    convolution, _, _ = plain_case("matrix", torch.float32)
    with pytest.raises(ValueError, match=r"entries are \(2, 6, 5\), not \(2, 5, 6\)"):
        by_triton(convolution, matrix(2, (6, 5), 0.5, 0))


def lists(entries: Tensor, window: Window) -> Rows:
    """Return the lists of entries (images, H_out, W_out), each place filled by the first entry of its image's."""
    flat = entries.flatten()
    number = flat.cumsum(0) - 1
    first = entries.flatten(1).long().argmax(1) + math.prod(window.out) * torch.arange(len(entries))
    sources = torch.where(flat, number, number[first].repeat_interleave(math.prod(window.out)))
    return rows_of(flat.nonzero()[:, 0], sources, len(entries), window)


@settings(max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    corner=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    out=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    over=st.tuples(st.integers(-3, 4), st.integers(-3, 4)),
    seed=st.integers(0, 100),
)
def test_pixels_are_together_that_the_same_taps_reach(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    corner: tuple[int, int],
    out: tuple[int, int],
    over: tuple[int, int],
    seed: int,
) -> None:
    met = [
        (out[side] - 1) * stride[side] + (kernel[side] - 1) * dilation[side] + 1 - corner[side] + over[side]
        for side in (0, 1)
    ]
    height, width = (max(1, side) for side in met)
    window = Window((height, width), out, kernel, stride, corner, dilation)
    entries = matrix(2, out, 0.4, seed).entries.cpu()
    rows = lists(entries, window)

    def taps(image: int, y: int, x: int) -> tuple[int, ...]:
        found = []
        for tap in range(kernel[0] * kernel[1]):
            places = []
            for place, length, side in ((y, out[0], 0), (x, out[1], 1)):
                own = tap // kernel[1] if side == 0 else tap % kernel[1]
                number, rest = divmod(place + corner[side] - own * dilation[side], stride[side])
                places.append(number if not rest and 0 <= number < length else -1)
            if min(places) >= 0 and entries[image, places[0], places[1]]:
                found.append(tap)
        return tuple(tap for tap in found if tap < 62)

    pixels = rows.pixels.tolist()
    assert sorted(pixels) == list(range(2 * height * width))
    order = [taps(pixel // (height * width), pixel // width % height, pixel % width) for pixel in pixels]
    changes = sum(one != other for one, other in pairwise(order))
    assert changes == len(set(order)) - 1


def test_every_place_is_filled_once() -> None:
    entries = matrix(3, (4, 5), 0.3, 0).entries.cpu()
    rows = lists(entries, Window((4, 5), (4, 5), (1, 1), (1, 1), (0, 0), (1, 1)))
    assert sorted(rows.copies.tolist()) == list(range(60))
    for number, position in enumerate(rows.positions.tolist()):
        assert position in rows.copies[rows.begins[number] : rows.begins[number + 1]].tolist()
        assert rows.numbers[position] == number
    assert (rows.numbers >= 0).sum() == len(rows.positions) == entries.sum()


def test_float32_is_multiplied_as_pytorch_is_told_for_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, name in ((True, "tf32"), (False, "ieee")):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert triton_conv.precision() == name


@pytest.mark.parametrize("architecture", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_the_programs_compile_for_devices_that_are_not_here(architecture: int, tmp_path: Path) -> None:
    script = Path(__file__).with_name("compile_triton.py")
    ran = subprocess.run(
        [sys.executable, str(script), str(architecture)],
        env={"TRITON_CACHE_DIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 2 * 4
