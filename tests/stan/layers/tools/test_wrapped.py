"""Tools that wrap a layer's own forward once STAN is in it: the layer is PyTorch's again after restore_."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from all_kinds import QUIET, agree, all_kinds, images, network, trained
from compared import reduced
from torch import Tensor, nn

from stantune import restore_
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.layers.fusion import StanSequential
from stantune.stan.layers.linear import StanLinear
from stantune.stan.layers.meprop import MePropLinear
from stantune.stan.layers.norm import StanBatchNorm2d
from stantune.stan.layers.pooling import StanAvgPool2d, StanMaxPool2d
from stantune.stan.surgery import ORIGINAL

pytestmark = QUIET


def wrapped(model: nn.Module) -> nn.Module:
    """Wrap each layer's forward, as accelerate's hooks do."""
    for module in model.modules():
        module._old_forward = module.forward

        def forward(*given: Tensor, module: nn.Module = module) -> Tensor:
            return module._old_forward(*given)

        module.forward = forward
    return model


def evaluated(model: nn.Module) -> Tensor:
    return model.eval()(images())


@pytest.mark.parametrize("accelerated", [lambda model: reduced(model, 1), reduced, all_kinds])
@pytest.mark.parametrize("work", [trained, evaluated])
def test_a_wrapped_model_is_stock_once_it_is_restored(accelerated: Callable, work: Callable) -> None:
    model = wrapped(accelerated(network()))
    trained(model)
    restore_(model)
    stock = network()
    stock.load_state_dict(model.state_dict())
    found, expected = work(model), work(stock)
    agree(found, expected)
    torch._dynamo.reset()
    agree(torch.compile(model.eval(), backend="eager", fullgraph=True)(images()), stock.eval()(images()))


FORWARDS: dict[type[nn.Module], tuple[nn.Module, tuple[int, ...]]] = {
    StanConv1d: (nn.Conv1d(3, 4, 3), (2, 3, 9)),
    StanConv2d: (nn.Conv2d(3, 4, 3), (2, 3, 9, 9)),
    StanLinear: (nn.Linear(3, 4), (2, 3)),
    MePropLinear: (nn.Linear(3, 4), (2, 3)),
    StanBatchNorm2d: (nn.BatchNorm2d(3), (2, 3, 9, 9)),
    StanMaxPool2d: (nn.MaxPool2d(2), (2, 3, 8, 8)),
    StanAvgPool2d: (nn.AvgPool2d(2), (2, 3, 8, 8)),
    StanSequential: (nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (2, 3)),
}


@pytest.mark.parametrize("kind", [*ORIGINAL, MePropLinear])
@pytest.mark.parametrize("training", [True, False])
def test_every_forward_of_stans_does_what_the_layers_class_does_now(kind: type[nn.Module], training: bool) -> None:
    layer, shape = FORWARDS[kind]
    layer.train(training)
    input = torch.randn(shape)
    assert torch.equal(kind.forward(layer, input), layer(input))
