"""Native poolings against PyTorch's own: the same to the last bit, forward and backward, whatever is pooled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stantune.kernels import pool as module
from stantune.kernels.library import plain_pytorch
from stantune.kernels.pool import Pool, fits, pooled

pytestmark = pytest.mark.usefixtures("form", "_threads")

windows = st.integers(1, 5).flatmap(
    lambda size: st.tuples(st.just(size), st.one_of(st.just(size), st.integers(1, 6)), st.integers(0, size // 2))
)
pools = st.builds(
    lambda average, rows, columns, ceil, counts, divisor: Pool(
        average, *zip(rows, columns, strict=True), ceil, counts, divisor
    ),
    st.booleans(),
    windows,
    windows,
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 0, 1, 3, 8]),
)


def bits(x: Tensor) -> Tensor:
    """Return what two results have in common where they are the same: the bits, and of NaN that it is none."""
    return torch.where(x.isnan(), 0.0, x).view(torch.int32)


def passes(x: Tensor, pool: Pool, gradient_order: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Return the output and the input's gradient; the output's gradient has numbers that are nothing."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = pooled(x, pool)
    generator = torch.Generator().manual_seed(7)
    gradient = torch.randn(y.shape, generator=generator)
    gradient = torch.where(gradient.abs() < 0.1, -0.0, gradient).contiguous(memory_format=gradient_order)
    (of_x,) = torch.autograd.grad(y, x, gradient)
    return y.detach(), of_x


def check(x: Tensor, pool: Pool, order: torch.memory_format = torch.channels_last) -> None:
    """Compare both passes on x (B, C, H, W) with PyTorch's."""
    assert fits(x, pool)
    found = passes(x, pool, order)
    with plain_pytorch():
        expected = passes(x, pool, order)
    for name, one, other in zip(("output", "gradient"), found, expected, strict=True):
        assert one.stride() == other.stride(), name
        assert torch.equal(one.isnan(), other.isnan()), name
        assert torch.equal(bits(one), bits(other)), name


def test_windows_that_see_too_much_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 2, 8, 20).contiguous(memory_format=torch.channels_last)
    wide = Pool(True, (3, 10), (1, 1))
    check(x, wide)
    monkeypatch.setattr(module, "MOST_SEEN", 11 * 10 - 1)
    assert not fits(x, wide)


@settings(max_examples=200)
@given(
    pool=pools,
    shape=st.tuples(
        st.integers(1, 3), st.sampled_from([2, 3, 5, 8, 16, 17, 24, 32, 48]), st.integers(1, 12), st.integers(1, 12)
    ),
    kind=st.sampled_from(["random", "relu", "few", "nan", "infinite"]),
    order=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@example(Pool(False, (2, 2), (2, 2)), (2, 16, 7, 9), "relu", torch.channels_last, 1, 0)
@example(Pool(False, (3, 3), (2, 2), (1, 1)), (2, 17, 8, 8), "nan", torch.channels_last, 2, 1)
@example(Pool(True, (3, 3), (1, 1), (1, 1), False, False), (1, 32, 6, 6), "random", torch.channels_last, 1, 2)
def test_every_bit_is_pytorchs(
    pool: Pool, shape: tuple[int, ...], kind: str, order: torch.memory_format, threads: int, seed: int
) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
    if kind == "relu":
        x = x.relu()
    elif kind == "few":
        # Many are equal, and some are minus zero.
        x = (x.round() * -1.0).contiguous(memory_format=torch.channels_last)
    elif kind == "nan":
        x[x > 1.0] = float("nan")
    elif kind == "infinite":
        x[x.abs() > 0.5] = -float("inf")
    assume(fits(x, pool))
    check(x, pool, order)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (5, 2, 2)])
def test_many_rows_are_shared_among_threads(average: bool, size: int, stride: int, padding: int) -> None:
    x = torch.randn(9, 20, 31, 17, generator=torch.Generator().manual_seed(0))
    for threads in (1, 3):
        torch.set_num_threads(threads)
        check(
            x.contiguous(memory_format=torch.channels_last),
            Pool(average, (size, size), (stride, stride), (padding, padding)),
        )


LAST = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("x", "pool"),
    [
        (LAST.contiguous(), Pool(False, (2, 2), (2, 2))),
        (LAST.double(), Pool(False, (2, 2), (2, 2))),
        (LAST[0], Pool(False, (2, 2), (2, 2))),
        (LAST[:0], Pool(False, (2, 2), (2, 2))),
        # Both orders at once.
        (LAST[:, :1].contiguous(), Pool(False, (2, 2), (2, 2))),
        # Sides of length 1 whose strides are others than channels-last memory gives them.
        (LAST[0].unsqueeze(0), Pool(False, (2, 2), (2, 2))),
        (LAST[:1].as_strided((1, 3, 8, 8), (0, 1, 24, 3)), Pool(True, (2, 2), (2, 2))),
        (LAST[:, :, :1].as_strided((2, 3, 1, 8), (192, 1, 1, 3)), Pool(True, (1, 2), (1, 2))),
        (LAST[:, :, :1, :1], Pool(False, (2, 1), (1, 1), (1, 0))),
        # A place in a window would be no byte.
        (torch.randn(1, 2, 40, 40).contiguous(memory_format=torch.channels_last), Pool(False, (17, 16), (1, 1))),
    ],
)
def test_what_it_was_not_made_for_is_pytorchs(x: Tensor, pool: Pool) -> None:
    assert not fits(x, pool)
    with plain_pytorch():
        expected = pooled(x, pool)
    found = pooled(x, pool)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


@pytest.mark.parametrize(
    ("pool", "sentence"),
    [
        (Pool(False, (9, 9), (1, 1)), "Output size is too small"),
        (Pool(False, (2, 2), (2, 2), (2, 2)), "pad should be at most half"),
        (Pool(True, (2, 2), (0, 1)), "stride should not be zero"),
        (Pool(True, (0, 2), (1, 1)), "kernel size should be greater than zero"),
        (Pool(True, (2, 2), (1, 1), divisor=-1), ""),
        (Pool(False, (2**40, 2), (1, 1), (2**39, 0)), ""),
    ],
)
def test_what_pytorch_refuses_it_refuses_in_its_own_words(pool: Pool, sentence: str) -> None:
    assert not fits(LAST, pool)
    if sentence:
        with pytest.raises(RuntimeError, match=sentence):
            pooled(LAST, pool)


def test_winners_are_kept_only_where_a_gradient_is_asked() -> None:
    with torch.no_grad():
        y = pooled(LAST, Pool(False, (2, 2), (2, 2)))
    assert y.grad_fn is None
    saved: list[Tensor] = []
    x = LAST.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):  # type: ignore[func-returns-value]
        pooled(x, Pool(False, (2, 2), (2, 2)))
    assert {each.dtype for each in saved} == {torch.float32, torch.uint8}
