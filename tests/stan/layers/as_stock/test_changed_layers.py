"""What is changed in a layer that is there: settings, its forward, PyTorch's own functions; and back by restore_."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import wraps

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compared import NATIVE, agree, both, both_rates, gradients, images, network, outcome, reduced
from torch import Tensor, nn

from stantune import Stan, accelerate_, restore_
from stantune.kernels.library import plain_pytorch
from stantune.stan.config import Memo
from stantune.stan.entries.entries import Grid
from stantune.stan.layers.conv2d import _is_for_native
from stantune.stan.layers.geometry import read_window
from stantune.stan.layers.meprop import MeProp

pytestmark = NATIVE


class Side(IntEnum):
    ONE = 1


@pytest.fixture
def _new_process() -> Iterator[None]:
    """Nothing is kept of what other tests computed."""
    read_window.cache_clear()
    _is_for_native.cache_clear()
    yield
    read_window.cache_clear()
    _is_for_native.cache_clear()


@both_rates
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("padding", (4, 4)),
        ("padding", "same"),
        ("padding", 2),
        ("stride", (2, 2)),
        ("stride", 3),
        ("dilation", (2, 2)),
        ("padding_mode", "reflect"),
        ("groups", 2),
    ],
)
def test_settings_are_read_when_the_layer_is_called(rate: float, name: str, value: object) -> None:
    def work(model: nn.Module) -> object:
        setattr(model, name, value)
        if name == "groups":
            model.weight = nn.Parameter(model.weight.detach()[:, :2].clone())
        input = torch.randn(2, 4, 11, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
        output = model(input)
        output.square().sum().backward()
        return [output, output.stride(), input.grad, *gradients(model)]

    torch.manual_seed(0)
    agree(*both(nn.Conv2d(4, 8, 3, padding=1), rate, work))


@both_rates
@pytest.mark.parametrize(("name", "value"), [("padding", (3,)), ("padding", "same"), ("stride", 2), ("dilation", (2,))])
def test_settings_of_one_dimension_are_read_when_the_layer_is_called(rate: float, name: str, value: object) -> None:
    def work(model: nn.Module) -> object:
        setattr(model, name, value)
        input = torch.randn(2, 4, 17, generator=torch.Generator().manual_seed(0)).requires_grad_()
        output = model(input)
        output.square().sum().backward()
        return [output, input.grad, *gradients(model), outcome(lambda: model(input[:, :3])), model(input[0])]

    agree(*both(nn.Conv1d(4, 8, 3, padding=1), rate, work))


@pytest.mark.usefixtures("_new_process")
@both_rates
@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
@pytest.mark.parametrize("one", [np.int64(1), np.uint8(1), Side.ONE])
@pytest.mark.parametrize("twin_first", [False, True])
def test_whole_numbers_of_any_type_are_ints(rate: float, name: str, one: int, twin_first: bool) -> None:
    """Whatever the process computed before: a layer with a NumPy number alone was once never reduced."""
    input = torch.randn(2, 4, 11, 10, generator=torch.Generator().manual_seed(0))

    def output(number: int) -> Tensor:
        torch.manual_seed(0)
        return reduced(nn.Conv2d(4, 8, 3, **{name: number}), rate)(input)

    found = [output(number) for number in ((1, one) if twin_first else (one, 1))]
    assert torch.equal(*found)
    whole = nn.Conv2d(4, 8, 3, **{name: 1})
    assert (found[0][0, 0].unique().numel() < whole(input)[0, 0].unique().numel()) is (rate < 1)


@pytest.mark.usefixtures("_new_process")
@both_rates
@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
@pytest.mark.parametrize("one", [1.0, True, np.float64(1), np.True_])
def test_numbers_that_pytorch_refuses_are_refused_after_an_equal_one_was_taken(
    rate: float, name: str, one: object
) -> None:
    def work(model: nn.Module) -> object:
        input = torch.randn(2, 4, 11, 10, generator=torch.Generator().manual_seed(0))
        model(input)
        setattr(model, name, one if name == "groups" else (one, one))
        return outcome(lambda: model(input))

    found, expected = both(nn.Conv2d(4, 8, 3, padding=1), rate, work)
    assert isinstance(expected, TypeError)
    agree(found, expected)


def test_a_replaced_forward_is_called_in_a_sequence() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), nn.ReLU())
    reference = copy.deepcopy(model)
    reduced(model, 1)
    for each in (reference, model):
        each[1].forward = F.gelu
        each[4].forward = F.gelu
    agree(model(images()), reference(images()))


def test_a_replaced_forward_of_a_convolution_is_called_in_a_sequence() -> None:
    """As accelerate's hooks replace it, after and before STAN is put in."""
    for early in (False, True):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        if not early:
            reduced(model, 1)
        ran: list[str] = []
        for module in model:
            module._old_forward = module.forward

            def new(input: Tensor, module: nn.Module = module, ran: list[str] = ran) -> Tensor:
                ran.append(type(module).__name__)
                return module._old_forward(input)

            module.forward = new
        if early:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                handle = accelerate_(model, Stan(rate=0.5))
            assert "replaced" in handle.report[0].reason
        model(images())
        assert len(ran) == 2


def test_a_replaced_convolution_is_called() -> None:
    conv = nn.Conv2d(3, 8, 3)
    reduced(conv, 0.5)
    conv._conv_forward = lambda input, weight, bias: input.sum()
    assert conv(images()) == images().sum()
    assert nn.Sequential(conv)(images()) == images().sum()


def test_a_replaced_sequence_keeps_its_forward() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    model.forward = lambda input: input * 2
    reduced(model, 1)
    assert torch.equal(model(images()), images() * 2)


def test_a_replaced_function_of_pytorch_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    reduced(model, 1)
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, input: input * 0 + 7)
    assert torch.equal(model(images()).unique(), torch.tensor([7.0]))
    monkeypatch.setattr(F, "conv2d", lambda *given: torch.zeros(1))
    assert model[0](images()).shape == (1,)


def test_a_restored_model_has_nothing_of_it_left() -> None:
    model = network()
    before = [set(module.__dict__) for module in model.modules()]
    reduced(model, 0.5)
    model(images()).sum().backward()
    with torch.no_grad():
        model(images())
    restore_(model)
    assert [set(module.__dict__) for module in model.modules()] == before


def doubled(kind: type[nn.Module]) -> Callable[..., Tensor]:
    """Return a class's forward method with twice the result, as tools patch it."""
    own = kind.forward
    return wraps(own)(lambda self, *given: own(self, *given) * 2)


@both_rates
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv1d, nn.Sequential, nn.BatchNorm2d])
def test_a_forward_method_that_is_replaced_in_all_layers_is_called(
    rate: float, kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(2), nn.Conv1d(8, 4, 3))
    stock = copy.deepcopy(model)
    twin = stock if rate == 1 else reduced(copy.deepcopy(stock), rate)
    reduced(model, rate)
    inputs = {0: torch.randn(2, 3, 20, 20), 4: torch.randn(2, 8, 40)}
    before = {place: model[place](input) for place, input in inputs.items()}
    monkeypatch.setattr(kind, "forward", doubled(kind))
    with plain_pytorch():
        expected = twin(images())
    agree(model(images()), expected)
    # Of a convolution that is patched every entry is computed, of the others what STAN made of them before.
    for place, input in inputs.items():
        patched = isinstance(model[place], kind)
        agree(model[place](input), stock[place](input) if patched else before[place])


@pytest.mark.parametrize("which", ["memo", "meprop"])
def test_a_forward_method_of_linear_layers_that_is_replaced_in_all_is_called(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8))
    stock, input = copy.deepcopy(model), torch.randn(4, 6)
    if which == "memo":
        handle = accelerate_(model, Stan(memo=Memo(samples=4, epoch=1), linear=("0",)), example=input)
        handle.visit(torch.arange(4))
        model(input)
        handle.step()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accelerate_(model, Stan(meprop=MeProp(2)))
    monkeypatch.setattr(nn.Linear, "forward", doubled(nn.Linear))
    for each in (model, stock):
        each(input).square().sum().backward()
    agree(model(input), stock(input))
    agree(gradients(model), gradients(stock))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("what", ["forward", "_conv_forward", "function"])
def test_what_was_patched_before_is_reported(number: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = (F, f"conv{number}d") if what == "function" else (getattr(nn, f"Conv{number}d"), what)
    own = getattr(owner, name)
    monkeypatch.setattr(owner, name, wraps(own)(lambda *given: own(*given)))
    with pytest.warns(UserWarning, match="its forward method was replaced"):
        accelerate_(nn.Sequential(getattr(nn, f"Conv{number}d")(3, 8, 3)), Stan())
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.Conv2d(3, 8, 3))
    handle = accelerate_(model, Stan(period=None))
    assert [bool(line.patterns) for line in handle.report] == [number != 1, number != 2]
    assert handle.report[1].native is (number != 2)
    assert isinstance(model[2 - number].grid, Grid)


EARLY = """
import functools, warnings
import torch
from torch import nn

def doubled(kind):
    own = kind.forward
    return functools.wraps(own)(lambda self, *given: own(self, *given) * 2)

for kind in (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Sequential):
    kind.forward = doubled(kind)

import copy
from stantune import Stan, accelerate_
from stantune.stan.layers import fusion
fusion.may_pay = lambda *given: True
from stantune.stan.layers import conv2d, norm, pooling
conv2d.pays = norm.norm_pays = pooling.pool_pays = lambda *given: True
warnings.simplefilter("ignore")
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
stock, images = copy.deepcopy(model), torch.randn(2, 3, 20, 20)
accelerate_(model, Stan(RATE, period=None))
torch.testing.assert_close(model(images), stock(images))
"""


@both_rates
def test_what_was_patched_before_stan_was_imported_is_not_taken_for_pytorchs(rate: float) -> None:
    code = EARLY.replace("RATE", str(rate))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
