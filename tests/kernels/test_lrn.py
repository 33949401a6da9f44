"""Native LRN against its definition in double precision, within the rounding of its own operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stantune.images.nets.caffe import WithinChannelLRN
from stantune.kernels import library
from stantune.kernels.lrn import fits, normalise

pytestmark = pytest.mark.usefixtures("form", "_threads")
EPSILON = torch.finfo(torch.float32).eps


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the same values in another order of memory."""
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([x, x], -1)[..., 0]
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x.contiguous()


def mean(x: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(x, size, 1, size // 2)


def check(x: Tensor, gradient: Tensor, scale: float, power: float, size: int) -> None:
    """Compare forward and backward pass of x (B, C, H, W) with the definition, by each number's own rounding."""
    x = x.detach().requires_grad_()
    y = normalise(x, scale, power, size)
    assert (y.shape, y.dtype) == (x.shape, torch.float32)
    (of_x,) = torch.autograd.grad(y, x, gradient)
    assert of_x.shape == x.shape
    if not x.numel():
        return

    exact = x.detach().double().requires_grad_()
    d = 1.0 + scale * mean(exact * exact, size)
    expected = exact * d.pow(-power)
    (of_exact,) = torch.autograd.grad(expected, exact, gradient.double())
    # d is a sum of `terms` sums of `terms` numbers other than zero, and its relative error grows by the power.
    terms = min(size, max(x.shape[2:]))
    roundings = 4 + (3 + terms) * power
    excess = (y.double() - expected).abs() - EPSILON * roundings * expected.abs()
    assert excess.max() <= 0
    factor = d.detach().pow(-power)
    parts = (gradient.double() * factor).abs()
    parts += 2 * scale * power * exact.abs() * mean((gradient.double() * exact).abs() * factor / d, size)
    excess = (of_x.double() - of_exact).abs() - EPSILON * (roundings + 6 + terms) * parts
    assert excess.max() <= 0


@settings(max_examples=40)
@given(
    shape=st.tuples(
        st.integers(0, 4), st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33]), st.integers(1, 9), st.integers(1, 9)
    ),
    layout=st.sampled_from(["contiguous", "channels last", "strided", "transposed"]),
    scale=st.sampled_from([0.0, 5e-5, 0.3, 5.0]),
    power=st.sampled_from([0.0, 0.5, 0.75, 1.0]) | st.floats(0.01, 3.0),
    size=st.sampled_from([1, 3, 5, 7]),
    spread=st.sampled_from([0.1, 3.0, 300.0]),
    expanded=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_it_is_its_definition(
    shape: tuple[int, ...],
    layout: str,
    scale: float,
    power: float,
    size: int,
    spread: float,
    expanded: bool,
    threads: int,
    seed: int,
) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    x = laid_out(spread * torch.randn(shape, generator=generator).relu(), layout)
    gradient = torch.ones(()).expand(shape) if expanded else torch.randn(shape, generator=generator)
    check(x, gradient, scale, power, size)


@pytest.mark.parametrize("size", [9, 11, 13, 21, 46341, 65535, 2**31 - 1])
@pytest.mark.parametrize("shape", [(2, 5, 6, 9), (1, 17, 9, 6), (3, 1, 1, 1)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_window_may_be_larger_than_the_image(shape: tuple[int, ...], layout: str, size: int) -> None:
    """The square of such a size passes 32 bits, and memory for all of the window there is none."""
    generator = torch.Generator().manual_seed(0)
    x = laid_out(torch.randn(shape, generator=generator), layout)
    check(x, torch.randn(shape, generator=generator), 0.1 * size**2, 0.75, size)


def test_a_window_beyond_32_bits_is_refused_in_pytorchs_words() -> None:
    with pytest.raises(RuntimeError, match="overflow"):
        normalise(torch.ones(1, 1, 2, 2), 1.0, 0.75, 2**32 + 1)


def test_windows_without_a_middle_are_pytorchs() -> None:
    x = torch.ones(1, 1, 4, 4)
    assert fits(x, 1)
    assert fits(x, 3)
    assert not fits(x, 2)
    assert not fits(x, 0)


@pytest.mark.parametrize("power", [0.3, 0.5, 0.75, 1.0, 1.7, 3.0, 40.0])
def test_the_power_is_exact_to_a_few_units_in_the_last_place(power: float) -> None:
    x = torch.logspace(-6, 15, 4000).reshape(1, 1, 40, 100)
    y = normalise(x, 1.0, power, 1)
    expected = x.double() * (1.0 + x.double() ** 2).pow(-power)
    normal = expected / x.double() > 1e-37
    assert normal.sum() > 1000
    # One rounding of d, of which the power makes `power`, and a few of the power's own.
    assert ((y.double() / expected - 1.0)[normal].abs() <= EPSILON * (3 + power)).all()
    assert (y[~normal].double() <= 1e-37 * x[~normal].double()).all()


@pytest.mark.parametrize("power", [0.5, 0.75, 1.0, 1.7])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_is_no_number_shows_where_it_does_in_plain_pytorch(
    power: float, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(1, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    x[0, 1, 2, 3] = value
    layer = WithinChannelLRN(0.5, power)
    native = layer(x)
    monkeypatch.setattr("stantune.images.nets.caffe.suits", lambda *tensors: False)
    torch.testing.assert_close(native, layer(x), equal_nan=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_the_memory_keeps_its_order_and_the_threads_change_nothing(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = laid_out(torch.randn(5, 6, 4, 7, generator=generator), layout).requires_grad_()
    gradient = torch.randn(5, 6, 4, 7, generator=generator)
    results = []
    for threads in (1, 2, 4, 8):
        torch.set_num_threads(threads)
        y = normalise(x, 0.3, 0.6, 3)
        (of_x,) = torch.autograd.grad(y, x, gradient)
        assert y.stride() == of_x.stride() == x.stride()
        results.append((y, of_x))
    for y, of_x in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(of_x, results[0][1])


def test_a_changed_input_is_noticed() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True) * 2.0
    y = WithinChannelLRN()(x)
    x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def name(y: Tensor) -> Any:
    return y.grad_fn and y.grad_fn.name()


def test_the_layer_uses_it_for_what_suits_and_plain_pytorch_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = WithinChannelLRN()
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    assert name(layer(x)) == "_LrnBackward"
    assert name(layer(x.double())) == "_WithinChannelLRNBackward"
    assert name(layer(x[0])) == "_WithinChannelLRNBackward"
    with torch.autocast("cpu"):
        assert name(layer(x)) == "_WithinChannelLRNBackward"
    monkeypatch.setattr(library, "kernels", lambda: library.Kernels(None, "", "none"))
    assert name(layer(x)) == "_WithinChannelLRNBackward"
