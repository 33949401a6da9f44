"""meProp's layer in networks, under autocast, transforms and compilation, and made of an nn.Linear and back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from meprop_oracle import assert_train_alike, both_forms, check, made, oracle
from torch import Tensor, nn

from stantune import Stan, accelerate_, restore_
from stantune.stan.layers.meprop import MeProp, MePropLinear


@both_forms
@pytest.mark.parametrize("top_k", [2, 9])
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_autocast_gives_what_it_gives_a_plain_layer(inside: bool, top_k: int, unified: bool) -> None:
    layer, plain = made(6, 12, top_k, unified)
    values = torch.randn(5, 6)
    mine, its = values.clone().requires_grad_(), values.clone().requires_grad_()
    grad = torch.randn(5, 12, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = layer(mine), plain(its)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, expected)
        with torch.autocast("cpu", enabled=inside):
            y.backward(grad)
            expected.backward(oracle(grad, top_k, unified))
    plain.bias.grad = grad.float().sum(0)
    for got, wanted in ((mine, its), (layer.weight, plain.weight), (layer.bias, plain.bias)):
        assert got.grad is not None
        assert got.grad.dtype == torch.float32
        torch.testing.assert_close(got.grad, wanted.grad, rtol=2e-2, atol=2e-2)


@both_forms
def test_numbers_of_two_kinds_are_refused_in_pytorchs_words(unified: bool) -> None:
    layer, plain = (each.double() for each in made(6, 12, 2, unified))
    # Its words are others where there are no gradients, as within an operation with a backward pass of its own.
    x = torch.randn(6, 3, 2).permute(2, 1, 0)
    with pytest.raises(RuntimeError) as expected:
        plain(x)
    with pytest.raises(RuntimeError) as found:
        layer(x)
    assert str(found.value) == str(expected.value)
    # Numbers that are nowhere are not looked at.
    assert layer.to("meta")(x.to("meta")).shape == plain.to("meta")(x.to("meta")).shape


@both_forms
def test_autocast_in_the_backward_pass_alone(unified: bool) -> None:
    layer, plain = made(6, 12, 9, unified)
    x, grad = torch.randn(5, 6), torch.randn(5, 12)
    y, expected = layer(x), plain(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y.backward(grad)
    expected.backward(oracle(grad, 9, unified))
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, rtol=2e-2, atol=2e-2)


@both_forms
def test_a_tied_weight_keeps_the_gradient_of_its_other_use_under_autocast(unified: bool) -> None:
    layer, _ = made(6, 12, 2, unified)
    x = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)
        other = nn.functional.linear(x, layer.weight, layer.bias)
    weight, bias = torch.autograd.grad(other.float().sum(), [layer.weight, layer.bias])
    assert weight.any()
    assert bias.any()


@both_forms
@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_weight_of_fewer_rows_than_the_layer_was_made_with(rows: int, unified: bool) -> None:
    layer, plain = made(6, 12, 3, unified)
    for each in (layer, plain):
        each.weight, each.bias = nn.Parameter(each.weight[:rows].detach()), nn.Parameter(each.bias[:rows].detach())
    check(layer, plain, torch.randn(4, 6, requires_grad=True), torch.randn(4, rows))


@both_forms
def test_a_layer_used_twice_chooses_in_each_use(unified: bool) -> None:
    layer, plain = made(4, 12, 2, unified)
    x, grad = torch.randn(2, 3, 4), torch.randn(2, 3, 12)
    torch.autograd.backward([layer(x[0]), layer(x[1])], [grad[0], grad[1]])
    torch.autograd.backward([plain(x[0]), plain(x[1])], [oracle(part, 2, unified) for part in grad])
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)


@both_forms
def test_an_activation_in_place_may_follow(unified: bool) -> None:
    grads = []
    for inplace in (False, True):
        torch.manual_seed(1)
        network = nn.Sequential(MePropLinear(6, 8, top_k=2, unified=unified), nn.ReLU(inplace=inplace), nn.Linear(8, 3))
        network(torch.ones(4, 6)).square().sum().backward()
        first = network[0]
        assert isinstance(first, MePropLinear)
        assert first.weight.grad is not None
        grads.append(first.weight.grad)
    assert torch.equal(grads[0], grads[1])
    assert 1 <= int(grads[0].any(dim=1).sum()) <= 2


@both_forms
def test_what_the_backward_pass_does_not_need_may_change_before_it(unified: bool) -> None:
    layer, _ = made(4, 12, 2, unified)
    y = layer(torch.ones(3, 4))
    with torch.no_grad():
        layer.weight.add_(1.0)
    y.sum().backward()
    assert layer.weight.grad is not None
    layer.weight.requires_grad_(False)
    values = torch.ones(3, 4, requires_grad=True)
    x = values * 2.0
    y = layer(x)
    x.zero_()
    y.sum().backward()
    assert values.grad is not None


@both_forms
@pytest.mark.parametrize("kind", ["sparse", "rows", "jagged", "nested"])
def test_inputs_that_are_no_one_matrix_are_pytorchs(kind: str, unified: bool) -> None:
    layer = MePropLinear(20, 30, top_k=4, unified=unified)
    stock = nn.Linear(20, 30)
    stock.load_state_dict(layer.state_dict())
    parts = [torch.randn(2, 20), torch.randn(3, 20)]
    matrix = torch.eye(20)
    found = []
    for each in (layer, stock):
        if kind == "sparse":
            output = each(matrix.to_sparse())
        elif kind == "rows":
            output = each(matrix.to_sparse_csr())
        else:
            layout = torch.jagged if kind == "jagged" else torch.strided
            output = torch.cat(each(torch.nested.nested_tensor(parts, layout=layout)).unbind())
        output.square().sum().backward()
        found.append([output.detach(), each.weight.grad, each.bias.grad])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@both_forms
def test_a_second_derivative_is_refused(unified: bool) -> None:
    layer, _ = made(4, 12, 2, unified)
    x = torch.randn(3, 4, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@both_forms
@pytest.mark.parametrize("top_k", [2, 9])
def test_torch_func_gives_the_same_gradient(top_k: int, unified: bool) -> None:
    layer, _ = made(4, 12, top_k, unified)
    x = torch.randn(3, 4)
    layer(x).square().sum().backward()

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, parameters, (x,)).square().sum()
        return result

    gradients = torch.func.grad(loss)(dict(layer.named_parameters()))
    torch.testing.assert_close(gradients["weight"], layer.weight.grad)


@both_forms
def test_a_compiled_layer_gives_the_same_gradient(unified: bool) -> None:
    layer, _ = made(4, 12, 2, unified)
    x = torch.randn(3, 4)
    layer(x).square().sum().backward()
    other = copy.deepcopy(layer)
    other.zero_grad()
    torch.compile(other, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    torch.testing.assert_close(other.weight.grad, layer.weight.grad)


@both_forms
def test_a_linear_layer_becomes_one_and_is_one_no_more(unified: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 12)
    plain = copy.deepcopy(layer)
    parameters = list(layer.parameters())
    x = torch.randn(3, 4)
    layer.__class__ = MePropLinear
    assert isinstance(layer, MePropLinear)
    assert_train_alike(layer, plain, x)
    layer.top_k, layer.unified = 2, unified
    check(layer, plain, x, torch.randn(3, 12))
    del layer.top_k, layer.unified
    layer.__class__ = nn.Linear  # type: ignore[assignment]
    assert layer.__dict__.keys() == plain.__dict__.keys()
    assert all(a is b for a, b in zip(layer.parameters(), parameters, strict=True))


@both_forms
@pytest.mark.parametrize("through", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_keep_the_settings(through: Callable[[MePropLinear], MePropLinear], unified: bool) -> None:
    layer, _ = made(4, 12, 2, unified)
    other = through(layer)
    x = torch.randn(3, 4)
    assert_train_alike(layer, other, x)
    assert f"top_k=2, unified={unified}, sparse_bias=False" in repr(other)


@pytest.mark.parametrize("through", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_changed_model_keep_its_meprop(through: Callable[[nn.Module], nn.Module]) -> None:
    """No handle has to move it."""
    model, x = nn.Sequential(nn.Linear(4, 12)), torch.randn(3, 4)
    plain = copy.deepcopy(model)
    accelerate_(model, Stan(rate=1, meprop=MeProp(2)))
    other = through(model)
    assert_train_alike(other, model, x)
    restore_(other)
    assert type(other[0]) is nn.Linear  # type: ignore[index]
    other.zero_grad()
    assert_train_alike(other, plain, x)
