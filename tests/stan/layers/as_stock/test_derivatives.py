"""Derivatives of derivatives, and the transforms of torch.func: PyTorch's, or refused."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from compared import NATIVE, agree, both, both_rates, few, gradients, reduced, smooth
from torch import Tensor, nn
from torch.autograd import forward_ad

from stantune.kernels.library import plain_pytorch
from stantune.stan.entries.entries import EntryMatrix
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.meprop import MePropLinear

pytestmark = NATIVE


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
