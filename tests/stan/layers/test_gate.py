"""Accelerated layers under all that PyTorch's users do with layers: equal to PyTorch, or PyTorch's own error.

Exact layers are compared with stock ones, reduced ones with the same reduced layers in plain PyTorch.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from stantune import Stan, accelerate_, restore_
from stantune.errors import UsageError
from stantune.kernels.block.layout import is_last
from stantune.kernels.library import kernels, plain_pytorch
from stantune.stan.config import Memo
from stantune.stan.entries.entries import PLANE, EntryMatrix, Grid
from stantune.stan.layers import conv2d, stan_layer
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.meprop import MePropLinear

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}"),
]
LAST = torch.channels_last
both_rates = pytest.mark.parametrize("rate", [1, 0.5])

Work = Callable[[nn.Module], object]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 5, 1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 2 * 2, 4),
    )


def images(number: int = 4) -> Tensor:
    return torch.randn(number, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def reduced(model: nn.Module, rate: float) -> nn.Module:
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
    try:
        return work()
    except Exception as error:
        return error


def gradients(model: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in model.parameters()]


# 1. What lies between the passes.


@contextmanager
def overwritten() -> Iterator[None]:
    """Give back copies of what is saved, and spoil what was saved in forward where it is nobody else's."""

    def pack(tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def unpack(packed: Tensor) -> Tensor:
        fresh = packed.clone()
        packed.zero_()
        return fresh

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


@contextmanager
def in_another_order() -> Iterator[None]:
    """Give back what was saved in the other memory format."""

    def unpack(packed: Tensor) -> Tensor:
        if packed.dim() != 4:
            return packed.clone()
        other = torch.contiguous_format if is_last(packed) else LAST
        return packed.contiguous(memory_format=other).clone(memory_format=other)

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach().clone(), unpack):
        yield


BETWEEN: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "on the CPU": torch.autograd.graph.save_on_cpu,
    "overwritten": overwritten,
    "in another order": in_another_order,
}


@both_rates
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("order", [torch.contiguous_format, LAST])
def test_hooks_on_saved_tensors_give_pytorchs_gradients(rate: float, between: str, order: torch.memory_format) -> None:
    def work(model: nn.Module) -> object:
        input = images().contiguous(memory_format=order).requires_grad_()
        with BETWEEN[between]():
            output = model(input)
        # Memory that was forward's is somebody else's by now.
        spoil = [torch.full((64, 64), float("nan")) for _ in range(50)]
        output.square().sum().backward()
        assert spoil
        return [input.grad, *gradients(model)]

    agree(*both(network(), rate, work))


@both_rates
def test_a_checkpoint_gives_pytorchs_gradients(rate: float) -> None:
    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        output = checkpoint(model, input, use_reentrant=False)
        spoil = [torch.full((64, 64), float("nan")) for _ in range(50)]
        output.square().sum().backward()
        assert spoil
        return [output, input.grad, *gradients(model)]

    agree(*both(network(), rate, work))


def test_a_reentrant_checkpoint_trains_exactly_and_says_so() -> None:
    stan_layer._say_reentrant.cache_clear()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    reference, input = copy.deepcopy(model), images()
    reference(input).square().sum().backward()
    reduced(model, 0.5)
    with pytest.warns(UserWarning, match="use_reentrant=False"):
        checkpoint(model, input.requires_grad_(), use_reentrant=True).square().sum().backward()
    agree(gradients(model), gradients(reference))


@both_rates
def test_data_that_is_swapped_between_the_passes_is_read(rate: float) -> None:
    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        output = model(input)
        for parameter in model.parameters():
            parameter.data = parameter.data * 2
        output.square().sum().backward()
        return [input.grad, *gradients(model)]

    agree(*both(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)), rate, work))


@both_rates
@pytest.mark.parametrize("what", ["weight", "input", "bias"])
def test_what_is_changed_in_place_between_the_passes_is_refused_as_by_pytorch(rate: float, what: str) -> None:
    def work(model: nn.Module) -> object:
        input = images().requires_grad_()
        middle = input * 1
        output = model(middle)
        with torch.no_grad():
            (middle if what == "input" else getattr(model, what)).add_(1)
        error = outcome(lambda: output.sum().backward())
        return [type(error), str(error).partition("[torch")[0]] if error else gradients(model)

    agree(*both(nn.Conv2d(3, 8, 3, padding=1), rate, work))


# 2. What PyTorch refuses.


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
    if case["order"] == "last" and values.dim() == 4:
        values = values.contiguous(memory_format=LAST)
    elif case["order"] == "sliced":
        values = torch.stack([values, values], -1)[..., 0]
    elif case["order"] == "expanded":
        values = values[..., :1].expand(shape)
    elif case["order"] == "transposed":
        values = values.transpose(-1, -2).contiguous().transpose(-1, -2)
    return values.to(dtype=case["dtype"], device=case["device"])


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


# 3. Tensors and modes that native code must not touch.


class Tagged(Tensor):
    """A subclass that does nothing of its own."""


class Noted(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Watched(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


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


@pytest.mark.parametrize("rate", [1, 0.5])
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


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "dispatch": Noted,
    "function": Watched,
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


# 4. Settings that are changed after construction.


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


# 5. Memory formats.


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


# 6. Derivatives of derivatives.


def smooth() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )


def few() -> Tensor:
    return torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(3))


@both_rates
def test_hessian_vector_products_are_pytorchs(rate: float) -> None:
    def work(model: nn.Module) -> object:
        last = nn.Conv2d(2, 4, 3)  # the loss is linear in its output
        last.load_state_dict(model[0].state_dict())
        vectors = torch.randn(few().shape, generator=torch.Generator().manual_seed(4))

        def loss(input: Tensor) -> Tensor:
            return model(input).square().sum()

        return torch.autograd.functional.hvp(loss, few(), vectors)

    agree(*both(smooth(), rate, work))


@both_rates
def test_mixed_derivatives_of_input_and_weight_are_pytorchs(rate: float) -> None:
    """A loss that is linear in the layer's output: what the gradient lacks would be lost without a word."""

    def work(model: nn.Module) -> object:
        input = few().requires_grad_()
        (first,) = torch.autograd.grad(model(input).sum(), input, create_graph=True)
        return torch.autograd.grad(first.square().sum(), model.weight)

    agree(*both(nn.Conv2d(2, 4, 3, padding=1), rate, work))


@both_rates
def test_gradient_penalties_are_pytorchs(rate: float) -> None:
    def work(model: nn.Module) -> object:
        input = few().requires_grad_()
        (first,) = torch.autograd.grad(model(input).square().sum(), input, create_graph=True)
        (first.flatten(1).norm(dim=1) - 1).square().sum().backward()
        return [input.grad, *gradients(model)]

    agree(*both(smooth(), rate, work))


@pytest.mark.parametrize("unified", [True, False])
def test_meprop_refuses_second_derivatives_where_the_loss_is_linear_in_its_output(unified: bool) -> None:
    layer = MePropLinear(6, 8, top_k=2, unified=unified)
    input = torch.randn(4, 6, requires_grad=True)
    (first,) = torch.autograd.grad(layer(input).sum(), input, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.square().sum().backward()


def test_meprop_is_ordinary_under_several_transforms() -> None:
    layer, stock = MePropLinear(6, 8, top_k=2), nn.Linear(6, 8)
    stock.load_state_dict(layer.state_dict())

    def second(layer: nn.Module) -> object:
        def first(x: Tensor) -> Tensor:
            return torch.func.grad(lambda x: layer(x).pow(3).sum())(x).square().sum()

        return torch.func.grad(first)(few().view(-1, 8)[:, :6])

    agree(second(layer), second(stock))


def test_any_entries_have_the_second_derivatives_of_what_they_compute() -> None:
    torch.manual_seed(0)
    entries = torch.rand(2, 6, 6) < 0.4
    entries[:, 0, 0] = True

    def passes(model: nn.Module, plain: bool) -> object:
        input = few().requires_grad_()
        with plain_pytorch() if plain else nullcontext():
            (first,) = torch.autograd.grad(model(input).sum(), input, create_graph=True)
            return torch.autograd.grad(first.square().sum(), model.weight)

    conv = nn.Conv2d(2, 4, 3)
    conv.__class__ = StanConv2d
    conv.grid = EntryMatrix(entries)
    native, plain = passes(conv, False), passes(conv, True)
    agree(native, plain)
    double = copy.deepcopy(conv).double()
    double.grid = conv.grid
    again = torch.randn(2, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, *_: double(x), (again, *double.parameters()))


# 7. What others have patched.


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


# 9. Transforms.


@both_rates
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "jacrev", "jacfwd", "hessian", "per sample", "dual"])
def test_transforms_of_torch_func_are_stocks(rate: float, transform: str) -> None:
    def work(model: nn.Module) -> object:
        parameters = dict(model.named_parameters())
        x = few()

        def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model, parameters, (x,)).square().sum()

        if transform == "grad":
            return torch.func.grad(loss)(parameters, x)
        if transform == "vmap":
            return torch.vmap(model)(torch.stack([x, x + 1]))
        if transform == "jvp":
            return torch.func.jvp(model, (x,), (torch.ones_like(x),))
        if transform == "jacrev":
            return torch.func.jacrev(model)(x)
        if transform == "jacfwd":
            return torch.func.jacfwd(model)(x)
        if transform == "hessian":
            return torch.func.hessian(lambda x: loss(parameters, x))(x[:1, :, :4, :4])
        if transform == "dual":
            with forward_ad.dual_level():
                return list(forward_ad.unpack_dual(model(forward_ad.make_dual(x, torch.ones_like(x)))))
        each = torch.func.vmap(torch.func.grad(lambda p, x: loss(p, x[None])), in_dims=(None, 0))
        return each({name: value.detach() for name, value in parameters.items()}, x)

    agree(*both(smooth(), rate if transform != "dual" else 1, work))


@both_rates
@pytest.mark.filterwarnings("ignore")
def test_gradients_of_each_sample_add_up_to_the_batchs(rate: float) -> None:
    """As Opacus takes them: by a transform, beside a pass of the whole batch."""
    model = reduced(smooth(), rate)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, few())
    model(few()).square().sum().backward()
    agree([one.sum(0) for one in each.values()], gradients(model))


@both_rates
@pytest.mark.filterwarnings("ignore")
def test_batched_gradients_are_pytorchs(rate: float) -> None:
    def work(model: nn.Module) -> object:
        input = few().requires_grad_()
        output = model(input)
        upstream = torch.randn(3, *output.shape, generator=torch.Generator().manual_seed(5))
        return torch.autograd.grad(output, [input, *model.parameters()], upstream, is_grads_batched=True)

    agree(*both(smooth(), rate, work))


# 11. Passes without gradients.


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_passes_without_gradients_are_exact(without: Callable[[], AbstractContextManager[object]]) -> None:
    model = network()
    reference = copy.deepcopy(model)
    reduced(model, 0.25)
    loader = [images(8) + shift for shift in range(3)]
    with without():
        for batch in loader:
            agree(model(batch), reference(batch))
    agree(list(model.buffers()), list(reference.buffers()))
    torch.optim.swa_utils.update_bn(loader, model)
    torch.optim.swa_utils.update_bn(loader, reference)
    agree(list(model.buffers()), list(reference.buffers()))


def test_passes_without_gradients_leave_the_memory_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 18 * 18, 4))
    stock = copy.deepcopy(model)
    memo = Memo(samples=4, epoch=1)
    handle = accelerate_(model, Stan(rate=0.5, period=2, memo=memo, linear=("3",)), example=images())
    for _ in range(3):
        with torch.no_grad():  # before anybody has said which samples these are
            agree(model(images()), stock(images()))
        handle.visit(torch.arange(4))
        model(images()).sum().backward()
        with torch.no_grad():
            agree(model(images()), stock(images()))
        handle.step()


def test_passes_without_gradients_choose_nothing_and_count_for_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    handle = accelerate_(model, Stan(rate=0.5, tolerance=0.9))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(201):
            model(images(1))
    assert not handle.history
    model(images(1))
    assert len(handle.history) == 1


# What remains after all of this.


def test_a_restored_model_has_nothing_of_it_left() -> None:
    model = network()
    before = [set(module.__dict__) for module in model.modules()]
    reduced(model, 0.5)
    model(images()).sum().backward()
    with torch.no_grad():
        model(images())
    restore_(model)
    assert [set(module.__dict__) for module in model.modules()] == before


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
