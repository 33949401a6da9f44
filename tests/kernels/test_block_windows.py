"""What a block's pooling sees: how long it takes to list it, and that it is not listed where it is too much."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stantune.kernels.block import convolve as module
from stantune.kernels.block.convolve import convolve
from stantune.kernels.block.follow import Follow
from stantune.kernels.block.native import Call, applied
from stantune.kernels.block.plain import plainly
from stantune.kernels.block.shapes import MOST_SEEN, native_shapes
from stantune.kernels.library import kernels
from stantune.stan.entries.entries import PLANE, Grid
from stantune.stan.entries.lists import lists_of

pytestmark = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
SIDE = 224


@pytest.mark.parametrize("pattern", [None, "columns"])
def test_one_large_window_takes_about_as_long_as_many_small_ones(pattern: str | None) -> None:
    lists = None if pattern is None else lists_of(Grid(PLANE[pattern], 0, 0), SIDE, SIDE)
    input, weight = torch.randn(1, 1, SIDE, SIDE), torch.randn(1, 1, 1, 1)

    def seconds(size: int) -> float:
        follow = Follow("average", (size, size), (size, size))
        took = []
        for _ in range(3):
            began = time.process_time()
            convolve(input, weight, None, (1, 1), (0, 0, 0, 0), lists, follow)
            took.append(time.process_time() - began)
        return min(took)

    # Quadratic in the window's places, it took some hundred times as long: seconds. Clocks may be coarse.
    assert seconds(SIDE) < 20 * max(seconds(2), 0.02)


@pytest.mark.parametrize("pattern", [None, "columns"])
@pytest.mark.parametrize("pool", ["max", "average"])
def test_windows_that_see_too_much_are_pytorchs(
    pool: str, pattern: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = Follow(pool, (3, 2), (1, 1), relu=True)
    lists = None if pattern is None else lists_of(Grid(PLANE[pattern], 0, 0), 8, 9)
    tensors = [torch.randn(2, 3, 8, 9), torch.randn(4, 3, 3, 3), torch.randn(4)]
    gradient, done = torch.randn(2, 4, 6, 8), []

    def noted(input: Tensor, weight: Tensor, bias: Tensor | None, call: Call, *rest: object) -> Tensor:
        done.append(call.follow)
        return applied(input, weight, bias, call, *rest)

    monkeypatch.setattr(module, "applied", noted)

    def passes(run: Callable[..., Tensor]) -> list[Tensor]:
        own = [each.clone().requires_grad_() for each in tensors]
        output = run(*own, (1, 1), (1, 1, 1, 1), lists, follow)
        return [output, *torch.autograd.grad(output, own, gradient)]

    expected = passes(plainly)
    for most, left in ((6 * 8 * 6, follow), (6 * 8 * 6 - 1, Follow(relu=True))):
        monkeypatch.setattr(module, "MOST_SEEN", most)
        for one, other in zip(passes(convolve), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert done.pop() == left


def test_a_window_sees_no_more_than_there_is() -> None:
    def seen(size: int, stride: int, side: int) -> int:
        follow = Follow("average", (size, size), (stride, stride), ceil=True)
        shapes = native_shapes(
            torch.empty(1, 1, side, side), torch.empty(1, 1, 1, 1), None, (1, 1), (0,) * 4, None, follow
        )
        assert shapes is not None
        return shapes.seen

    assert seen(64, 1, 512) == (449 * 64) ** 2 > MOST_SEEN
    assert seen(512, 512, 512) == 512**2 < MOST_SEEN
    assert seen(600, 100, 512) == 512**2
