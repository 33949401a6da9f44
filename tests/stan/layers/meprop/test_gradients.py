"""meProp's linear layer against dense back propagation with the small components zeroed, on any input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from meprop_oracle import assert_train_alike, both_forms, check, made
from torch.utils.flop_counter import FlopCounterMode


@settings(max_examples=80, deadline=None)
@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    inputs=st.integers(1, 7),
    outputs=st.integers(2, 30),
    bias=st.booleans(),
    unified=st.booleans(),
    sparse_bias=st.booleans(),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_gradients_follow_from_the_kept_components(
    leading: list[int],
    inputs: int,
    outputs: int,
    bias: bool,
    unified: bool,
    sparse_bias: bool,
    seed: int,
    data: st.DataObject,
) -> None:
    top_k = data.draw(st.integers(1, outputs - 1), label="top_k")
    layer, plain = made(inputs, outputs, top_k, unified, bias)
    layer.sparse_bias = sparse_bias
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*leading, inputs, dtype=torch.float64, generator=generator, requires_grad=True)
    grad = torch.randn(*leading, outputs, dtype=torch.float64, generator=generator)
    check(layer.double(), plain.double(), x, grad)


@both_forms
@pytest.mark.parametrize("top_k", [7, 70], ids=["kept alone", "dense with zeros"])
def test_the_size_and_precision_that_are_trained(top_k: int, unified: bool) -> None:
    layer, plain = made(784, 100, top_k, unified)
    check(layer, plain, torch.rand(20, 784, requires_grad=True), torch.randn(20, 100))


@both_forms
def test_wide_layers_need_more_than_sixteen_bits_to_name_a_column(unified: bool) -> None:
    layer, plain = made(2, 70_000, 3, unified)
    check(layer, plain, torch.rand(4, 2, requires_grad=True), torch.randn(4, 70_000))


@both_forms
@pytest.mark.parametrize("top_k", [2, 9])
@pytest.mark.parametrize("frozen", ["weight", "bias", "input", "weight bias", "weight input", "bias input"])
def test_parts_that_want_no_gradient_get_none(frozen: str, top_k: int, unified: bool) -> None:
    layer, plain = made(5, 12, top_k, unified)
    for module in (layer, plain):
        module.weight.requires_grad_("weight" not in frozen)
        module.bias.requires_grad_("bias" not in frozen)
    check(layer, plain, torch.rand(6, 5, requires_grad="input" not in frozen), torch.randn(6, 12))


@both_forms
@pytest.mark.parametrize("top_k", [2, 9])
@pytest.mark.parametrize("inputs", [0, 5])
@pytest.mark.parametrize("leading", [(0,), (3, 0), (4,)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_no_examples_and_no_inputs(leading: tuple[int, ...], inputs: int, top_k: int, unified: bool) -> None:
    layer, plain = made(inputs, 12, top_k, unified)
    check(layer, plain, torch.rand(*leading, inputs, requires_grad=True), torch.randn(*leading, 12))


@both_forms
@pytest.mark.parametrize("top_k", [2, 9])
def test_strides_of_every_kind(top_k: int, unified: bool) -> None:
    layer, plain = made(6, 12, top_k, unified)
    images = torch.rand(2, 6, 3, 4).to(memory_format=torch.channels_last)
    check(layer, plain, images.permute(0, 2, 3, 1).requires_grad_(), torch.randn(12, 2, 3, 4).permute(1, 2, 3, 0))
    check(layer, plain, torch.rand(8, 12)[::2, ::2].requires_grad_(), torch.randn(12, 4).t())
    check(layer, plain, torch.rand(6).expand(5, 6).requires_grad_(), torch.randn(12).expand(5, 12))


@both_forms
@pytest.mark.parametrize("top_k", [2, 9])
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_complex_numbers(top_k: int, unified: bool) -> None:
    layer, plain = (module.to(torch.complex128) for module in made(5, 12, top_k, unified))
    with torch.no_grad():
        layer.weight += 1j * torch.rand(12, 5)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(4, 5, dtype=torch.complex128, requires_grad=True)
    check(layer, plain, x, torch.randn(4, 12, dtype=torch.complex128))


@both_forms
@pytest.mark.parametrize("top_k", [0, 5, 6])
def test_no_top_k_is_ordinary_back_propagation(top_k: int, unified: bool) -> None:
    layer, plain = made(4, 5, top_k, unified)
    layer, plain = layer.double(), plain.double()
    assert torch.autograd.gradcheck(layer, (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))
    layer.zero_grad()
    x = torch.randn(3, 4, dtype=torch.float64)
    assert_train_alike(layer, plain, x)


@both_forms
def test_evaluation_mode_is_ordinary_back_propagation(unified: bool) -> None:
    layer, plain = made(4, 12, 2, unified)
    layer.eval()
    x = torch.randn(3, 4)
    assert_train_alike(layer, plain, x)


@both_forms
def test_evaluation_without_gradients_works(unified: bool) -> None:
    layer, plain = made(3, 4, 1, unified)
    with torch.no_grad():
        y = layer(torch.ones(2, 3))
        assert torch.equal(y, plain(torch.ones(2, 3)))
    assert not y.requires_grad


def test_unified_multiplies_in_proportion_to_top_k_and_sparse_not_at_all() -> None:
    def dense(unified: bool, top_k: int) -> int:
        layer, _ = made(20, 50, top_k, unified)
        y = layer(torch.rand(10, 20, requires_grad=True))
        with FlopCounterMode(display=False) as counted:
            y.sum().backward()
        return counted.get_total_flops()

    one_product = 2 * 10 * 20
    assert dense(unified=True, top_k=7) == 2 * one_product * 7
    assert dense(unified=False, top_k=40) == 2 * one_product * 50
    assert dense(unified=False, top_k=10) == 0


@both_forms
def test_gradients_handed_out_are_not_written_again(unified: bool) -> None:
    layer, _ = made(6, 12, 2, unified)
    layer(torch.randn(5, 6)).square().sum().backward()
    first = layer.weight.grad
    assert first is not None
    before = first.clone()
    layer.zero_grad()
    layer(torch.randn(5, 6)).square().sum().backward()
    assert torch.equal(first, before)
