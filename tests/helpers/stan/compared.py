"""Layers with STAN and without, under the same work: what both come to, and whether that is the same."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stantune import Stan, accelerate_
from stantune.kernels.library import kernels, plain_pytorch

# Of each test here: it is of the native layers, on batches that are quickest on one thread.
NATIVE = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}"),
]
LAST = torch.channels_last
both_rates = pytest.mark.parametrize("rate", [1, 0.5])

Work = Callable[[nn.Module], object]


def network() -> nn.Sequential:
    """Convolutions with and without what is run along with them, for `images`."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 2 * 2, 4),
    )


def images(number: int = 4) -> Tensor:
    """Return (N, 3, 20, 20)."""
    return torch.randn(number, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def smooth() -> nn.Sequential:
    """A network that has second derivatives, for `few`."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )


def few() -> Tensor:
    """Return (2, 2, 8, 8)."""
    return torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(3))


def reduced(model: nn.Module, rate: float = 0.5) -> nn.Module:
    """Have STAN compute this share of the entries, for good."""
    accelerate_(model, Stan(rate=rate, period=None))
    return model


def both(model: nn.Module, rate: float, work: Work) -> tuple[object, object]:
    """Return what `work` makes of the accelerated model, and of its reference."""
    reference, ours = copy.deepcopy(model), reduced(copy.deepcopy(model), rate)
    if rate == 1:
        return work(ours), work(reference)
    with plain_pytorch():
        expected = work(reduced(reference, rate))
    return work(ours), expected


def agree(found: object, expected: object, tolerance: float = 1e-4) -> None:
    """Compare tensors, errors, and what holds them."""
    if isinstance(expected, Exception):
        assert isinstance(found, Exception), f"expected {expected!r}"
        assert (type(found), str(found)) == (type(expected), str(expected))
    elif isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        assert found.dtype == expected.dtype
        assert found.device == expected.device
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for key in expected:
            agree(found[key], expected[key], tolerance)
    elif isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple)
        for one, other in zip(found, expected, strict=True):
            agree(one, other, tolerance)
    else:
        assert found == expected


def outcome(work: Callable[[], object]) -> object:
    """Return what comes of it, which may be an error."""
    try:
        return work()
    except Exception as error:
        return error


def gradients(model: nn.Module) -> list[Tensor | None]:
    """Return those of all parameters."""
    return [parameter.grad for parameter in model.parameters()]


def lying(values: Tensor, order: str) -> Tensor:
    """Return the same values (N, C, ..) as they lie in memory in another order; those of "expanded" repeat a column."""
    if order == "last" and values.dim() == 4:
        return values.contiguous(memory_format=LAST)
    if order == "sliced":
        return torch.stack([values, values], -1)[..., 0]
    if order == "expanded":
        return values[..., :1].expand(values.shape)
    if order == "transposed" and values.dim() > 1:
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    return values


class Tagged(Tensor):
    """A subclass that does nothing of its own."""


class Noted(TorchDispatchMode):
    """A mode that looks on."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))
