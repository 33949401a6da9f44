"""One contract for all that STAN does to layers: under everything it is PyTorch's result or STAN's, or PyTorch's error.

What a layer is, what it is handed and what goes on around it are drawn by chance. STAN's result is that of the oracle:
PyTorch's layer, and the fill, or meProp's choice, in a few lines behind it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from stantune.kernels.library import kernels
from stantune.stan.entries.entries import PLANE, EntryMatrix, Grid
from stantune.stan.entries.fill import memo_of_exact, neighbour_of_exact
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.layers.fusion import make_native_
from stantune.stan.layers.linear import StanLinear, neuron_block
from stantune.stan.layers.meprop import MePropLinear, largest
from stantune.stan.layers.stan_layer import Recollection

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}"),
    pytest.mark.filterwarnings("ignore"),
]
LAST = torch.channels_last


# What layers are.


class Remembered:
    """A layer's memory of one batch, of which it forgets what it is told."""

    def __init__(self, entries: Any, values: Tensor) -> None:
        self.entries, self.values = entries, values

    def recall(self, dtype: torch.dtype) -> Recollection:
        return Recollection(self.entries, self.values.to(dtype, copy=True, memory_format=torch.preserve_format))

    def remember(self, output: Tensor, entries: object) -> None:
        pass


class Chosen(torch.autograd.Function):
    """What meProp makes of a gradient."""

    @staticmethod
    def forward(output: Tensor, top_k: int) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.top_k = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows = gradient.reshape(-1, gradient.shape[-1])
        return rows.where(largest(rows, ctx.top_k), 0).view_as(gradient), None


Fill = Callable[[Tensor], Tensor]


class Made(NamedTuple):
    """A stock layer, what STAN makes of its output, and how it is put into STAN's hands."""

    stock: nn.Module
    fill: Fill
    accelerate: Callable[[nn.Module], None]


def filled(layer: nn.Module, entries: Grid | EntryMatrix | None, memory: Remembered | None = None) -> Made:
    """Return a convolution that computes some entries."""
    flat = isinstance(layer, nn.Conv1d)

    def fill(exact: Tensor) -> Tensor:
        if entries is None:
            return exact
        plane = exact.unsqueeze(-2) if flat else exact
        whole = plane if plane.dim() == 4 else plane.unsqueeze(0)
        values = None if memory is None else memory.values.to(exact.dtype)
        found = neighbour_of_exact(whole, entries) if values is None else memo_of_exact(whole, entries, values)
        return found.view(exact.shape) if found.is_contiguous() else found.reshape(exact.shape)

    def accelerate(layer: nn.Module) -> None:
        layer.__class__ = StanConv1d if flat else StanConv2d
        layer.grid, layer.memory = (entries, None) if memory is None else (None, memory)

    return Made(layer, fill, accelerate)


GRIDS = (None, *(Grid(PLANE[name], 0, 0) for name in ("columns", "rows", "blocks")), Grid(PLANE["blocks"], 1, 1))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Made, tuple[int, ...]]:
    """A convolution of any settings, alone or with what STAN does along with it, and its input's shape."""
    kind = draw(st.sampled_from(["plain", "plain", "settings", "flat", "entries", "memo"]))
    batch, channels, filters = draw(st.sampled_from([0, 1, 2, 3])), draw(st.sampled_from([1, 2, 4])), 4
    flat = kind == "flat"
    sides = (draw(st.integers(1, 11)),) if flat else (draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    given_: dict[str, Any] = {
        "kernel_size": draw(st.sampled_from([1, 3, 5])),
        "padding": draw(st.sampled_from([0, 1, "same"])),
        "bias": draw(st.booleans()),
    }
    if given_["padding"] != "same":
        given_["stride"] = draw(st.sampled_from([1, 1, 2]))
    if kind in ("settings", "flat"):
        given_["groups"] = draw(st.sampled_from([1, channels]))
        given_["dilation"] = draw(st.sampled_from([1, 2]))
        given_["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "circular"]))
    torch.manual_seed(0)
    layer = (nn.Conv1d if flat else nn.Conv2d)(channels, filters, **given_)
    shape = (batch, channels, *sides)
    grid = draw(st.sampled_from(GRIDS))
    if flat and grid is not None:
        grid = Grid(PLANE["columns"], 0, 1)
    if kind not in ("entries", "memo"):
        return filled(layer, grid), shape
    try:
        size = layer(torch.zeros(shape)).shape
    except RuntimeError:
        return filled(layer, grid), shape
    entries = torch.rand(size[0], *size[2:]) < 0.5
    entries[:, :1, :1] = True
    if kind == "entries":
        return filled(layer, EntryMatrix(entries)), shape
    values = torch.randn(size).contiguous(memory_format=LAST)
    return filled(
        layer, grid if grid is not None else EntryMatrix(entries), Remembered(grid or EntryMatrix(entries), values)
    ), shape


@st.composite
def linears(draw: st.DrawFn) -> tuple[Made, tuple[int, ...]]:
    """A linear layer of which some neurons are computed, or under meProp."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 8, bias=draw(st.booleans()))
    shape = draw(st.sampled_from([(3, 6), (1, 6), (0, 6), (2, 3, 6), (6,), (3, 5)]))
    if draw(st.booleans()):
        block, values = neuron_block(8, 2, 1), torch.randn(*shape[:-1], 8)

        def fill(exact: Tensor) -> Tensor:
            if exact.dim() != 2 or not len(exact):
                return exact
            return torch.cat([values.to(exact.dtype)[:, : block.start], exact[:, block]], 1)

        def remember(layer: nn.Module) -> None:
            layer.__class__ = StanLinear
            layer.memory = Remembered(block, values)

        return Made(layer, fill, remember), shape

    def choose(layer: nn.Module) -> None:
        layer.__class__ = MePropLinear
        layer.top_k, layer.sparse_bias = 3, True

    return Made(layer, lambda exact: Chosen.apply(exact, 3), choose), shape


FOLLOWING: dict[str, Callable[[], list[nn.Module]]] = {
    "nothing": list,
    "relu": lambda: [nn.ReLU()],
    "maximum": lambda: [nn.ReLU(), nn.MaxPool2d(2)],
    "average": lambda: [nn.AvgPool2d(3, 2, ceil_mode=True), nn.ReLU()],
    "normalised": lambda: [nn.BatchNorm2d(4), nn.ReLU()],
}


# What they are handed, and what goes on meanwhile.


class Tagged(Tensor):
    """A subclass that does nothing of its own."""


class Noted(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def away(packed: Tensor) -> Tensor:
    """Give back what was saved, once, and spoil it."""
    fresh = packed.clone()
    packed.zero_()
    return fresh


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "none": nullcontext,
    "dispatch": Noted,
    "function": BaseTorchFunctionMode,
    "device": partial(torch.device, "meta"),
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "on the CPU": torch.autograd.graph.save_on_cpu,
    "spoiled": lambda: torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach().clone(), away),
    "anomaly": torch.autograd.detect_anomaly,
}
PASSES = ("pass", "no grad", "inference", "checkpoint")
SURROUNDINGS = ("pass", "pass", "pass", "no grad", "inference", "checkpoint", "grad", "vmap", "jvp", "dual", "traced")


@st.composite
def around(draw: st.DrawFn) -> dict[str, Any]:
    # Most of all is ordinary, or little would be STAN's.
    return {
        "dtype": draw(st.sampled_from([torch.float32] * 4 + [torch.float64, torch.bfloat16, torch.int64])),
        "device": draw(st.sampled_from(["cpu"] * 4 + ["meta", "fake"])),
        "order": draw(st.sampled_from(["contiguous", "last", "sliced", "transposed"])),
        "kind": draw(st.sampled_from(["tensor"] * 4 + ["parameter", "subclass"])),
        "of_input": draw(st.booleans()),
        "of_layer": draw(st.sampled_from([True, True, True, False])),
        "weight_dtype": draw(st.sampled_from(["same"] * 4 + [torch.float64])),
        "surroundings": draw(st.sampled_from(SURROUNDINGS)),
        "mode": draw(st.sampled_from(["none"] * 4 + sorted(MODES))),
        "hooked": draw(st.sampled_from([False, False, True])),
    }


def input_of(shape: tuple[int, ...], case: dict[str, Any]) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if case["order"] == "last" and values.dim() == 4:
        values = values.contiguous(memory_format=LAST)
    elif case["order"] == "sliced":
        values = torch.stack([values, values], -1)[..., 0]
    elif case["order"] == "transposed" and values.dim() > 1:
        values = values.transpose(-1, -2).contiguous().transpose(-1, -2)
    values = values.to(case["dtype"])
    if case["device"] == "meta":
        values = values.to("meta")
    if case["kind"] == "subclass":
        values = values.as_subclass(Tagged)
    if values.is_floating_point():
        if case["kind"] == "parameter":
            values = nn.Parameter(values)
        # Transforms differentiate on their own account.
        values.requires_grad_(case["of_input"] and case["surroundings"] in PASSES)
    return values


def results(model: nn.Module, shape: tuple[int, ...], case: dict[str, Any]) -> list[Any]:
    """Return all that comes of a model: output, gradients, what hooks have seen."""
    dtype = case["dtype"] if case["weight_dtype"] == "same" else case["weight_dtype"]
    model = copy.deepcopy(model)
    for module, given_ in zip(model.modules(), case["model"].modules(), strict=True):  # a copy forgets them
        module.__dict__.update({name: given_.__dict__[name] for name in ("grid", "memory") if name in given_.__dict__})
    if dtype.is_floating_point:
        model.to(dtype)
    if case["device"] == "meta":
        model.to("meta")
    for parameter in model.parameters():
        parameter.requires_grad_(case["of_layer"])
    seen: list[Any] = []
    if case["hooked"] and case["surroundings"] in PASSES:
        model[0].register_forward_hook(lambda _, inputs, output: seen.append(output.detach().clone()))
    faking = FakeTensorMode(allow_non_fake_inputs=True) if case["device"] == "fake" else nullcontext()
    with faking:
        input = input_of(shape, case)
        return [*_through(model, input, case), *seen]


def _through(model: nn.Module, input: Tensor, case: dict[str, Any]) -> list[Any]:
    surroundings, mode = case["surroundings"], MODES[case["mode"]]
    if surroundings in ("no grad", "inference"):
        with torch.no_grad() if surroundings == "no grad" else torch.inference_mode(), mode():
            return [model(input)]
    if surroundings == "grad":
        parameters = {name: value.detach() for name, value in model.named_parameters()}

        def loss(parameters: dict[str, Tensor], input: Tensor) -> Tensor:
            return torch.func.functional_call(model, parameters, (input,)).square().sum()

        with mode():
            return [torch.func.grad(loss, argnums=(0, 1))(parameters, input)]
    if surroundings == "vmap":
        with mode():
            return [torch.vmap(model)(torch.stack([input, input]))]
    if surroundings == "jvp":
        with mode():
            return [torch.func.jvp(model, (input,), (torch.ones_like(input),))]
    if surroundings == "dual":
        with forward_ad.dual_level(), mode():
            return list(forward_ad.unpack_dual(model(forward_ad.make_dual(input, torch.ones_like(input)))))
    if surroundings == "traced":
        return [make_fx(model)(input)(input)]
    # What is checkpointed is computed again in the backward pass, which is under the same mode then.
    again = surroundings == "checkpoint"
    with mode():
        output = checkpoint(model, input, use_reentrant=False) if again else model(input)
        if again and output.requires_grad:
            output.square().sum().backward()
    if not again and output.requires_grad:
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).view(output.shape)
        (output * weights).sum().backward()
    return [output, input.grad, *(parameter.grad for parameter in model.parameters()), *model.buffers()]


def outcome(work: Callable[[], object]) -> object:
    try:
        return work()
    except Exception as error:
        return error


def difference(found: Any, expected: Any, values: float | None, strides: bool) -> str:
    """Return what is different, "" where nothing is; `values` by more than that, None for what has none."""
    if isinstance(expected, Tensor):
        if not isinstance(found, Tensor):
            return f"{found!r} in place of a tensor"
        for what in ("shape", "dtype", "device", "requires_grad", *(("stride",) if strides else ())):
            one, other = (getattr(each, what) for each in (found, expected))
            if (one() if callable(one) else one) != (other() if callable(other) else other):
                return f"{what}: {one} in place of {other}"
        if type(found) is not type(expected):
            return f"{type(found)} in place of {type(expected)}"
        if values is None:
            return ""
        tolerance = 5e-2 if found.dtype is torch.bfloat16 else values
        largest_ = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
        try:
            torch.testing.assert_close(
                found.as_subclass(Tensor), expected.as_subclass(Tensor), rtol=tolerance, atol=tolerance * largest_
            )
        except AssertionError as error:
            return str(error)
        return ""
    if isinstance(expected, Exception):
        one, other = (re.sub("0x[0-9a-f]+", "", str(each)) for each in (found, expected))
        # Where strides are not looked at, operations are taken apart, and so are their words.
        same = type(found) is type(expected) and (one == other or not strides)
        return "" if same else f"{found!r} in place of {expected!r}"
    if isinstance(expected, dict):
        expected, found = list(expected.values()), list(found.values()) if isinstance(found, dict) else found
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return f"{found!r} in place of {expected!r}"
        # Autograd lays out the gradients of what is shared or turned as it likes.
        pairs = enumerate(zip(found, expected, strict=True))
        return next(filter(None, (difference(*pair, values, strides and not place) for place, pair in pairs)), "")
    return "" if found is None and expected is None else f"{found!r} in place of {expected!r}" * (found != expected)


def laid_out_otherwise(found: Tensor, expected: Tensor) -> str:
    """Return how an output lies in memory, where that is another way than that of PyTorch's; sides of 1 aside."""
    one, other = (
        [stride for stride, side in zip(each.stride(), each.shape, strict=True) if side > 1]
        for each in (found, expected)
    )
    return "" if one == other else f"strides {found.stride()} in place of {expected.stride()}, {tuple(found.shape)}"


class Filled(nn.Module):
    """A layer and what STAN makes of its output."""

    def __init__(self, layer: nn.Module, fill: Fill) -> None:
        super().__init__()
        self.layer, self.fill = layer, fill

    def forward(self, input: Tensor) -> Tensor:
        return self.fill(self.layer(input))


def possible(case: dict[str, Any]) -> bool:
    """Tell whether stock layers can be asked for this: a checkpoint's own hooks keep what others spoil."""
    return not (case["surroundings"] == "checkpoint" and case["mode"] == "spoiled")


@settings(max_examples=250)
@given(
    made=st.one_of(convolutions(), convolutions(), linears()),
    following=st.sampled_from(sorted(FOLLOWING)),
    case=around().filter(possible),
)
def test_all_layers_are_pytorchs_or_the_oracles_under_everything(
    made: tuple[Made, tuple[int, ...]], following: str, case: dict[str, Any]
) -> None:
    (layer, fill, accelerate), shape = made
    after = FOLLOWING[following]() if isinstance(layer, nn.Conv2d) else []
    stock, oracle = nn.Sequential(layer, *after), nn.Sequential(Filled(layer, fill), *after)
    ours = copy.deepcopy(stock)
    accelerate(ours[0])
    make_native_(ours)
    exact, found = (
        outcome(lambda model=model: results(model, shape, {**case, "model": model})) for model in (stock, ours)
    )
    values = None if case["device"] != "cpu" else 5e-2 if case["mode"] == "autocast" else 2e-3
    strides = not (case["surroundings"] in ("grad", "vmap", "jvp") or case["device"] == "fake")
    differences = [difference(found, exact, values, strides)]
    if differences[0] and not isinstance(exact, Exception):
        reduced = outcome(lambda: results(oracle, shape, {**case, "model": oracle}))
        # A fill may be laid out in its own way; the layer's is PyTorch's.
        differences.append(difference(found, reduced, values, False))
        if not differences[1] and strides:
            differences[1] = laid_out_otherwise(found[0], exact[0])
    assert not differences[-1] or not differences[0], differences


# What it has found.


@pytest.mark.parametrize(
    "entries", [Grid(PLANE["columns"], 0, 1), EntryMatrix(torch.rand(3, 12) < 2)], ids=["grid", "E"]
)
def test_outputs_of_turned_sequences_can_be_viewed_as_stocks(entries: Any) -> None:
    conv, input = nn.Conv1d(4, 6, 3, padding=1), torch.randn(3, 12, 4).transpose(1, 2)
    conv.__class__ = StanConv1d
    conv.grid = entries
    conv(input).view(3, -1)


@pytest.mark.parametrize("order", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("remembers", [True, False])
def test_outputs_of_any_entries_are_laid_out_as_stocks(remembers: bool, order: torch.memory_format) -> None:
    conv, input = nn.Conv2d(4, 6, 3), torch.randn(3, 4, 7, 7).to(memory_format=order)
    expected = conv(input).stride()
    entries = EntryMatrix(torch.ones(3, 5, 5, dtype=torch.bool))
    made = filled(
        conv, entries, Remembered(entries, torch.randn(3, 6, 5, 5).to(memory_format=LAST)) if remembers else None
    )
    made.accelerate(conv)
    assert conv(input).stride() == expected
    assert conv.double()(input.double()).stride() == expected


def test_a_checkpoint_computes_again_what_it_has_computed_under_a_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3))
    stock, input = copy.deepcopy(model), torch.randn(2, 3, 12, 12)
    stock(input).square().sum().backward()
    for place in (0, 2):
        model[place].__class__ = StanConv2d
        model[place].grid = Grid(PLANE["blocks"], 0, 0)
    with BaseTorchFunctionMode():
        output = checkpoint(model, input, use_reentrant=False)
    output.square().sum().backward()
    for found, expected in zip(model.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize(
    "entries", [Grid(PLANE["columns"], 0, 1), EntryMatrix(torch.rand(2, 6, 6) < 2)], ids=["grid", "E"]
)
def test_weights_of_another_type_are_refused_in_pytorchs_words(entries: Any) -> None:
    conv, input = nn.Conv2d(3, 8, 3).double(), torch.randn(2, 3, 8, 8)
    with pytest.raises(RuntimeError) as stock:
        conv(input)
    conv.__class__ = StanConv2d
    conv.grid = entries
    with pytest.raises(RuntimeError) as found:
        conv(input)
    assert str(found.value) == str(stock.value)
