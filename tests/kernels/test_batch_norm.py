"""Native batch norm against its definition in double precision, within the rounding of its own operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stantune.images.nets.caffe import CaffeBatchNorm2d
from stantune.kernels.batch_norm import fits, normalise

pytestmark = pytest.mark.usefixtures("form", "_threads")
EPSILON = torch.finfo(torch.float32).eps
EPS, MOMENTUM = 1e-5, 0.1


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def check_learned(x: Tensor, gradient: Tensor, relu: bool, seed: int) -> None:
    """Compare learned scale and shift, and ReLU, with the same in double precision: about as near as PyTorch's own.

    Where ReLU cuts off is a matter of rounding for numbers next to zero: the gradient is that of none of them.
    """
    generator = torch.Generator().manual_seed(seed)
    learned = [torch.randn(x.shape[1], generator=generator) for _ in range(2)]

    def passes(x: Tensor, gradient: Tensor, native: bool) -> list[Tensor]:
        own = [each.detach().to(x.dtype).requires_grad_() for each in (x, *learned)]
        if native:
            y = normalise(own[0], None, None, MOMENTUM, EPS, own[1], own[2], relu)
        else:
            y = F.batch_norm(own[0], None, None, own[1], own[2], training=True, eps=EPS)
            y = F.relu(y) if relu else y
        return [y.detach(), *torch.autograd.grad(y, own, gradient)]

    whole = F.batch_norm(x.double(), None, None, *(each.double() for each in learned), training=True, eps=EPS)
    error = (whole - F.batch_norm(x, None, None, *learned, training=True, eps=EPS)).abs().max()
    # The mean's own rounding, in standard deviations.
    deviation = (x.double().var((0, 2, 3), unbiased=False) + EPS).sqrt()
    condition = float((1.0 + x.abs().amax((0, 2, 3)) / deviation).max())
    if relu:
        # By chance PyTorch's own error may be far below that rounding.
        near = 4 * error + 2 * EPSILON * condition * learned[0].abs().max() + 1e-5
        gradient = torch.where(whole.abs() > near, gradient, 0.0)
    exact = passes(x.double(), gradient.double(), native=False)
    stock, found = passes(x, gradient, native=False), passes(x, gradient, native=True)
    # What is added up, without its sign.
    most, weight = gradient.abs().max(), learned[0].abs().max()
    total = gradient.abs().sum((0, 2, 3)).max()
    # An output is rounded before ReLU cuts it off.
    sizes = whole.abs().max(), most * weight / deviation.min(), total * condition, total
    for name, one, other, right, size in zip(
        ("output", "input", "weight", "bias"), found, stock, exact, sizes, strict=True
    ):
        allowed = 4 * (other - right).abs().max() + 16 * EPSILON * condition * size
        assert (one - right).abs().max() <= allowed, name


def check(x: Tensor, gradient: Tensor) -> None:
    """Compare output, statistics and gradient of x (B, C, H, W) with the definition, by their own rounding."""
    x = x.detach().requires_grad_()
    channels = x.shape[1]
    running = torch.linspace(-1, 1, channels), torch.linspace(0, 2, channels)
    before = [each.double() for each in running]
    y = normalise(x, *running, MOMENTUM, EPS)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (of_x,) = torch.autograd.grad(y, x, gradient)

    exact, over = x.detach().double().requires_grad_(), (0, 2, 3)
    g = gradient.double()
    mean = exact.mean(over, keepdim=True)
    variance = (exact - mean).square().mean(over, keepdim=True)
    expected = (exact - mean) / (variance + EPS).sqrt()
    (of_exact,) = torch.autograd.grad(expected, exact, g)
    inverse = (variance + EPS).rsqrt().detach()
    # Of the mean, in standard deviations.
    size = exact.detach().abs().mean(over, keepdim=True)
    rounding = 8 * EPSILON * (size * inverse + 1.0)
    away = expected.detach().abs()
    assert ((y - expected).abs() <= rounding * (1.0 + away)).all()
    terms = (
        g.abs() + g.abs().mean(over, keepdim=True) + (1.0 + away) * (g.abs() * (1.0 + away)).mean(over, keepdim=True)
    )
    assert ((of_x - of_exact).abs() <= rounding * inverse * terms).all()

    rows = x.numel() // channels
    moved = mean.flatten(), variance.flatten() * rows / (rows - 1)
    for found, old, new in zip(running, before, moved, strict=True):
        bound = 8 * EPSILON * ((1 - MOMENTUM) * old.abs() + MOMENTUM * (new.abs() + size.flatten()))
        assert ((found - ((1 - MOMENTUM) * old + MOMENTUM * new)).abs() <= bound + 1e-12).all()


def check_pooled(x: Tensor, relu: bool, windows: tuple[int, int], seed: int) -> None:
    """Compare a norm with a pooling behind it with the two after each other: outputs by their bits."""
    generator = torch.Generator().manual_seed(seed)
    learned = [torch.randn(x.shape[1], generator=generator) for _ in range(2)]
    results = []
    for pool in (windows, None):
        own = [each.detach().clone(memory_format=torch.preserve_format).requires_grad_() for each in (x, *learned)]
        running = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
        assert fits(own[0], *running, own[1], own[2], pool)
        y = normalise(own[0], *running, MOMENTUM, EPS, own[1], own[2], relu, pool)
        y = F.max_pool2d(y, windows) if pool is None else y
        gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
        results.append([y.detach(), *running, *torch.autograd.grad(y, own, gradient)])
        assert y.is_contiguous(memory_format=torch.channels_last)
    found, expected = results
    assert all(map(torch.equal, found[:3], expected[:3]))
    deviation = (x.double().var((0, 2, 3), unbiased=False) + EPS).sqrt()
    condition = float((1.0 + x.abs().amax((0, 2, 3)) / deviation).max())
    total = float(gradient.abs().sum((0, 2, 3)).max())
    sizes = float(gradient.abs().max() * learned[0].abs().max() / deviation.min()), total * condition, total
    for name, one, other, size in zip(("input", "weight", "bias"), found[3:], expected[3:], sizes, strict=True):
        assert (one - other).abs().max() <= 16 * EPSILON * condition * size, name


@settings(max_examples=40)
@given(
    shape=st.tuples(
        st.integers(1, 5), st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33, 64]), st.integers(1, 9), st.integers(1, 9)
    ),
    mean=st.sampled_from([0.0, 5.0, -100.0]),
    spread=st.sampled_from([0.01, 1.0, 300.0]),
    expanded=st.booleans(),
    windows=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@example((5, 2, 3, 6), 5.0, 0.01, False, (1, 1), 3, 112)  # ReLU leaves next to nothing of what was rounded
@example((4, 1, 6, 8), -100.0, 0.01, False, (1, 1), 1, 216)  # a number next to zero is cut off by one of the two
def test_it_is_its_definition(
    shape: tuple[int, ...],
    mean: float,
    spread: float,
    expanded: bool,
    windows: tuple[int, int],
    threads: int,
    seed: int,
) -> None:
    # Of a few positions the variance may be so small that rounding decides.
    assume(shape[0] * shape[2] * shape[3] >= 8)
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    x = last(mean + spread * torch.randn(shape, generator=generator))
    gradient = torch.ones(()).expand(shape) if expanded else torch.randn(shape, generator=generator)
    check(x, gradient)
    for relu in (False, True):
        check_learned(x, gradient, relu, seed)
        if fits(x, None, None, pool=windows):
            check_pooled(x, relu, windows, seed)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(20, 3, 32, 32), (100, 32, 8, 8), (30, 50, 9, 9), (9, 513, 3, 5), (3, 1, 70, 70)])
def test_many_blocks_are_joined_exactly(shape: tuple[int, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    # The mean drifts from image to image.
    drifting = last(5.0 + 3.0 * x + torch.arange(shape[0]).reshape(-1, 1, 1, 1) / shape[0])
    check(drifting, gradient)
    check_learned(drifting, gradient, True, 1)
    if shape[1] > 1:
        check_pooled(drifting, True, (2, 2), 1)


def test_relu_lets_through_what_is_no_number_and_no_gradient_where_it_is_zero() -> None:
    x = last(torch.tensor([1.0, 3.0, float("nan"), 2.0]).reshape(2, 2, 1, 1)).requires_grad_()
    y = normalise(x, None, None, MOMENTUM, EPS, relu=True)
    expected = F.relu(F.batch_norm(x, None, None, training=True, eps=EPS))
    torch.testing.assert_close(y, expected, equal_nan=True)
    # All the same: what is normalised is zero everywhere, and the shift alone decides.
    flat = last(torch.ones(2, 2, 3, 3)).requires_grad_()
    shift = torch.tensor([0.0, 1.0], requires_grad=True)
    (of_shift,) = torch.autograd.grad(normalise(flat, None, None, MOMENTUM, EPS, None, shift, True).sum(), shift)
    assert of_shift.tolist() == [0.0, 18.0]


def test_only_what_is_asked_for_is_differentiated() -> None:
    x = last(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)))
    weight, bias = torch.randn(3, requires_grad=True), torch.randn(3)
    normalise(x, None, None, MOMENTUM, EPS, weight, bias, True).square().sum().backward()
    plain = weight.detach().clone().requires_grad_()
    F.relu(F.batch_norm(x.contiguous(), None, None, plain, bias, training=True, eps=EPS)).square().sum().backward()
    torch.testing.assert_close(weight.grad, plain.grad)
    assert x.grad is None
    assert bias.grad is None


def test_two_positions_are_enough() -> None:
    x = torch.tensor([1.0, 3.0, 5.0, 2.0]).reshape(2, 2, 1, 1)
    mean, variance = torch.zeros(2), torch.zeros(2)
    y = normalise(last(x), mean, variance, 1.0, 0.0)
    torch.testing.assert_close(y.flatten(), torch.tensor([-1.0, 1.0, 1.0, -1.0]))
    torch.testing.assert_close(mean, torch.tensor([3.0, 2.5]))
    torch.testing.assert_close(variance, torch.tensor([8.0, 0.5]))


def test_a_window_of_more_places_than_a_byte_can_tell_is_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = last(torch.randn(2, 4, 20, 32, generator=generator)).requires_grad_()
    assert fits(x, None, None, pool=(15, 17))
    assert not fits(x, None, None, pool=(16, 16))
    for pool in ((15, 17), (16, 16), (20, 16), (20, 32)):
        y = normalise(x, None, None, MOMENTUM, EPS, pool=pool)
        expected = F.max_pool2d(F.batch_norm(x, None, None, training=True, eps=EPS), pool)
        gradient = torch.randn(y.shape, generator=generator)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(*(torch.autograd.grad(each, x, gradient)[0] for each in (y, expected)))


def test_one_number_of_threads_gives_one_result() -> None:
    x = last(torch.randn(40, 7, 13, 13, generator=torch.Generator().manual_seed(0))).requires_grad_()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results = []
        for _ in range(3):
            running = torch.zeros(7), torch.zeros(7)
            y = normalise(x, *running, MOMENTUM, EPS)
            results.append((y, *running, *torch.autograd.grad(y, x, x.detach().cos())))
        for result in results[1:]:
            assert all(map(torch.equal, result, results[0]))


def test_the_layer_uses_it_for_what_fits_and_plain_pytorch_for_the_rest() -> None:
    layer = CaffeBatchNorm2d(3)
    x = last(torch.randn(2, 3, 4, 4, requires_grad=True))

    def name(x: Tensor) -> str:
        y = layer(x)
        assert y.grad_fn is not None
        return y.grad_fn.name()

    assert name(x) == "_BatchNormBackward"
    assert name(x.contiguous()) == "NativeBatchNormBackward0"
    with torch.autocast("cpu"):
        assert name(x) == "NativeBatchNormBackward0"
    layer.double()
    assert name(x.double()) == "NativeBatchNormBackward0"
    assert layer.num_batches_tracked == 4


def test_a_network_moves_its_averages_as_in_plain_pytorch() -> None:
    native, plain = CaffeBatchNorm2d(5), CaffeBatchNorm2d(5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        x = last(2.0 + torch.randn(4, 5, 6, 6, generator=generator))
        y = native(x)
        torch.testing.assert_close(y, plain(x.contiguous()))
    for name, value in native.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (0, 3, 4, 4)])
def test_too_little_to_normalise_ends_as_in_plain_pytorch(shape: tuple[int, ...]) -> None:
    x, layer = last(torch.zeros(shape)), CaffeBatchNorm2d(3)
    assert not fits(x, layer.running_mean, layer.running_var)
    try:
        expected = F.batch_norm(x, torch.zeros(3), torch.zeros(3), training=True)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)[:40].replace("(", r"\(")):
            layer(x)
    else:
        torch.testing.assert_close(layer(x), expected)


def test_statistics_of_another_size_are_plain_pytorchs_to_refuse() -> None:
    with pytest.raises(RuntimeError, match="running_mean"):
        CaffeBatchNorm2d(4)(last(torch.randn(2, 3, 4, 4)))


def test_a_changed_input_is_noticed() -> None:
    x = last(torch.randn(2, 3, 4, 4, requires_grad=True)) * 2.0
    y = CaffeBatchNorm2d(3)(x)
    x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
