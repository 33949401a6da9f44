"""meProp's linear layer against dense back propagation with the small components zeroed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.stan.meprop import MePropLinear, keep_largest


def oracle(grad: Tensor, top_k: int) -> Tensor:
    """Zero all but the top_k largest magnitudes of each row, by sorting Python lists."""
    out = torch.zeros_like(grad)
    for row, values in enumerate(grad.tolist()):
        order = sorted(range(len(values)), key=lambda i: -abs(values[i]))
        for i in order[:top_k]:
            out[row, i] = values[i]
    return out


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 6),
    inputs=st.integers(1, 7),
    outputs=st.integers(2, 12),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_gradients_follow_from_the_kept_components(
    batch: int, inputs: int, outputs: int, seed: int, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, outputs - 1), label="top_k")
    generator = torch.Generator().manual_seed(seed)
    layer = MePropLinear(inputs, outputs, top_k=top_k).double()
    x = torch.randn(batch, inputs, dtype=torch.float64, generator=generator, requires_grad=True)
    grad = torch.randn(batch, outputs, dtype=torch.float64, generator=generator)
    y = layer(x)
    assert torch.equal(y, nn.functional.linear(x, layer.weight, layer.bias))
    y.backward(grad)
    kept = oracle(grad, top_k)
    assert all(int(row.count_nonzero()) == top_k for row in kept)
    torch.testing.assert_close(layer.weight.grad, kept.T @ x.detach())
    torch.testing.assert_close(layer.bias.grad, kept.sum(0))
    torch.testing.assert_close(x.grad, kept @ layer.weight.detach())


@pytest.mark.parametrize("top_k", [0, 5, 6])
def test_no_top_k_is_ordinary_back_propagation(top_k: int) -> None:
    torch.manual_seed(0)
    layer = MePropLinear(4, 5, top_k=top_k).double()
    plain = nn.Linear(4, 5).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    for module in (layer, plain):
        module(x).square().sum().backward()
    assert layer.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_each_example_has_its_own_choice() -> None:
    grad = torch.tensor([[3.0, -4.0, 1.0], [0.5, 0.1, -0.6]])
    assert torch.equal(keep_largest(grad, 1), torch.tensor([[0.0, -4.0, 0.0], [0.0, 0.0, -0.6]]))


def test_ties_keep_exactly_top_k_and_always_the_same() -> None:
    grad = torch.ones(20, 300)
    grad[:, ::2] *= -1.0
    first = keep_largest(grad, 7)
    assert torch.equal(first.count_nonzero(dim=1), torch.full((20,), 7))
    assert all(torch.equal(keep_largest(grad.clone(), 7), first) for _ in range(5))


def test_a_row_with_fewer_nonzero_components_is_kept_whole() -> None:
    grad = torch.tensor([[0.0, 2.0, 0.0, -1.0]])
    assert torch.equal(keep_largest(grad, 3), grad)


def test_a_diverged_gradient_stays_visible() -> None:
    grad = torch.tensor([[1.0, float("nan"), 3.0]])
    assert torch.isnan(keep_largest(grad, 1)[0, 1])


def test_an_activation_in_place_may_follow() -> None:
    torch.manual_seed(0)
    grads = []
    for inplace in (False, True):
        torch.manual_seed(1)
        network = nn.Sequential(MePropLinear(6, 8, top_k=2), nn.ReLU(inplace=inplace), nn.Linear(8, 3))
        network(torch.ones(4, 6)).square().sum().backward()
        first = network[0]
        assert isinstance(first, MePropLinear)
        assert first.weight.grad is not None
        grads.append(first.weight.grad)
    assert torch.equal(grads[0], grads[1])
    assert int(grads[0].any(dim=1).sum()) <= 2


def test_evaluation_without_gradients_works() -> None:
    layer = MePropLinear(3, 4, top_k=1)
    with torch.no_grad():
        assert not layer(torch.ones(2, 3)).requires_grad


def test_a_negative_top_k_is_refused() -> None:
    with pytest.raises(UsageError, match="-2"):
        MePropLinear(3, 4, top_k=-2)
