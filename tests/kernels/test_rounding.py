"""Rounding errors of native kernels, against double precision and beside stock PyTorch's."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from benchmarks.kernels import rounding
from stantune.kernels.block import native
from stantune.kernels.block.convolve import convolve
from stantune.kernels.library import WINOGRAD, kernels

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}"),
]


@pytest.fixture
def filtering(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what sets how convolutions are done, one of WINOGRAD."""
    found = kernels()
    return lambda way: monkeypatch.setattr(native, "kernels", lambda: found._replace(winograd=WINOGRAD.index(way)))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels", [16, 256])
@pytest.mark.parametrize(("way", "most"), [("off", 1.3), ("always", 4.0)])
def test_a_layers_errors_stay_beside_pytorchs_at_any_number_of_channels(
    filtering: Callable[[str], None], kernel: int, channels: int, way: str, most: float
) -> None:
    filtering(way)
    contiguous, _, native = rounding.of_layer(channels, kernel, 8, batch=2)
    for own, its in zip(native, contiguous, strict=True):
        assert own <= most * its


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("largest", [1e6, -9999.0])
def test_what_is_filtered_together_has_errors_of_its_largest_number(
    filtering: Callable[[str], None], kernel: int, largest: float
) -> None:
    """As docs/kernels.md says of a hot pixel, and of values for what is missing."""
    torch.manual_seed(0)
    input = torch.randn(1, 16, 16, 12, requires_grad=True)
    weight, gradient = torch.randn(16, 16, kernel, kernel) / (16 * kernel**2) ** 0.5, torch.randn(1, 16, 16, 12)
    for each in (input, gradient):
        each.data[0, 0, 0, 5] = largest
    reach = kernel // 2

    def both(output: torch.Tensor) -> list[torch.Tensor]:
        return [output.double(), torch.autograd.grad(output, input, gradient.to(output.dtype))[0].double()]

    exact = both(F.conv2d(input.double(), weight.double(), padding=reach))
    for way in ("off", "always"):
        filtering(way)
        found = both(convolve(input, weight, None, (1, 1), (reach,) * 4))
        # Of four outputs, and of the rows of the input that they see.
        for one, other, together in zip(found, exact, (4, 4 + reach), strict=True):
            of_row = (one - other).abs().amax((0, 1, 3))
            unseen = of_row[reach + 1 : together].max()
            assert unseen < 1e-5 if way == "off" else 1e-8 < unseen / abs(largest) < 5e-7
            assert of_row[together:].max() < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "filters"), [(7, 300), (129, 5), (43, 130), (300, 40)])
def test_sums_that_end_within_a_chain_are_whole(stride: int, channels: int, filters: int) -> None:
    torch.manual_seed(0)
    input = torch.randn(2, channels, 6, 6, requires_grad=True)
    weight = torch.randn(filters, channels, 3, 3, requires_grad=True)
    bias = torch.randn(filters, requires_grad=True)
    leaves = (input, weight, bias)
    output = convolve(*leaves, (stride, stride), (1, 1, 1, 1))
    exact = F.conv2d(*(each.double() for each in leaves), stride, 1)
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, leaves, upstream)
    its = torch.autograd.grad(exact, leaves, upstream.double())
    assert rounded(output, exact)
    assert all(rounded(one, other) for one, other in zip(found, its, strict=True))


def rounded(found: torch.Tensor, exact: torch.Tensor) -> bool:
    return float((found - exact).norm() / exact.norm()) < 2e-6


@pytest.mark.parametrize("network", ["SqueezeNet", "VGG-13", "U-Net"])
def test_a_networks_gradients_are_as_near_to_the_exact_ones_as_pytorchs(network: str) -> None:
    errors = rounding.of_network(rounding.NETWORKS[network], 2, 32, seed=0)
    # The median: a ReLU or a maximum that rounding decides otherwise moves a few parameters a thousand times as far.
    stock, native = (statistics.median(errors[way].values()) for way in ("stock", "native"))
    assert native <= 2 * stock


def test_a_step_that_pytorch_rounds_badly_is_badly_conditioned() -> None:
    """Batch norm over two positions: what it divides by is a difference of two numbers."""
    found = [rounding.of_network(rounding.NETWORKS["ResNet-18"], 2, 32, seed) for seed in range(4)]
    stock, native = (
        statistics.geometric_mean(max(errors[way].values()) for errors in found) for way in ("stock", "native")
    )
    assert stock > 3e-4  # a hundred times what it is at 64x64, by PyTorch alone
    assert native <= 10 * stock
