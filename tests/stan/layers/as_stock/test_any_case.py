"""Any shape, setting, type, order and grad mode, drawn by chance: PyTorch's result, or PyTorch's own error."""

from __future__ import annotations

import copy

import pytest
import torch
from compared import LAST, NATIVE, agree, both_rates, gradients, images, lying, outcome, reduced
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stantune.kernels.library import plain_pytorch
from stantune.stan.entries.entries import PLANE, Grid
from stantune.stan.layers import conv2d
from stantune.stan.layers.conv2d import StanConv2d

pytestmark = NATIVE


@st.composite
def cases(draw: st.DrawFn) -> dict:
    """A convolution and an input that may not suit each other."""
    kernel = draw(st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2))
    plain = {"dtype": torch.float32, "device": "cpu", "order": "contiguous", "dims": 4}
    odd = draw(
        st.sampled_from(
            [
                {},
                {},
                {},
                {"dtype": torch.float64},
                {"dtype": torch.float16},
                {"dtype": torch.bfloat16},
                {"dtype": torch.int64},
                {"dtype": torch.complex64},
                {"device": "meta"},
                {"dims": 3},
                {"dims": 2},
                {"dims": 5},
            ]
        )
    )
    return {
        **plain,
        "order": draw(st.sampled_from(["contiguous", "last", "sliced", "expanded", "transposed"])),
        **odd,
        "batch": draw(st.sampled_from([0, 1, 2, 3])),
        "channels": draw(st.sampled_from([1, 2, 3])),
        "given": draw(st.sampled_from([None, None, None, 1, 2, 5])),
        "filters": draw(st.sampled_from([1, 2, 5])),
        "size": draw(st.tuples(st.integers(1, 9), st.integers(1, 9))),
        "kernel": kernel,
        "stride": draw(st.sampled_from([1, 2, (1, 3), 0, -1, (1, 1, 1), [2]])),
        "padding": draw(st.sampled_from([0, 1, 2, (1, 0), "same", "valid", -1, "odd", [1, 2]])),
        "dilation": draw(st.sampled_from([1, 1, 1, 2, 0])),
        "mode": draw(st.sampled_from(["zeros"] * 4 + ["reflect", "circular"])),
        "groups": draw(st.sampled_from([1, 1, 1, 2])),
        "bias": draw(st.sampled_from([True, False, "short"])),
        "of_input": draw(st.booleans()),
        "grad": draw(st.sampled_from([torch.enable_grad, torch.no_grad, torch.inference_mode])),
        "weight_order": draw(st.sampled_from([torch.contiguous_format, LAST])),
        "follow": draw(st.sampled_from([(), ("relu",), ("relu", "max"), ("average",), ("max", "relu"), ("huge",)])),
        "rate": draw(st.sampled_from([1, 0.5])),
    }


def input_of(case: dict) -> Tensor:
    channels = case["channels"] if case["given"] is None else case["given"]
    shape = {
        2: case["size"],
        3: (channels, *case["size"]),
        4: (case["batch"], channels, *case["size"]),
        5: (1, case["batch"], channels, *case["size"]),
    }[case["dims"]]
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator)
    return lying(values, case["order"]).to(dtype=case["dtype"], device=case["device"])


def layer_of(case: dict) -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(2 * case["channels"], 2 * case["filters"], case["kernel"])
    own = torch.randn(case["filters"], case["channels"], *case["kernel"])
    conv.weight = nn.Parameter(own.contiguous(memory_format=case["weight_order"]))
    length = case["filters"] + (case["bias"] == "short")
    conv.bias = nn.Parameter(torch.randn(length)) if case["bias"] else None
    # Given after construction, which checks some of them.
    for name in ("stride", "padding", "dilation", "groups"):
        setattr(conv, name, case[name])
    conv.padding_mode = case["mode"]
    conv._reversed_padding_repeated_twice = [1, 1, 1, 1]
    kinds = {
        "relu": nn.ReLU(),
        "max": nn.MaxPool2d(2, 1),
        "average": nn.AvgPool2d(2, ceil_mode=True),
        "huge": nn.MaxPool2d(30),
    }
    return nn.Sequential(conv, *(kinds[name] for name in case["follow"]))


@settings(max_examples=600, deadline=None)
@given(case=cases())
@pytest.mark.filterwarnings("ignore")
def test_every_shape_setting_dtype_order_and_grad_mode_is_pytorchs_or_its_own_error(case: dict) -> None:
    def work(model: nn.Module) -> object:
        with case["grad"]():
            input = input_of(case)
            if case["of_input"] and (input.is_floating_point() or input.is_complex()):
                input.requires_grad_()
            output = model(input)
        found: list[object] = [tuple(output.shape), output.stride(), output.dtype, output.requires_grad]
        if output.device.type == "meta":
            return found
        upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=output.dtype)
        if output.requires_grad:
            output.backward(upstream)
        return [*found, output.detach(), input.grad, *gradients(model)]

    model = layer_of(case)
    rate = case["rate"]
    ours = reduced(copy.deepcopy(model), rate)
    # Whether an error is raised, and which, does not depend on how many entries are computed.
    stock = outcome(lambda: work(copy.deepcopy(model)))
    if isinstance(stock, Exception) or rate == 1 or case["device"] == "meta" or case["grad"] is not torch.enable_grad:
        expected = stock
    else:
        with plain_pytorch():
            expected = work(reduced(copy.deepcopy(model), rate))
        assert isinstance(expected, list)
        assert isinstance(stock, list)
        expected[:4] = stock[:4]
    agree(outcome(lambda: work(ours)), expected, 2e-2 if case["dtype"] in (torch.float16, torch.bfloat16) else 1e-4)


@pytest.mark.parametrize(
    ("input", "kernel"),
    [
        (torch.randn(2, 1, 16, 16), 3),
        (torch.randn(2, 7, 16, 16), 3),
        (torch.randn(2, 3, 4, 4), 5),
        (torch.randn(2, 3), 3),
        (torch.randn(2, 3, 16, 16).double(), 3),
    ],
    ids=["few channels", "many channels", "large kernel", "two dimensions", "float64"],
)
@both_rates
def test_what_pytorch_refuses_is_refused_in_its_words_with_the_layers_name(
    rate: float, input: Tensor, kernel: int
) -> None:
    conv = nn.Conv2d(3, 8, kernel)
    model = nn.ModuleDict({"features": nn.Sequential(conv, nn.ReLU())})
    with pytest.raises(Exception) as stock:  # noqa: PT011
        copy.deepcopy(conv)(input)
    reduced(model, rate)
    for call in (conv, model["features"]):
        with pytest.raises(type(stock.value)) as found:
            call(input)
        assert str(found.value) == str(stock.value)
        assert "features.0" in found.value.__notes__[0]


def test_native_code_is_still_used_where_it_was_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    apply = conv2d.convolve
    monkeypatch.setattr(conv2d, "convolve", lambda *given: calls.append(given) or apply(*given))
    for grid in (None, Grid(PLANE["columns"], 0, 0)):
        conv = nn.Conv2d(3, 8, 3)
        conv.__class__ = StanConv2d
        conv.grid = grid
        output = conv(images())
        assert type(output.grad_fn).__name__ == ("_BlockBackward")
    assert [given[5] is None for given in calls] == [True, False]
