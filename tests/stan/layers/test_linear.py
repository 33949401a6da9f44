"""A linear layer computed in a block of neurons equals a dense product of which the others are replaced."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stantune import Stan, accelerate_
from stantune.stan.config import Memo
from stantune.stan.layers.linear import linear_in_block, neuron_block


@given(neurons=st.integers(1, 40), parts=st.integers(1, 9), first=st.integers(0, 10**6))
def test_in_as_many_turns_as_parts_every_neuron_is_computed_once(neurons, parts, first):
    blocks = [neuron_block(neurons, parts, first + turn) for turn in range(parts)]
    assert sorted(place for block in blocks for place in range(neurons)[block]) == list(range(neurons))
    sizes = [len(range(neurons)[block]) for block in blocks]
    assert max(sizes) - min(sizes) <= 1
    assert [neuron_block(neurons, parts, first + parts + turn) for turn in range(parts)] == blocks


@settings(max_examples=40)
@given(
    batch=st.integers(1, 4),
    inputs=st.integers(1, 5),
    neurons=st.integers(1, 7),
    parts=st.integers(1, 3),
    turn=st.integers(0, 2),
    bias=st.booleans(),
)
def test_values_and_gradients_equal_the_dense_product_among_constants(batch, inputs, neurons, parts, turn, bias):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    leaves = [drawn(batch, inputs), drawn(neurons, inputs), *([drawn(neurons)] if bias else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    remembered, upstream = drawn(batch, neurons), drawn(batch, neurons)
    block = neuron_block(neurons, parts, turn)
    computed = torch.zeros(neurons, dtype=torch.bool)
    computed[block] = True
    input, weight, offset = leaves[0], leaves[1], leaves[2] if bias else None
    wanted = torch.where(computed, F.linear(input, weight, offset), remembered)
    gradients = torch.autograd.grad(wanted, leaves, upstream, allow_unused=True, materialize_grads=True)
    given_memory = remembered.clone()
    output = linear_in_block(input, weight, offset, block, given_memory)
    torch.testing.assert_close(output, wanted)
    assert output.data_ptr() == given_memory.data_ptr()
    for one, other in zip(torch.autograd.grad(output, leaves, upstream), gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("memory", [torch.float32, torch.bfloat16])
def test_under_autocast_the_output_has_the_memorys_type(memory):
    weight = torch.randn(6, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = linear_in_block(torch.randn(2, 3), weight, None, slice(0, 3), torch.ones(2, 6, dtype=memory))
    assert output.dtype == memory
    output.float().sum().backward()
    assert weight.grad[:3].any()
    assert not weight.grad[3:].any()


def test_all_rows_of_a_weight_that_was_put_in_take_their_turn() -> None:
    layer, images = nn.Linear(4, 2, bias=False), torch.randn(3, 4)
    layer.weight = nn.Parameter(torch.randn(6, 4))
    handle = accelerate_(layer, Stan(0.5, period=None, linear=("*",), memo=Memo(samples=3, epoch=1)), images)
    for _ in range(3):
        handle.visit(torch.arange(3), images)
        output = layer(images)
        handle.step()
        with torch.no_grad():
            layer.weight.zero_()
    # None is left of the first visit's, which computed all.
    assert not output.any()


def test_autocast_leaves_what_is_remembered_of_doubles_as_it_is() -> None:
    layer, images = nn.Linear(4, 6).double(), torch.randn(3, 4, dtype=torch.float64)
    handle = accelerate_(layer, Stan(0.5, period=None, linear=("*",), memo=Memo(samples=3, epoch=1)), images)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            handle.visit(torch.arange(3), images)
            assert layer(images).dtype is torch.float64
            handle.step()


@pytest.mark.filterwarnings("ignore:Complex modules", "ignore:STAN changes nothing")
@pytest.mark.parametrize("late", [False, True])
def test_complex_numbers_are_pytorchs(late: bool) -> None:
    """Memo remembers none of them, and nothing is lost of them."""
    layer, stan = nn.Linear(4, 6), Stan(0.5, period=None, linear=("*",), memo=Memo(samples=3, epoch=1))
    images = torch.randn(3, 4, dtype=torch.complex64)
    if not late:
        layer.to(torch.complex64)
    handle = accelerate_(layer, stan, torch.randn(3, 4) if late else images)
    (line,) = handle.report
    assert bool(line.patterns) is late
    assert late or line.reason == "its weights are complex, and memo remembers real numbers alone"
    layer.to(torch.complex64)
    stock = nn.Linear(4, 6).to(torch.complex64)
    for _ in range(3):
        with torch.no_grad():
            layer.weight.mul_(2)
        stock.load_state_dict(layer.state_dict())
        handle.visit(torch.arange(3))
        gradients = []
        for each in (layer, stock):
            each.zero_grad()
            output = each(images)
            output.abs().sum().backward()
            gradients += [output, each.weight.grad, each.bias.grad]
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(gradients[:3], gradients[3:], strict=True))
        handle.step()
