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
from typing import Any

import pytest
import torch
from compared import NATIVE, Noted, Tagged, lying, outcome
from drawn_layers import FOLLOWING, Fill, Made, convolutions, linears
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import BaseTorchFunctionMode
from torch.utils.checkpoint import CheckpointError, checkpoint

from stantune.stan.layers.fusion import make_native_
from stantune.stan.layers.meprop import MePropLinear

pytestmark = [*NATIVE, pytest.mark.filterwarnings("ignore")]


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
    values = lying(values, case["order"]).to(case["dtype"])
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
    if isinstance(found, CheckpointError) and (case["surroundings"], case["mode"]) == ("checkpoint", "function"):
        # Under the mode meProp is PyTorch's, and what is checkpointed is computed again without it: PyTorch refuses.
        assert isinstance(ours[0], MePropLinear)
        return
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
