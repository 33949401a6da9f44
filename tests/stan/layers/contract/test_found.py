"""What the contract's test has found by chance, each for itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compared import LAST, NATIVE
from drawn_layers import Remembered, filled
from torch import nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils.checkpoint import checkpoint

from stantune.stan.entries.entries import PLANE, EntryMatrix, Grid
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d

pytestmark = [*NATIVE, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    "entries", [Grid(PLANE["columns"], 0, 1), EntryMatrix(torch.rand(3, 12) < 2)], ids=["grid", "E"]
)
def test_outputs_of_turned_sequences_can_be_viewed_as_stocks(entries: Any) -> None:
    conv, input = nn.Conv1d(4, 6, 3, padding=1), torch.randn(3, 12, 4).transpose(1, 2)
    conv.__class__ = StanConv1d
    conv.grid = entries
    conv(input).view(3, -1)


@pytest.mark.parametrize("order", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("remembers", [True, False])
def test_outputs_of_any_entries_are_laid_out_as_stocks(remembers: bool, order: torch.memory_format) -> None:
    conv, input = nn.Conv2d(4, 6, 3), torch.randn(3, 4, 7, 7).to(memory_format=order)
    expected = conv(input).stride()
    entries = EntryMatrix(torch.ones(3, 5, 5, dtype=torch.bool))
    made = filled(
        conv, entries, Remembered(entries, torch.randn(3, 6, 5, 5).to(memory_format=LAST)) if remembers else None
    )
    made.accelerate(conv)
    assert conv(input).stride() == expected
    assert conv.double()(input.double()).stride() == expected


def test_a_checkpoint_computes_again_what_it_has_computed_under_a_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3))
    stock, input = copy.deepcopy(model), torch.randn(2, 3, 12, 12)
    stock(input).square().sum().backward()
    for place in (0, 2):
        model[place].__class__ = StanConv2d
        model[place].grid = Grid(PLANE["blocks"], 0, 0)
    with BaseTorchFunctionMode():
        output = checkpoint(model, input, use_reentrant=False)
    output.square().sum().backward()
    for found, expected in zip(model.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize(
    "entries", [Grid(PLANE["columns"], 0, 1), EntryMatrix(torch.rand(2, 6, 6) < 2)], ids=["grid", "E"]
)
def test_weights_of_another_type_are_refused_in_pytorchs_words(entries: Any) -> None:
    conv, input = nn.Conv2d(3, 8, 3).double(), torch.randn(2, 3, 8, 8)
    with pytest.raises(RuntimeError) as stock:
        conv(input)
    conv.__class__ = StanConv2d
    conv.grid = entries
    with pytest.raises(RuntimeError) as found:
        conv(input)
    assert str(found.value) == str(stock.value)
