"""Caffe's fillers and layers against literal loops of their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.images.nets.caffe import (
    CaffeBatchNorm2d,
    WithinChannelLRN,
    average_pool,
    filled,
    gaussian_,
    max_pool,
    xavier_,
)


def windows(length: int, size: int, stride: int) -> list[slice]:
    """Caffe's windows without padding: ceil((length - size) / stride) + 1 of them, the last ones clipped."""
    count = math.ceil((length - size) / stride) + 1
    return [slice(k * stride, min(k * stride + size, length)) for k in range(count)]


def pooled_by_loop(x: Tensor, size: int, stride: int, average: bool) -> Tensor:
    rows, columns = (windows(length, size, stride) for length in x.shape[2:])
    out = x.new_zeros(*x.shape[:2], len(rows), len(columns))
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    values = x[n, c, row, column].flatten().tolist()
                    out[n, c, i, j] = sum(values) / len(values) if average else max(values)
    return out


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_pooling_is_caffes(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 4), label="size")
    stride = data.draw(st.integers(1, size), label="stride")
    height, width = (data.draw(st.integers(size, 9), label=name) for name in ("height", "width"))
    x = torch.randn(2, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))
    torch.testing.assert_close(max_pool(size, stride)(x), pooled_by_loop(x, size, stride, average=False))
    torch.testing.assert_close(average_pool(size, stride)(x), pooled_by_loop(x, size, stride, average=True))


def test_an_average_over_a_clipped_window_divides_by_the_clipped_size() -> None:
    y = average_pool(3, 2)(torch.ones(1, 1, 4, 4))
    assert y.shape == (1, 1, 2, 2)
    assert torch.equal(y, torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_a_stride_above_the_size_is_refused(pool: type) -> None:
    with pytest.raises(UsageError, match="stride of 3"):
        pool(2, 3)


def lrn_by_loop(x: Tensor, scale: float, power: float) -> Tensor:
    out = torch.zeros_like(x)
    height, width = x.shape[2:]
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i in range(height):
                for j in range(width):
                    squares = sum(
                        float(x[n, c, a, b]) ** 2
                        for a in range(max(i - 1, 0), min(i + 2, height))
                        for b in range(max(j - 1, 0), min(j + 2, width))
                    )
                    out[n, c, i, j] = x[n, c, i, j] * (1.0 + scale * squares / 9.0) ** -power
    return out


@pytest.mark.parametrize(("scale", "power"), [(5e-5, 0.75), (5.0, 3.0), (0.3, 0.01), (0.0, 0.75)])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 2, 1, 1), (1, 1, 2, 3)])
def test_lrn_is_caffes(scale: float, power: float, shape: tuple[int, ...]) -> None:
    x = 3.0 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(WithinChannelLRN(scale, power)(x), lrn_by_loop(x, scale, power))


@pytest.mark.parametrize(("scale", "power"), [(5e-5, 0.75), (5.0, 3.0), (0.3, 0.01), (0.0, 0.75)])
@pytest.mark.parametrize("size", [3, 5])
def test_the_gradient_of_lrn_is_exact(scale: float, power: float, size: int) -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer = WithinChannelLRN(scale, power, size)
    for x_ in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.autograd.gradcheck(layer, (x_.requires_grad_(),))


def test_lrn_in_single_precision_is_exact_for_the_large_values_of_a_new_cifar_network() -> None:
    x = 200.0 * torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(WithinChannelLRN()(x), lrn_by_loop(x.double(), 5e-5, 0.75).float())


def test_lrn_keeps_channels_last() -> None:
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = WithinChannelLRN()(x)
    y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1.0, 0.75), "scale"),
        ((math.inf, 0.75), "scale"),
        ((1.0, math.nan), "power"),
        ((1.0, 1.0, 2), "size"),
    ],
)
def test_an_impossible_lrn_is_refused(arguments: tuple[float, ...], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        WithinChannelLRN(*arguments)  # type: ignore[arg-type]


def test_batch_norm_trains_on_the_batch() -> None:
    x = 2.0 + 3.0 * torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(4))
    y = CaffeBatchNorm2d(2)(x)
    for c in range(2):
        values = x[:, c].flatten()
        mean = values.sum() / 36
        variance = ((values - mean) ** 2).sum() / 36
        torch.testing.assert_close(y[:, c], (x[:, c] - mean) / (variance + 1e-5).sqrt())


@pytest.mark.parametrize("batches", [1, 2, 7])
def test_batch_norm_evaluates_with_caffes_moving_averages(batches: int) -> None:
    fraction = 0.9
    layer = CaffeBatchNorm2d(2, fraction=fraction).double()
    generator = torch.Generator().manual_seed(5)
    blob_mean, blob_var, blob_scale = torch.zeros(2).double(), torch.zeros(2).double(), 0.0
    for _ in range(batches):
        x = 5.0 + 2.0 * torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=generator)
        layer(x)
        # Caffe's three blobs (batch_norm_layer.cpp): sums of means, of unbiased variances, of weights.
        blob_mean = blob_mean * fraction + x.mean((0, 2, 3))
        blob_var = blob_var * fraction + x.var((0, 2, 3), unbiased=True)
        blob_scale = blob_scale * fraction + 1.0
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=generator)
    mean, variance = ((blob / blob_scale)[None, :, None, None] for blob in (blob_mean, blob_var))
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    torch.testing.assert_close(layer.eval()(x), (x - mean) / (variance + 1e-5).sqrt())
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


def test_batch_norm_before_the_first_batch_has_zero_statistics_as_in_caffe() -> None:
    x = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(CaffeBatchNorm2d(3).eval()(x), x / math.sqrt(1e-5))


def test_batch_norm_learns_nothing_and_saves_its_statistics() -> None:
    layer = CaffeBatchNorm2d(3)
    assert list(layer.parameters()) == []
    assert list(layer.state_dict()) == ["running_mean", "running_var", "num_batches_tracked"]


@pytest.mark.parametrize(("shape", "fan_in"), [((50, 20, 5, 5), 500), ((500, 800), 800)])
def test_xavier_is_uniform_by_fan_in_alone(shape: tuple[int, ...], fan_in: int) -> None:
    torch.manual_seed(0)
    weight = xavier_(torch.empty(shape))
    bound = math.sqrt(3.0 / fan_in)
    assert 0.999 * bound < float(weight.abs().max()) <= bound
    # A uniform distribution on ±bound has standard deviation bound / sqrt(3) = 1 / sqrt(fan_in).
    assert float(weight.std()) == pytest.approx(fan_in**-0.5, rel=0.02)
    assert abs(float(weight.mean())) < 0.02 * bound


def test_gaussian_has_its_standard_deviation() -> None:
    torch.manual_seed(0)
    weight = gaussian_(torch.empty(100, 1000), 0.01)
    assert float(weight.std()) == pytest.approx(0.01, rel=0.02)
    assert abs(float(weight.mean())) < 2e-4
    # A normal distribution has 4.55 % of its mass beyond two standard deviations; a uniform one has none.
    assert float((weight.abs() > 0.02).double().mean()) == pytest.approx(0.0455, abs=0.004)


def test_biases_are_filled_with_zero() -> None:
    layer = filled(nn.Conv2d(3, 4, 3), xavier_)
    assert layer.bias is not None
    assert torch.equal(layer.bias, torch.zeros(4))
    assert filled(nn.Linear(3, 4, bias=False), xavier_).bias is None
