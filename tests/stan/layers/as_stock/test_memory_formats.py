"""Outputs and gradients lie in memory as those of stock layers."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compared import LAST, NATIVE, agree, both_rates, gradients, images, network, reduced
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.kernels.block.layout import is_last

pytestmark = NATIVE


def ordered(gradient: Tensor) -> object:
    """Return the strides, where they make a difference."""
    same = gradient.is_contiguous() and gradient.is_contiguous(memory_format=LAST) if gradient.dim() == 4 else True
    return same or gradient.stride()


@both_rates
@pytest.mark.parametrize("follow", [(), (nn.ReLU(),), (nn.ReLU(), nn.MaxPool2d(2)), (nn.AvgPool2d(2),)], ids=len)
def test_outputs_and_gradients_have_the_memory_format_that_pytorch_would_give(rate: float, follow: tuple) -> None:
    torch.manual_seed(0)
    for channels, filters, side, batch, kernel in itertools.product((1, 3), (1, 4), (1, 2, 6), (1, 3), (1, 3)):
        for input_order, weight_order in itertools.product((torch.contiguous_format, LAST), repeat=2):
            conv = nn.Conv2d(channels, filters, kernel, padding=kernel // 2).to(memory_format=weight_order)
            model = nn.Sequential(conv, *(follow if side > 1 else follow[:1] * (len(follow) > 0 and rate == 2)))
            input = torch.randn(batch, channels, side, side).to(memory_format=input_order)
            found = []
            for each in (copy.deepcopy(model), reduced(copy.deepcopy(model), rate)):
                own = input.clone().requires_grad_()
                output = each(own)
                output.sum().backward()
                found.append([output.stride(), *(ordered(one) for one in [own.grad, *gradients(each)])])
            assert found[0] == found[1], (input.shape, input.stride(), conv.weight.stride())


def test_channels_last_can_be_asked_for_and_changes_nothing_else() -> None:
    model = network()
    stock = copy.deepcopy(model).to(memory_format=LAST)
    parameters = list(model.parameters())
    accelerate_(model, Stan(rate=0.5), memory_format=LAST)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    for each in (model, stock):
        assert is_last(each[0](images()))
        each(images()).square().sum().backward()
    agree(gradients(model), gradients(stock))
    assert [one.grad.stride() for one in parameters] == [one.grad.stride() for one in stock.parameters()]


def test_an_output_can_be_viewed_and_dropped_as_stocks() -> None:
    conv = nn.Conv2d(3, 8, 3)
    stock = copy.deepcopy(conv)
    reduced(conv, 1)
    masks = []
    for each in (stock, conv):
        output = each(images())
        output.view(len(output), -1)
        torch.manual_seed(0)
        masks.append(F.dropout(output, 0.5) == 0)
    assert torch.equal(*masks)


@pytest.mark.parametrize("settings", [{"memory_format": LAST}, {"example": images()}], ids=["format", "example"])
def test_layers_that_have_no_weights_yet_are_left_for_their_first_input(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    handle = accelerate_(model, Stan(rate=0.5), **settings)
    assert is_last(model[0].weight) == ("memory_format" in settings)
    assert "no weights before its first input" in handle.report[1].reason
    stock = copy.deepcopy(model)
    stock(images())
    model.load_state_dict(stock.state_dict())
    agree(model(images()), stock(images()))


def test_a_layout_that_cannot_be_had_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    before = [parameter.data_ptr() for parameter in model.parameters()]

    def fails(self: Tensor, **given: object) -> Tensor:
        if len(self) == 4:
            raise torch.OutOfMemoryError
        return contiguous(self, **given)

    contiguous = Tensor.contiguous
    monkeypatch.setattr(Tensor, "contiguous", fails)
    with pytest.raises(torch.OutOfMemoryError):
        accelerate_(model, Stan(), memory_format=LAST)
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
