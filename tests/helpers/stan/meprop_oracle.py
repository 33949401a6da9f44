"""meProp's layer beside an nn.Linear of the same weights, which is given what sorting leaves of the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stantune.stan.layers.meprop import MePropLinear

both_forms = pytest.mark.parametrize("unified", [False, True], ids=["per example", "unified"])


def oracle(grad: Tensor, top_k: int, unified: bool) -> Tensor:
    """Zero all but the top_k largest magnitudes of each row, or of the columns' sums, by sorting Python lists."""
    rows = grad.reshape(-1, grad.shape[-1])
    magnitudes = [[abs(value) for value in row] for row in rows.tolist()]
    if unified:
        magnitudes = [[sum(column) for column in zip(*magnitudes, strict=True)]] * len(rows)
    out = torch.zeros_like(rows)
    for row, values in enumerate(magnitudes):
        for i in sorted(range(len(values)), key=lambda i: -values[i])[:top_k]:
            out[row, i] = rows[row, i]
    return out.reshape(grad.shape)


def made(inputs: int, outputs: int, top_k: int, unified: bool, bias: bool = True) -> tuple[MePropLinear, nn.Linear]:
    """Return a layer and an nn.Linear of the same weights."""
    torch.manual_seed(0)
    layer = MePropLinear(inputs, outputs, bias, top_k=top_k, unified=unified)
    plain = nn.Linear(inputs, outputs, bias)
    plain.load_state_dict(layer.state_dict())
    return layer, plain


def check(layer: MePropLinear, plain: nn.Linear, x: Tensor, grad: Tensor) -> None:
    """Compare forward and backward of both, where plain is given what the oracle leaves of the gradient."""
    layer.zero_grad()
    plain.zero_grad()
    mine, its = x.detach().requires_grad_(x.requires_grad), x.detach().requires_grad_(x.requires_grad)
    y = layer(mine)
    expected = plain(its)
    assert torch.equal(y, expected)
    y.backward(grad)
    expected.backward(oracle(grad, layer.top_k, layer.unified))
    if not layer.sparse_bias and plain.bias is not None and plain.bias.grad is not None:
        # Whole: that of ordinary back propagation.
        plain.bias.grad = grad.reshape(-1, grad.shape[-1]).sum(0)
    for got, wanted in ((mine, its), (layer.weight, plain.weight), (layer.bias, plain.bias)):
        if wanted is not None:
            assert (got.grad is None) == (wanted.grad is None)
            if wanted.grad is not None:
                torch.testing.assert_close(got.grad, wanted.grad)


def assert_train_alike(one: nn.Module, other: nn.Module, x: Tensor) -> None:
    """Compare the gradients that a pass of `x` through each gives all parameters, bit for bit."""
    for module in (one, other):
        module(x).square().sum().backward()
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert torch.equal(mine.grad, its.grad)
