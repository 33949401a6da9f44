"""Passes without gradients are exact, and leave what STAN keeps alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from compared import NATIVE, agree, images, network, reduced
from torch import nn

from stantune import Stan, accelerate_
from stantune.stan.config import Memo

pytestmark = NATIVE


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_passes_without_gradients_are_exact(without: Callable[[], AbstractContextManager[object]]) -> None:
    model = network()
    reference = copy.deepcopy(model)
    reduced(model, 0.25)
    loader = [images(8) + shift for shift in range(3)]
    with without():
        for batch in loader:
            agree(model(batch), reference(batch))
    agree(list(model.buffers()), list(reference.buffers()))
    torch.optim.swa_utils.update_bn(loader, model)
    torch.optim.swa_utils.update_bn(loader, reference)
    agree(list(model.buffers()), list(reference.buffers()))


def test_passes_without_gradients_leave_the_memory_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 18 * 18, 4))
    stock = copy.deepcopy(model)
    memo = Memo(samples=4, epoch=1)
    handle = accelerate_(model, Stan(rate=0.5, period=2, memo=memo, linear=("3",)), example=images())
    for _ in range(3):
        with torch.no_grad():  # before anybody has said which samples these are
            agree(model(images()), stock(images()))
        handle.visit(torch.arange(4))
        model(images()).sum().backward()
        with torch.no_grad():
            agree(model(images()), stock(images()))
        handle.step()


def test_passes_without_gradients_choose_nothing_and_count_for_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    handle = accelerate_(model, Stan(rate=0.5, tolerance=0.9))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(201):
            model(images(1))
    assert not handle.history
    model(images(1))
    assert len(handle.history) == 1
