"""Modes, defaults and programs around a layer, which native code must not run by: as with stock layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from compared import NATIVE, Noted, agree, both, both_rates, gradients, images, network, reduced
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from stantune import restore_
from stantune.errors import UsageError
from stantune.stan.layers.conv2d import StanConv2d

pytestmark = NATIVE


@both_rates
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_default_dtype_changes_nothing(rate: float, dtype: torch.dtype) -> None:
    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        torch.set_default_dtype(dtype)
        try:
            model(input).square().sum().backward()
        finally:
            torch.set_default_dtype(torch.float32)
        return [input.grad, *gradients(model)]

    agree(*both(network(), rate, work))


@both_rates
def test_a_default_device_changes_nothing(rate: float) -> None:
    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        with torch.device("meta"):
            output = model(input)
        output.square().sum().backward()
        return [output, input.grad, *gradients(model)]

    agree(*both(network(), rate, work))


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "dispatch": Noted,
    "function": BaseTorchFunctionMode,
    "flops": lambda: FlopCounterMode(display=False),
    "anomaly": torch.autograd.detect_anomaly,
    "profiler": torch.profiler.profile,
    "dual level": forward_ad.dual_level,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "functionalize": nullcontext,
}


@both_rates
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["forward", "backward", "both"])
def test_modes_change_nothing(rate: float, mode: str, where: str) -> None:
    strange = mode in ("dispatch", "function", "flops", "dual level") and where != "backward"

    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        with MODES[mode]() if where != "backward" else nullcontext():
            output = model(input)
            if where == "both":
                output.square().sum().backward()
        if where != "both":
            with MODES[mode]() if where == "backward" else nullcontext():
                output.square().sum().backward()
        return [output, input.grad, *gradients(model)]

    # A layer under a mode that looks on is the original.
    reference = copy.deepcopy(network())
    if strange and rate != 1:
        found = work(reduced(copy.deepcopy(reference), rate))
        agree(found, work(reference), 1e-4)
    else:
        agree(*both(reference, rate, work), 0.05 if mode == "autocast" else 1e-4)


def test_flops_are_counted() -> None:
    model = network()
    counts = []
    for each in (copy.deepcopy(model), reduced(model, 1)):
        with FlopCounterMode(display=False) as counter:
            each(images()).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_make_fx_and_trace_record_the_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    stock, expected = copy.deepcopy(model), model(images())
    reduced(model, 0.5)
    agree(make_fx(model)(images())(images()), expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        agree(make_fx(model)(mode.from_tensor(images())).code, make_fx(stock)(mode.from_tensor(images())).code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(torch.jit.trace(model, images())(images()), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, False])
def test_graphs_and_exports_are_stocks_and_scripts_say_what_to_do(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)))
    stock = copy.deepcopy(model)
    reduced(model, 0.5).train(training)
    traced = torch.fx.symbolic_trace(model)
    assert [str(node) for node in traced.graph.nodes] == [
        str(node) for node in torch.fx.symbolic_trace(stock).graph.nodes
    ]
    for each in (model, model[0], nn.ModuleList([model[0]])):
        with pytest.raises(UsageError, match="restore_"):
            torch.jit.script(each)
    assert type(model[0]) is StanConv2d
    agree(torch.export.export(model.eval(), (images(),)).module()(images()), stock(images()))
    own = copy.deepcopy(model)
    restore_(own)
    agree(torch.jit.script(own)(images()), stock(images()))
