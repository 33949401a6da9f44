"""Which components of a gradient meProp keeps: the largest, for each example or for all, where some are equal, too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from meprop_oracle import both_forms, check, made

from stantune.stan.layers.meprop import largest, linear_unified


def test_each_example_has_its_own_choice() -> None:
    grad = torch.tensor([[3.0, -4.0, 1.0], [0.5, 0.1, -0.6]])
    assert largest(grad, 1).tolist() == [[False, True, False], [False, False, True]]


def test_unified_examples_share_the_choice_of_the_largest_sum_of_magnitudes() -> None:
    layer, _ = made(1, 3, 1, unified=True)
    # Column sums of magnitudes 4, 3.5, 5; plain sums 2, 3.5, -1; the largest component is in column 0.
    layer(torch.ones(2, 1)).backward(torch.tensor([[3.0, 1.5, 2.0], [-1.0, 2.0, -3.0]]))
    assert layer.weight.grad is not None
    assert layer.weight.grad.flatten().tolist() == [0.0, 0.0, -1.0]
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [2.0, 3.5, -1.0]


@given(
    rows=st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), min_size=width, max_size=width), min_size=1
        )
    ),
    data=st.data(),
)
def test_ties_keep_exactly_top_k_of_the_largest(rows: list[list[float]], data: st.DataObject) -> None:
    grad = torch.tensor(rows)
    top_k = data.draw(st.integers(1, grad.shape[1]), label="top_k")
    for row, kept in zip(grad.abs(), largest(grad, top_k), strict=True):
        assert sorted(row[kept].tolist()) == sorted(row.tolist())[-top_k:]


@both_forms
def test_examples_with_fewer_nonzero_components_than_top_k(unified: bool) -> None:
    layer, plain = made(3, 20, 4, unified)
    grad = torch.randn(6, 20)
    grad[1] = 0.0
    grad[2, 2:] = 0.0
    x = torch.randn(6, 3, requires_grad=True)
    check(layer, plain, x, grad)
    check(layer, plain, x, torch.zeros(6, 20))


@both_forms
@pytest.mark.parametrize("top_k", [7, 200])
def test_ties_are_settled_in_the_same_way_each_time(top_k: int, unified: bool) -> None:
    grad = torch.ones(20, 300)
    grad[:, ::2] *= -1.0
    firsts = []
    for _ in range(4):
        layer, _ = made(3, 300, top_k, unified)
        layer(torch.ones(20, 3)).backward(grad.clone())
        assert layer.weight.grad is not None
        assert int(layer.weight.grad.any(dim=1).sum()) == top_k
        firsts.append(layer.weight.grad)
    assert all(torch.equal(first, firsts[0]) for first in firsts)


def test_a_row_with_fewer_nonzero_components_is_kept_whole() -> None:
    grad = torch.tensor([[0.0, 2.0, 0.0, -1.0]])
    assert torch.equal(grad.where(largest(grad, 3), 0), grad)


@both_forms
@pytest.mark.parametrize("top_k", [1, 2, 6])
@pytest.mark.parametrize("lost", [1, 5])
def test_a_diverged_gradient_stays_visible(lost: int, top_k: int, unified: bool) -> None:
    layer, _ = made(3, 10, top_k, unified)
    grad = torch.arange(20.0).reshape(2, 10) + 1.0
    grad[0, :lost] = torch.nan
    layer(torch.ones(2, 3)).backward(grad)
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    for gradient, shown in ((layer.bias.grad, lost), (layer.weight.grad[:, 0], min(top_k, lost))):
        assert int(gradient[:lost].isnan().sum()) == shown
        assert not gradient[lost:].isnan().any()


def test_sums_of_half_precision_do_not_overflow() -> None:
    x = torch.zeros(4, 1, dtype=torch.float16)
    bias = torch.zeros(3, dtype=torch.float16, requires_grad=True)
    y = linear_unified(x, torch.zeros(3, 1, dtype=torch.float16), bias, 1, sparse_bias=True)
    # Both sums are above the greatest number of half precision, 65504.
    y.backward(torch.tensor([[3e4, 4e4, 1.0], [3e4, 4e4, 1.0], [-3e4, -4e4, 0.0], [0.0, 0.0, 0.0]]).half())
    assert bias.grad is not None
    assert bias.grad.nonzero().flatten().tolist() == [1]
