"""A layer that native kernels do not do and that computes every entry is idle, unless it is watched or remembers."""

from __future__ import annotations

import torch
from torch import nn

from stantune import Stan, accelerate_
from stantune.stan.config import Memo

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    """The first layer of a model is told of every pass; the second one is idle but for what is set on it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2))


def test_one_that_is_watched_chooses() -> None:
    model = network()
    handle = accelerate_(model, Stan(0.25, tolerance=100.0, period=3))
    model(IMAGES)
    assert [choice.layer for choice in handle.history] == ["0", "1"]


def test_one_that_remembers_does() -> None:
    model = network()
    handle = accelerate_(model, Stan(0.5, period=None, memo=Memo(samples=2, epoch=1, dtype="fp32")), IMAGES)
    handle.visit(torch.arange(2))
    exact = model(IMAGES)
    handle.step()
    torch.nn.init.zeros_(model[1].weight)
    torch.nn.init.zeros_(model[1].bias)
    handle.visit(torch.arange(2))
    output = model(IMAGES)
    kept = output != 0
    assert int(kept.sum()) == output.numel() // 2
    assert torch.equal(output[kept], exact[kept])
