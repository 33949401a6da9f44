"""Tensors that native code must not touch, as what is not finite, complex, fake, sparse: as in stock layers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from compared import LAST, NATIVE, Tagged, agree, both_rates, gradients, images, network, outcome, reduced
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from stantune import Stan, accelerate_

pytestmark = NATIVE


@pytest.mark.parametrize(
    "following",
    [(), (nn.ReLU(),), (nn.MaxPool2d(2),), (nn.ReLU(), nn.AvgPool2d(2))],
    ids=["alone", "relu", "maximum", "average"],
)
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_what_is_not_finite_is_not_lost(kernel: int, following: tuple) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, kernel), *following)
    stock = copy.deepcopy(model)
    accelerate_(model, Stan(rate=1))
    images = torch.randn(2, 3, 20, 20)
    images[0, 0, 5, 5], images[1, 1, 3, 3], images[1, 2, 15, 15] = torch.nan, torch.inf, -torch.inf
    one, other = model(images), stock(images)
    assert one[~other.isfinite()].isfinite().sum() == 0
    for output in (one, other):
        output.sum().backward()
    for mine, theirs in zip(model.parameters(), stock.parameters(), strict=True):
        assert mine.grad[~theirs.grad.isfinite()].isfinite().sum() == 0


@pytest.mark.filterwarnings("ignore:Complex modules", "ignore:STAN changes nothing")
@pytest.mark.parametrize("rate", [1, 0.5, 0.25])
def test_complex_numbers_are_pytorchs(rate: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).to(torch.complex64)
    stock = copy.deepcopy(model)
    images = torch.randn(2, 3, 20, 20, dtype=torch.complex64)
    handle = accelerate_(model, Stan(rate=rate, period=None))
    assert (handle.phase == "reduced") == (rate < 1)
    for order in (torch.contiguous_format, LAST):
        one, other = (each(images.contiguous(memory_format=order)) for each in (model, stock))
        assert torch.equal(one, other)
        for each, output in ((model, one), (stock, other)):
            each.zero_grad()
            output.abs().sum().backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), stock.parameters(), strict=True))
    assert torch.equal(torch.func.vmap(model)(images), torch.func.vmap(stock)(images))


@both_rates
def test_fake_and_meta_tensors_have_pytorchs_shapes(rate: float) -> None:
    model = reduced(network(), rate)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert model(torch.randn(4, 3, 20, 20)).shape == (4, 4)
    with FakeTensorMode():
        fake = reduced(network(), rate)
        output = fake(torch.randn(4, 3, 20, 20))
        output.sum().backward()
    assert output.shape == (4, 4)
    model.to("meta")
    output = model(images().to("meta"))
    output.sum().backward()
    assert output.device.type == "meta"
    with torch.device("meta"):
        made = reduced(network(), rate)
        assert made(torch.randn(4, 3, 20, 20)).shape == (4, 4)


def masked(input: Tensor) -> Tensor:
    return torch.masked.masked_tensor(input, torch.ones_like(input, dtype=torch.bool))


STRANGE: dict[str, Callable[[Tensor], object]] = {
    "subclass": lambda input: input.as_subclass(Tagged),
    "sparse": lambda input: input.to_sparse(),
    "mkldnn": lambda input: input.to_mkldnn(),
    "negated": lambda input: torch.complex(input, -input).conj().imag,
    "zeros": lambda input: torch._efficientzerotensor(input.shape),
    "masked": masked,
    "nested": lambda input: torch.nested.nested_tensor(list(input)),
    "a list": lambda input: input.tolist(),
    "none": lambda input: None,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("alone", [True, False])
def test_strange_tensors_are_pytorchs(kind: str, alone: bool) -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    model: nn.Module = conv if alone else nn.Sequential(conv, nn.ReLU())

    def work(model: nn.Module) -> object:
        def passes() -> object:
            output = model(STRANGE[kind](images()))
            if isinstance(output, Tensor) and type(output) is Tensor and output.layout is torch.strided:
                output.sum().backward()
            return [type(output), output.to_dense() if output.layout is not torch.strided else output, gradients(model)]

        found = outcome(passes)
        return type(found) if isinstance(found, AssertionError) else found

    reference = work(copy.deepcopy(model))
    found = work(reduced(model, 1))
    if isinstance(reference, list) and reference[0] not in (Tensor, Tagged):
        assert isinstance(found, list)
        assert found[0] == reference[0]
    else:
        agree(found, reference)
