"""The memory of a handle's layers: which visits are reduced, and that no entry is remembered for ever."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stantune import Stan, accelerate_
from stantune.stan.config import Memo

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_batch_with_a_sample_that_is_new_is_computed_whole() -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(1, 1, 1), torch.randn(3, 1, 8, 8)
    exact = copy.deepcopy(layer)(images)
    handle = accelerate_(layer, Stan(0.5, period=None, memo=Memo(samples=3, epoch=2)), images[:2])
    for ids in ([0, 1], [0, 2]):
        handle.visit(torch.tensor(ids))
        torch.testing.assert_close(layer(images[ids]), exact[ids])
        handle.step()


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d])
@pytest.mark.parametrize("rate", [0.5, 0.25])
@pytest.mark.parametrize("positions", ["grid", "changed"])
def test_a_visit_computes_its_share_and_all_entries_take_their_turn(
    positions: str, rate: float, kind: type[nn.Conv1d | nn.Conv2d]
) -> None:
    torch.manual_seed(0)
    layer = kind(1, 1, 1)
    images = torch.randn(4, 1, *[8] * len(layer.kernel_size))
    memo = Memo(samples=4, epoch=2, positions=positions)
    handle = accelerate_(layer, Stan(rate, period=None, memo=memo), images[:2])
    for iteration in range(24):
        ids = torch.arange(2) + 2 * (iteration % 2)
        if iteration == 4:  # each sample was computed whole twice: what is not zero from now on is remembered
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        handle.visit(ids)
        output = layer(images[ids])
        if iteration in (4, 5):
            assert int((output != 0).sum()) == (1 - rate) * output.numel()
        if iteration >= 22:
            assert not output.any()
        handle.step()
