"""What a layer chooses that is called several times in a refresh, and how much of that is kept."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.stan import handle as handles
from stantune.stan.entries.entries import PATTERNS
from stantune.stan.handle import StanHandle

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 0.3
# Neighbours are alike in the one and not in the other.
SMOOTH = nn.functional.interpolate(torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 1, (32, 32))
ROUGH = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
SMALL = SMOOTH[..., :4, :4]
EMPTY = SMOOTH[:0]


def accelerated() -> tuple[nn.Module, StanHandle]:
    head = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(head.weight)
    model = nn.Sequential(head)
    return model, accelerate_(model, Stan(0.25, tolerance=TOLERANCE, period=3))


def chosen_after(*batches: Tensor) -> object:
    """Return the pattern of the reduced iteration that follows a refresh on batches."""
    model, handle = accelerated()
    for batch in batches:
        model(batch)
    handle.step()
    grid = model[0].grid
    return None if grid is None else grid.pattern


def test_alone_one_is_reduced_and_the_other_is_not() -> None:
    assert chosen_after(SMOOTH) == PATTERNS["blocks"]
    assert chosen_after(ROUGH) is None


@pytest.mark.parametrize("batches", [(SMOOTH, ROUGH), (ROUGH, SMOOTH), (ROUGH, SMOOTH, EMPTY), (ROUGH, SMOOTH, SMALL)])
def test_no_output_of_an_iteration_exceeds_the_tolerance(batches: tuple[Tensor, ...]) -> None:
    assert chosen_after(*batches) is None
    model, handle = accelerated()
    for batch in batches:
        model(batch)
    (choice,) = handle.history
    assert min(choice.errors.values()) > TOLERANCE
    assert choice.pattern is None


@pytest.mark.parametrize("batches", [(SMOOTH, SMALL), (SMALL, SMOOTH), (SMOOTH, EMPTY), (EMPTY, SMOOTH)])
def test_outputs_that_cannot_be_reduced_say_nothing_of_the_others(batches: tuple[Tensor, ...]) -> None:
    assert chosen_after(*batches) == PATTERNS["blocks"]


@pytest.mark.parametrize("batch", [SMALL, EMPTY])
def test_a_refresh_on_such_outputs_alone_keeps_what_was_chosen(batch: Tensor) -> None:
    assert chosen_after(batch) is None
    model, handle = accelerated()
    model(SMOOTH)
    handle.seek(4)
    assert handle.phase == "refresh"
    model(batch)
    handle.step()
    assert model[0].grid.pattern == PATTERNS["blocks"]


def test_a_later_refresh_chooses_anew() -> None:
    model, handle = accelerated()
    model(ROUGH)
    handle.seek(4)
    model(SMOOTH)
    handle.step()
    assert model[0].grid.pattern == PATTERNS["blocks"]
    assert [(choice.iteration, choice.pattern) for choice in handle.history] == [(0, None), (4, PATTERNS["blocks"])]


@pytest.mark.parametrize("batches", [(SMOOTH, ROUGH * math.nan), (ROUGH * math.nan, SMOOTH)], ids=["last", "first"])
def test_an_output_that_is_not_finite_is_not_forgotten(batches: tuple[Tensor, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert chosen_after(*batches) is None


def test_choices_do_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "CHOICES", 5)
    model, handle = accelerated()
    for refresh in range(9):
        handle.seek(4 * refresh)
        model(SMOOTH)
    assert [choice.iteration for choice in handle.history] == [16, 20, 24, 28, 32]
    assert isinstance(handle.history, list)
