"""meProp's linear layer against dense back propagation with the small components zeroed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stantune.errors import UsageError
from stantune.stan.config import Stan
from stantune.stan.layers.meprop import MeProp, MePropLinear, largest, linear_unified

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
    for module in (layer, plain):
        module(x).square().sum().backward()
    assert_same_gradients(layer, plain)


def assert_same_gradients(one: nn.Module, other: nn.Module) -> None:
    """Compare the gradients of all parameters, bit for bit."""
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert torch.equal(mine.grad, its.grad)


@both_forms
def test_evaluation_mode_is_ordinary_back_propagation(unified: bool) -> None:
    layer, plain = made(4, 12, 2, unified)
    layer.eval()
    x = torch.randn(3, 4)
    for module in (layer, plain):
        module(x).square().sum().backward()
    assert_same_gradients(layer, plain)


@both_forms
def test_evaluation_without_gradients_works(unified: bool) -> None:
    layer, plain = made(3, 4, 1, unified)
    with torch.no_grad():
        y = layer(torch.ones(2, 3))
        assert torch.equal(y, plain(torch.ones(2, 3)))
    assert not y.requires_grad


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


def test_sums_of_half_precision_do_not_overflow() -> None:
    x = torch.zeros(4, 1, dtype=torch.float16)
    bias = torch.zeros(3, dtype=torch.float16, requires_grad=True)
    y = linear_unified(x, torch.zeros(3, 1, dtype=torch.float16), bias, 1, sparse_bias=True)
    # Both sums are above the greatest number of half precision, 65504.
    y.backward(torch.tensor([[3e4, 4e4, 1.0], [3e4, 4e4, 1.0], [-3e4, -4e4, 0.0], [0.0, 0.0, 0.0]]).half())
    assert bias.grad is not None
    assert bias.grad.nonzero().flatten().tolist() == [1]


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
    for module in (layer, plain):
        module(x).square().sum().backward()
    assert_same_gradients(layer, plain)
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
    for module in (layer, other):
        module(x).square().sum().backward()
    assert_same_gradients(layer, other)
    assert f"top_k=2, unified={unified}, sparse_bias=False" in repr(other)


@pytest.mark.parametrize("top_k", [-2, 1.5, True])
def test_a_top_k_that_is_no_number_of_components_is_refused(top_k: int) -> None:
    with pytest.raises(UsageError, match=f"top_k={top_k} of meProp"):
        MePropLinear(3, 4, top_k=top_k)
    with pytest.raises(UsageError, match=f"top_k={top_k} of meProp"):
        MeProp(top_k)


@pytest.mark.parametrize("layers", ["fc1", ()])
def test_layers_that_are_no_tuple_of_names_are_refused(layers: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"`meprop\.layers`"):
        MeProp(80, layers=layers)


def test_what_was_made_when_biases_were_always_sparse_is_known_again() -> None:
    before = {"top_k": 3, "unified": False, "layers": ("*",)}
    assert MeProp(3, sparse_bias=True).identity == before
    assert MeProp(3).identity == before | {"sparse_bias": False}
    assert Stan(meprop=MeProp(3)).identity["meprop"] == MeProp(3).identity


def test_settings_are_values() -> None:
    settings = MeProp(0)
    assert settings == MeProp(0, unified=False, layers=("*",), sparse_bias=False)
    with pytest.raises(FrozenInstanceError):
        settings.top_k = 1  # type: ignore[misc]
