"""Handles move the layers that are still their own: parts of a model may be restored, accelerated anew, or copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from stantune import NoEffectWarning, Stan, accelerate_, restore_
from stantune.stan.config import Memo
from stantune.stan.entries.entries import PLANE, Grid
from stantune.stan.graphs import GraphedStep
from stantune.stan.handle import StanHandle
from stantune.stan.layers.meprop import MeProp

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)))


@pytest.mark.parametrize("rate", [1, 0.5])
def test_a_part_that_was_accelerated_anew_is_not_the_old_handles(rate: float) -> None:
    model = network()
    old = accelerate_(model, Stan(0.25, period=None))
    restore_(model[1])
    new = accelerate_(model[1], Stan(rate, period=None))
    layer = model[1][0]
    for _ in range(3):
        new.step()
        before = layer.grid
        old.step()
        assert layer.grid == before
        assert (before and before.pattern.rate) == (None if rate == 1 else rate)
        assert model[0].grid is not None
    assert (old.kept, new.kept) == ((0.25 + 1) / 2, rate)


def test_a_whole_model_that_was_accelerated_anew_is_not_the_old_handles() -> None:
    """An optimizer's hook may still step the old one."""
    model = network()
    old = accelerate_(model, Stan(0.25, period=1))
    model(torch.randn(2, 3, 12, 12))
    restore_(model)
    new = accelerate_(model, Stan(0.25, period=None))
    new.step()
    grids = [model[0].grid, model[1][0].grid]
    assert None not in grids
    model(torch.randn(2, 3, 12, 12))
    last = model[0].last
    assert last
    for _ in range(2):
        old.step()
        assert [model[0].grid, model[1][0].grid] == grids
        assert model[0].last is last


@pytest.mark.parametrize("keep", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
def test_a_handle_that_is_copied_with_its_model_moves_the_copy(
    keep: Callable[[tuple[nn.Sequential, StanHandle]], tuple[nn.Sequential, StanHandle]],
) -> None:
    model = network()
    handle = accelerate_(model, Stan(0.25, period=None))
    other, its = keep((model, handle))
    assert (other[0].grid, other[1][0].grid) == (None, None)
    before = model[0].grid
    its.seek(7)
    assert model[0].grid is before
    handle.seek(7)
    assert (other[0].grid, other[1][0].grid) == (model[0].grid, model[1][0].grid)
    restore_(other)
    its.step()
    assert "grid" not in other[0].__dict__


def test_a_handle_that_is_copied_with_its_model_goes_on_remembering() -> None:
    model, images, ids = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 12, 12), torch.tensor([0, 1])
    handle = accelerate_(model, Stan(0.25, period=1, memo=Memo(samples=2, epoch=1)), images)
    handle.visit(ids)
    model(images)
    other, its = copy.deepcopy((model, handle))
    found = []
    for each, whose in ((model, handle), (other, its)):
        whose.step()
        whose.visit(ids)
        found.append(each(2 * images))
    assert torch.equal(*found)
    restore_(model)
    assert not torch.allclose(found[0], model(2 * images))


def test_layers_that_compute_everything_count_as_such() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    handle = accelerate_(model, Stan(0.25, period=None))
    nn.utils.parametrizations.spectral_norm(model[0])
    for _ in range(2):
        model(torch.randn(2, 3, 16, 16))
        handle.step()
    assert handle.kept == (1 + 0.25) / 2


@pytest.mark.parametrize("removed", ["before", "after", "restored"])
def test_a_copy_of_a_layer_that_was_parametrized_trains_exactly(removed: str) -> None:
    """PyTorch's way of copying such a layer would take all along that the handle has set."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    images = torch.randn(2, 3, 16, 16)
    exact = model(images)
    accelerate_(model, Stan(0.25, period=None))
    nn.utils.parametrizations.weight_norm(model[0])
    if removed == "before":
        nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    if removed == "restored":
        restore_(model)
    other = copy.deepcopy(model)
    assert other[0].bias is not model[0].bias
    if removed != "before":
        nn.utils.parametrize.remove_parametrizations(other[0], "weight")
    torch.testing.assert_close(other(images), exact)
    restore_(other)
    assert type(other[0]) is nn.Conv2d
    torch.testing.assert_close(other(images), exact)


def test_a_layer_whose_class_was_derived_twice_is_restored() -> None:
    """As FSDP does to a layer that was parametrized."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    accelerate_(model, Stan(0.25, period=None))
    nn.utils.parametrizations.weight_norm(model[0])
    model[0].__class__ = type("Sharded", (type(model[0]),), {})
    restore_(model)
    assert not any("stantune" in kind.__module__ for kind in type(model[0]).__mro__)
    assert type(model[0]).__name__ == "Sharded"
    with pytest.warns(NoEffectWarning, match="Sharded is not nn.Conv2d itself"):
        accelerate_(model, Stan(0.25, period=None))


def test_a_handle_that_was_pickled_by_an_earlier_version_moves_its_layers() -> None:
    model = network()
    handle = accelerate_(model, Stan(0.25, period=None))
    # The layers' pickles had no sizes then, and the handle's no errors.
    other, its = copy.deepcopy(model), StanHandle.__new__(StanHandle)
    state = {**handle.__dict__, "_layers": [other[0], other[1][0]], "_sizes": [{}, {}]}
    for layer in state["_layers"]:
        del layer.sizes
    del state["_errors"]
    its.__setstate__(state)
    handle.seek(7)
    its.seek(7)
    assert None not in (other[0].grid, other[1][0].grid)
    assert (other[0].grid, other[1][0].grid) == (model[0].grid, model[1][0].grid)
    restore_(other)
    its.step()
    assert "grid" not in other[0].__dict__


class Unrecorded:
    """Only runs steps, and says what it is asked."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def run(self, step: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        self.done.append("run")
        return step(*inputs)

    def record(self, step: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> Callable[[], torch.Tensor]:
        self.done.append("record")
        return lambda: step(*inputs)


def test_a_graphed_step_goes_on_with_a_model_that_was_restored_and_accelerated_anew() -> None:
    model, recorder = nn.Sequential(nn.Linear(8, 8), *network()), Unrecorded()
    step = GraphedStep(model, model, recorder=recorder)
    accelerate_(model, Stan(0.25, period=None, layers=("1",)))
    images = torch.randn(2, 3, 8, 8)
    for _ in range(2):
        step(images)
    restore_(model)
    for _ in range(2):
        step(images)
    accelerate_(model, Stan(0.25, period=None))
    for _ in range(2):
        step(images)
    # Each set of entries comes for the first time, and for the second.
    assert recorder.done == ["run", "record"] * 3


def graphed(model: nn.Module) -> tuple[Callable[[], object], list[str]]:
    """Return what does a step twice, and what it did."""
    recorder = Unrecorded()
    step = GraphedStep(model, model, recorder=recorder)
    images = torch.randn(2, 3, 8, 8)
    return lambda: [step(images) for _ in range(2)], recorder.done


@pytest.mark.usefixtures("no_kernels")  # those have all convolutions have entries
def test_the_same_entries_of_another_layer_are_another_graph() -> None:
    model = nn.Sequential(nn.Linear(8, 8), *network())
    twice, done = graphed(model)
    grid = Grid(PLANE["columns"], 0, 0)
    for name, layer in (("1", model[1]), ("2.0", model[2][0])):
        accelerate_(model, Stan(0.5, period=None, layers=(name,)))
        layer.grid = grid
        twice()
        restore_(model)
    assert done == ["run", "record"] * 2


@pytest.mark.parametrize("other", [MeProp(2), MeProp(3, unified=True), MeProp(3, sparse_bias=True), None])
def test_another_meprop_is_another_graph(other: MeProp | None) -> None:
    model = nn.Linear(8, 8)
    twice, done = graphed(model)
    for meprop in (MeProp(3), other):
        if meprop is not None:
            accelerate_(model, Stan(1, meprop=meprop))
        twice()
        restore_(model)
    assert done == ["run", "record"] * 2


def test_a_part_that_is_frozen_is_another_graph() -> None:
    model = network()
    twice, done = graphed(model)
    for _ in range(2):
        twice()
        model[0].requires_grad_(False)
    assert done == ["run", "record"] * 2


def test_autocast_around_a_step_makes_another_graph() -> None:
    twice, done = graphed(network())
    for enabled, dtype in ((False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float16)):
        with torch.autocast("cpu", dtype, enabled=enabled):
            twice()
    assert done == ["run", "record"] * 3
