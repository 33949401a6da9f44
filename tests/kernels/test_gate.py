"""The gate, and each native operation behind it: equal to PyTorch, or PyTorch's own, whatever it is handed and when."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from stantune.kernels import batch_norm, gate, lrn, pool
from stantune.kernels.block.convolve import convolve, convolve_into
from stantune.kernels.block.follow import Follow
from stantune.kernels.library import kernels, plain_pytorch, suits
from stantune.kernels.sgd import Sgd
from stantune.stan.entries.entries import PLANE, Grid
from stantune.stan.entries.lists import lists_among, lists_of

pytestmark = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
LAST = torch.channels_last


class Tagged(Tensor):
    """A subclass that does nothing of its own."""


class Noted(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def numbers() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# What the gate says.


@pytest.mark.parametrize(
    "strange",
    [
        lambda x: x.as_subclass(Tagged),
        lambda x: x.to("meta"),
        lambda x: x.to_sparse(),
        lambda x: x.to_mkldnn(),
        lambda x: torch.complex(x, x).conj().imag,
        lambda x: torch._efficientzerotensor(x.shape),
        lambda x: torch.quantize_per_tensor(x, 1.0, 0, torch.quint8),
        lambda x: torch.nested.nested_tensor(list(x)),
        lambda x: FakeTensorMode().from_tensor(x),
        lambda x: nn.UninitializedParameter(),
        lambda x: x.double(),
        lambda x: x.half(),
        lambda x: x[:0],
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_strange_tensors_are_not_readable(strange: Callable[[Tensor], Tensor]) -> None:
    assert gate.readable(numbers(), nn.Parameter(numbers()), None)
    assert not gate.readable(numbers(), strange(numbers()))


def test_a_storage_that_was_given_up_is_not_readable() -> None:
    whole, part = numbers().split(1)
    part.untyped_storage().resize_(0)
    assert not gate.readable(whole)
    assert not gate.readable(part)


@pytest.mark.parametrize(
    ("mode", "allowed"),
    [
        (nullcontext, True),
        (torch.no_grad, True),
        (torch.inference_mode, True),
        (partial(torch.autocast, "cpu"), True),
        (partial(torch.device, "meta"), True),
        (torch.profiler.profile, True),
        (FakeTensorMode, False),
        (Noted, False),
        (torch.overrides.BaseTorchFunctionMode, False),
        (forward_ad.dual_level, False),
    ],
)
def test_modes_that_look_on_are_not_ordinary(mode: Callable[[], AbstractContextManager[object]], allowed: bool) -> None:
    with mode():
        assert gate.ordinary() == allowed
    assert gate.ordinary()


def test_transforms_and_tracing_are_not_ordinary() -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(gate.ordinary() or gate.readable(x))
        return x.sum()

    torch.func.grad(look)(numbers())
    torch.vmap(look)(numbers())
    torch.func.functionalize(look)(numbers())
    torch.jit.trace(look, numbers())
    assert seen
    assert not any(seen[:3])
    assert False in seen[3:]  # it looks at what it has traced a second time, plainly


def test_what_was_made_under_inference_mode_is_readable_and_refused_by_autograd() -> None:
    with torch.inference_mode():
        x = numbers()
    assert suits(x)
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        convolve(x, weight, None, (1, 1), (0, 0, 0, 0))


# The operations. Each: a function of tensors, and those.

Operation = tuple[Callable[..., Tensor], list[Tensor]]


def convolved(follow: Follow, grid: Grid | None) -> Operation:
    generator = torch.Generator().manual_seed(1)
    tensors = [numbers(), torch.randn(5, 3, 3, 3, generator=generator), torch.randn(5, generator=generator)]

    def run(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        lists = None if grid is None else lists_of(grid, 8, 8)
        return convolve(input, weight, bias, (1, 1), (1, 1, 1, 1), lists, follow)

    return run, tensors


def remembered() -> Operation:
    _, tensors = convolved(Follow(), None)
    values = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(2))

    def run(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        lists = lists_among(Grid(PLANE["blocks"], 0, 1), 8, 8)
        own = values.to(input.device, input.dtype).clone(memory_format=LAST)
        return convolve_into(own, input, weight, bias, (1, 1), (1, 1, 1, 1), lists)

    return run, tensors


def pooled(settings_: pool.Pool) -> Operation:
    return lambda x: pool.pooled(x, settings_), [numbers().contiguous(memory_format=LAST)]


def normalised() -> Operation:
    def run(x: Tensor) -> Tensor:
        statistics = torch.zeros(3, device=x.device, dtype=x.dtype), torch.ones(3, device=x.device, dtype=x.dtype)
        return batch_norm.normalise(x, *statistics, 0.1, 1e-5)

    return run, [numbers().contiguous(memory_format=LAST)]


def normalised_and_pooled() -> Operation:
    generator = torch.Generator().manual_seed(4)
    learned = [torch.randn(3, generator=generator) for _ in range(2)]

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_norm.normalise(x, None, None, 0.1, 1e-5, weight, bias, True, (2, 3))

    return run, [numbers().contiguous(memory_format=LAST), *learned]


OPERATIONS: dict[str, Callable[[], Operation]] = {
    "convolution": lambda: convolved(Follow(), None),
    "columns": lambda: convolved(Follow(), Grid(PLANE["columns"], 0, 1)),
    "blocks, average": lambda: convolved(Follow("average", (2, 2), (2, 2), relu=True), Grid(PLANE["blocks"], 1, 0)),
    "maximum": lambda: convolved(Follow("max", (3, 3), (2, 2), ceil=True, relu=True), None),
    "rows, maximum": lambda: convolved(Follow("max", (2, 2), (2, 2)), Grid(PLANE["rows"], 1, 0)),
    "memo": remembered,
    "batch norm": normalised,
    "batch norm, ReLU, maximum": normalised_and_pooled,
    "maximum by itself": lambda: pooled(pool.Pool(False, (3, 2), (2, 2), (1, 0))),
    "average by itself": lambda: pooled(pool.Pool(True, (2, 2), (2, 2))),
    "lrn": lambda: (lambda x: lrn.normalise(x, 0.5, 0.75, 3), [numbers()]),
    "lrn, kept factor": lambda: (lambda x: lrn.normalise(x, 0.5, 1.3, 3), [numbers().contiguous(memory_format=LAST)]),
}


def plainly(run: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    with plain_pytorch():
        return run(*tensors)


def close(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, check_stride=False)


def saved_by(pack: Callable[[Tensor], object], unpack: Callable[..., Tensor]) -> AbstractContextManager[object]:
    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def away(packed: Tensor) -> Tensor:
    """Give back what was saved once, and spoil it."""
    fresh = packed.clone()
    packed.zero_()
    return fresh


HOOKS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "none": nullcontext,
    "spoiled": lambda: saved_by(lambda tensor: tensor.detach().clone(), away),
    "on the CPU": torch.autograd.graph.save_on_cpu,
    "as a subclass": lambda: saved_by(lambda tensor: tensor, lambda tensor: tensor.as_subclass(Tagged)),
    "contiguous": lambda: saved_by(lambda tensor: tensor.contiguous().clone(), lambda tensor: tensor),
}


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(OPERATIONS)),
    dtype=st.sampled_from([torch.float32] * 3 + [torch.float64]),
    device=st.sampled_from(["cpu"] * 4 + ["meta", "fake"]),
    order=st.sampled_from(["given", "last", "contiguous", "sliced", "transposed"]),
    grad=st.sampled_from([torch.enable_grad] * 3 + [torch.no_grad, torch.inference_mode]),
    hooks=st.sampled_from(sorted(HOOKS)),
    forward=st.sampled_from([nullcontext] * 3 + [Noted, partial(torch.autocast, "cpu", enabled=False)]),
    backward=st.sampled_from(
        [nullcontext] * 3 + [Noted, partial(torch.autocast, "cpu"), partial(torch.device, "meta")]
    ),
    upstream=st.sampled_from(["random", "expanded", "strided"]),
    wanted=st.lists(st.booleans(), min_size=3, max_size=3),
    default=st.sampled_from([torch.float32] * 2 + [torch.float64]),
)
@pytest.mark.filterwarnings("ignore")
def test_every_operation_is_plain_pytorchs_under_everything(
    name, dtype, device, order, grad, hooks, forward, backward, upstream, wanted, default
):
    run, tensors = OPERATIONS[name]()

    def passes(run: Callable[..., Tensor]) -> list[Tensor | None]:
        # A fake tensor cannot be made anew behind its mode's back.
        strange = hooks if device == "cpu" else "none"
        with FakeTensorMode(allow_non_fake_inputs=True) if device == "fake" else nullcontext(), grad():
            given_ = []
            for tensor in tensors:
                own = tensor.to(dtype)
                if own.dim() == 4 and order != "given":
                    own = own.contiguous(memory_format=LAST if order == "last" else torch.contiguous_format)
                if order == "sliced":
                    own = torch.stack([own, own], -1)[..., 0]
                if order == "transposed" and own.dim() == 4:
                    own = own.transpose(2, 3).contiguous().transpose(2, 3)
                given_.append(own.to("meta") if device == "meta" else own.clone(memory_format=torch.preserve_format))
            for tensor, want in zip(given_, wanted, strict=False):
                tensor.requires_grad_(want)
            with HOOKS[strange](), forward():
                output = run(*given_)
            if output.requires_grad:
                shape = output.shape
                generator = torch.Generator().manual_seed(3)
                if upstream == "expanded":
                    gradient = torch.ones((), dtype=dtype, device=output.device).expand(shape)
                elif device == "cpu":
                    gradient = torch.randn((*shape, 2), generator=generator, dtype=dtype)[..., 0]
                    gradient = gradient if upstream == "strided" else gradient.contiguous()
                else:
                    gradient = torch.ones(shape, dtype=dtype, device=output.device)
                with backward():
                    output.backward(gradient)
            return [output.detach(), *(tensor.grad for tensor in given_)]

    torch.set_default_dtype(default)
    try:
        expected, found = passes(partial(plainly, run)), passes(run)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one.shape, one.dtype, one.device, type(one)) == (
                other.shape,
                other.dtype,
                other.device,
                type(other),
            )
            if device == "cpu":
                close(one, other)


@pytest.mark.parametrize("name", OPERATIONS)
def test_second_derivatives_are_plain_pytorchs(name: str) -> None:
    run, tensors = OPERATIONS[name]()

    def passes(run: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        own = [tensor.clone().requires_grad_() for tensor in tensors]
        first = torch.autograd.grad(run(*own).square().sum(), own, create_graph=True)
        # Of what has none the gradient is zero.
        return torch.autograd.grad(sum(each.square().sum() for each in first), own, materialize_grads=True)

    for one, other in zip(passes(run), passes(partial(plainly, run)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", OPERATIONS)
def test_of_a_sum_they_exist_where_plain_pytorchs_do(name: str) -> None:
    run, tensors = OPERATIONS[name]()

    def passes(run: Callable[..., Tensor]) -> tuple[Tensor | None, ...]:
        own = [tensor.clone().requires_grad_() for tensor in tensors]
        (first,) = torch.autograd.grad(run(*own).sum(), own[:1], create_graph=True)
        return torch.autograd.grad(first.square().sum(), own, allow_unused=True)

    for one, other in zip(passes(run), passes(partial(plainly, run)), strict=True):
        # A gradient of zero is one: optimizers pass over what has none.
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_changed_in_place_between_the_passes_is_noticed(name: str) -> None:
    run, tensors = OPERATIONS[name]()
    own = [tensor.clone().requires_grad_() for tensor in tensors]
    output = run(*own)
    with torch.no_grad():
        own[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.filterwarnings("ignore")
def test_transforms_are_plain_pytorchs(name: str) -> None:
    run, tensors = OPERATIONS[name]()

    def loss(*given_: Tensor) -> Tensor:
        return run(*given_).square().sum()

    if name != "memo":  # it writes into a constant, which no transform may
        everything = tuple(range(len(tensors)))
        with plain_pytorch():
            own = [tensor.clone().requires_grad_() for tensor in tensors]
            expected = torch.autograd.grad(loss(*own), own)
        for one, other in zip(torch.func.grad(loss, everything)(*tensors), expected, strict=True):
            close(one, other)
    own = [tensor.clone().requires_grad_() for tensor in tensors]
    upstream = torch.randn(3, *run(*tensors).shape)
    batched = torch.autograd.grad(run(*own), own, upstream, is_grads_batched=True)
    for place, each in enumerate(upstream):
        for one, other in zip(batched, torch.autograd.grad(run(*own), own, each), strict=True):
            close(one[place], other)


def test_lists_of_another_batch_are_refused() -> None:
    lists = lists_of(Grid(PLANE["columns"], 0, 0), 6, 6)
    with pytest.raises(ValueError, match="not those of 2 images of 8x8 places"):
        convolve(numbers(), torch.randn(4, 3, 3, 3), None, (1, 1), (1, 1, 1, 1), lists)


def test_shapes_that_do_not_fit_are_refused_in_pytorchs_words() -> None:
    x = numbers()
    for weight, follow in (
        (torch.randn(4, 2, 3, 3), Follow()),
        (torch.randn(4, 3, 9, 9), Follow()),
        (torch.randn(4, 3, 3, 3), Follow("max", (9, 9), (1, 1))),
    ):
        with pytest.raises(RuntimeError) as stock:
            F.max_pool2d(F.conv2d(x, weight), follow.size, follow.stride)
        with pytest.raises(RuntimeError) as found:
            convolve(x, weight, None, (1, 1), (0, 0, 0, 0), None, follow)
        assert str(found.value) == str(stock.value)


def test_numbers_that_pytorch_refuses_are_refused_after_equal_ones_were_taken() -> None:
    x, weight = numbers(), torch.randn(4, 3, 3, 3)
    convolve(x, weight, None, (1, 1), (1, 1, 1, 1))
    for strange in (1.0, True):
        with pytest.raises(TypeError):
            convolve(x, weight, None, (strange, strange), (1, 1, 1, 1))


def test_a_momentum_of_another_kind_is_left_to_pytorch() -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(4, 3)) for _ in range(2)]
    parameters[1].data = parameters[0].data.clone()
    for parameter, kind in zip(parameters, (torch.optim.SGD, Sgd), strict=True):
        optimizer = kind([parameter], 0.1, momentum=0.9)
        parameter.grad = torch.ones(4, 3)
        optimizer.step()
        state = optimizer.state[parameter]
        state["momentum_buffer"] = state["momentum_buffer"].double()
        optimizer.step()
    close(*parameters)


def test_a_model_is_deep_copied_with_a_graph_in_it() -> None:
    run, tensors = OPERATIONS["convolution"]()
    model = nn.ParameterList(tensors)
    run(*model).sum().backward()
    assert len(copy.deepcopy(model)) == 3


@pytest.mark.parametrize("make", [lists_of, lists_among])
@pytest.mark.parametrize("mode", [FakeTensorMode, Noted, torch.inference_mode], ids=["fake", "noted", "inference"])
def test_lists_that_were_first_made_under_a_mode_are_not_kept_for_others(make, mode) -> None:
    # Native code went through the addresses of fake ones, and wrote wherever those said.
    grid = Grid(PLANE["blocks"], 1, 1)
    size = {"lists_of": 20, "lists_among": 21}[make.__name__], {FakeTensorMode: 30, Noted: 31}.get(mode, 32)
    with mode():
        make(grid, *size)
    found = make(grid, *size)
    assert [type(each) for each in found[:2]] == [Tensor, Tensor]
    assert not any(each.is_inference() for each in found[:2])
    assert int(found.positions.max()) < size[0] * size[1]
