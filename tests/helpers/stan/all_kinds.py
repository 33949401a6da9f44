"""A network with every kind of layer that STAN knows, beside the stock one, for the tests of PyTorch's tools."""

from __future__ import annotations

import pytest
import torch
from compared import NATIVE
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.stan.config import Memo
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.linear import StanLinear
from stantune.stan.layers.meprop import MeProp, MePropLinear

# PyTorch's tools warn of themselves.
QUIET = [
    *NATIVE,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def network() -> nn.Sequential:
    """Two sequences whose convolutions STAN runs together with what follows them, and two linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


def images() -> Tensor:
    """Return (4, 3, 10, 10)."""
    return torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def all_kinds(model: nn.Module) -> nn.Module:
    """Have every kind of layer that STAN knows in a `network`."""
    memo = Memo(samples=4, epoch=1)
    stan = Stan(rate=0.5, memo=memo, linear=("3",), meprop=MeProp(top_k=2, layers=("5",)))
    accelerate_(model, stan, example=images()).visit(torch.arange(4))
    assert [type(model.get_submodule(name)) for name in ("0.0", "3", "5")] == [StanConv2d, StanLinear, MePropLinear]
    return model


def trained(model: nn.Module, twice: bool = False) -> list[Tensor]:
    """Return output and gradients of a training pass, the second of two where asked for."""
    for _ in range(1 + twice):
        model.zero_grad()
        output = model(images())
        output.square().sum().backward()
    return [output.detach(), *(parameter.grad for parameter in model.parameters())]


def agree(found: object, expected: object, largest: float = 1) -> None:
    """Compare tensors, to a ten-thousandth of the largest of them."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * largest)
