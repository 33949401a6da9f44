"""Lists and dicts that are kept: what was in them from the beginning is put back where others have it, too."""

from __future__ import annotations

import copy
import weakref
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from stantune.errors import CheckpointError
from stantune.objectives.function import course, things
from stantune.objectives.values import restored
from stantune.training import checkpoint as checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")
HOLDERS = {
    "a dict": lambda model: dict(model.named_parameters()),
    "a list": lambda model: list(model.parameters()),
    "nested": lambda model: {"layers": [(model[0].weight, model[0].bias), {2: tuple(model[1].parameters())}], "n": 0},
    "detached": lambda model: {"all": [each.detach() for each in model.parameters()]},
    "twice": lambda model: [*model.parameters(), {"again": list(model.parameters())}],
}


def trains(holder, as_first=False):
    """Return a function that keeps its model's parameters in what `holder` makes of the model."""

    def train(run):
        inputs, wanted = torch.randn(16, 3), torch.randn(16, 1)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        # Never trained by the optimizer, and yet a parameter.
        model[1].bias.requires_grad_(False)
        optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1, momentum=0.9)
        kept = {"optimizer": optimizer, "weights": holder(model)}
        run.keep(**dict(reversed(kept.items())) if as_first else kept)
        for _ in run.steps():
            loss = (model(inputs) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model[1].bias.mul_(0.9).add_(0.1)
        flat = torch.cat([each.detach().flatten() for each in model.parameters()])
        return {"loss": loss, **{str(place): value for place, value in enumerate(flat.tolist())}}

    return train


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("as_first", [True, False])
def test_parameters_remain_those_that_model_and_optimizer_have(trained, holder, as_first):
    train = trains(HOLDERS[holder], as_first)
    whole = trained(train, 0, 6).metrics
    trained.checkpoint.unlink()
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        cut = trained(train, start, stop).metrics
    assert cut == whole


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda held: {key: each.detach().clone() for key, each in held.items()}]
)
@pytest.mark.parametrize("holder", [nn.Module.state_dict, lambda model: dict(model.named_parameters())])
def test_what_replaced_them_is_not_written_into_them(trained, copied, holder):
    """The best weights, which are the model's own until the first step."""

    def train(run):
        model = nn.Linear(3, 1)
        best = {"weights": holder(model)}
        run.keep(model=model, best=best)
        for step in run.steps():
            if step == 0:
                best["weights"] = copied(holder(model))
            with torch.no_grad():
                model.weight.add_(1)
        return {"loss": model.weight.sum(), "best": best["weights"]["weight"].sum()}

    whole = trained(train, 0, 4).metrics
    assert whole["loss"] == pytest.approx(whole["best"] + 12, rel=1e-5)
    trained.checkpoint.unlink()
    for start, stop in ((0, 2), (2, 3), (3, 4)):
        cut = trained(train, start, stop).metrics
    assert cut == whole


@pytest.mark.parametrize("holder", [copy.deepcopy, lambda held: {key: each.clone() for key, each in held.items()}])
def test_what_was_replaced_is_not_held(trained, monkeypatch, holder):
    """Each copy of the best weights is as large as the model, on the GPU perhaps."""
    monkeypatch.setattr(course, "SAVE_SECONDS", 0.0)

    def train(run):
        model = nn.Linear(3, 1)
        best = {"weights": holder(model.state_dict()), "all": [torch.zeros(1)]}
        first = [weakref.ref(best["weights"]["weight"]), weakref.ref(best["all"][0])]
        best["weights"]["weight"] += 1
        run.keep(model=model, best=best)
        for step in run.steps():
            if step > run.start:
                # Those that were replaced are gone with the save.
                assert [held() for held in first] == [None, None]
            if step == run.start:
                # In a segment that goes on the function's own are gone at once.
                assert all((held() is None) == (run.start > 0) for held in first)
            best["weights"], best["all"] = holder(model.state_dict()), [torch.ones(1)]
        return 1.0

    trained(train, 0, 3)
    trained(train, 3, 5)


def test_what_was_away_at_a_save_is_put_back_in_the_functions_own(trained, monkeypatch):
    monkeypatch.setattr(course, "SAVE_SECONDS", 0.0)

    def train(run):
        model = nn.Linear(1, 1, bias=False)
        kept = {"weight": model.weight}
        run.keep(kept=kept)
        for step in run.steps():
            with torch.no_grad():
                model.weight.add_(1)
            kept["weight"] = torch.zeros(1) if step == 0 else model.weight
        return model.weight.sum()

    whole = trained(train, 0, 3).metrics
    trained.checkpoint.unlink()
    trained(train, 0, 2)
    assert trained(train, 2, 3).metrics == whole


def test_a_long_history_is_not_gone_through_number_by_number(monkeypatch):
    """A million numbers would take longer than all else of a save."""
    items, looked_into = things._items, []
    monkeypatch.setattr(things, "_items", lambda thing: looked_into.append(type(thing)) or items(thing))
    parts = list(things.parts({"losses": [0.5] * 1000, "of": ([1, "a", None, b"", 1j, True, 2.0],)}))
    assert [place for place, _ in parts] == [("losses",), ("of", 0)]
    assert looked_into == [dict, list, tuple, list]
    history = OrderedDict(losses=[0.5, [1.0], 2], more=Counter(a=3), last=(1, torch.ones(1)))
    places = iter([place for place, _ in things.parts(history)])
    assert things.in_given(history, places, {}) is history
    assert list(history.values()) == [[0.5, [1.0], 2], Counter(a=3), (1, torch.ones(1))]


def test_a_history_of_numbers_from_large_tensors_makes_no_large_file(trained):
    def train(run):
        history, last = [], torch.zeros(200, 200)[0, :2]
        run.keep(history=history, last=last)
        for step in run.steps():
            large = torch.full((200, 200), float(step))
            history.append(large[0, 0])
            last += 1
        return torch.stack(history).sum() + last.sum()

    whole = trained(train, 0, 8).metrics
    assert trained.checkpoint.stat().st_size < 50_000
    trained.checkpoint.unlink()
    trained(train, 0, 3)
    assert trained(train, 3, 8).metrics == whole


def test_arrays_and_containers_remain_those_that_others_have(trained):
    def train(run):
        weights, history, seen, counts = np.zeros(2), [], set(), {"steps": 0}
        run.keep(state={"weights": weights, "inner": (history, {"seen": seen}), "counts": counts})
        for step in run.steps():
            weights += step + 1
            history.append(step)
            seen.add(step)
            counts["steps"] += 1
        return {"loss": weights.sum(), "history": len(history), "seen": len(seen), **counts}

    whole = trained(train, 0, 4).metrics
    trained.checkpoint.unlink()
    trained(train, 0, 1)
    assert trained(train, 1, 4).metrics == whole


def test_what_is_frozen_meanwhile_remains_so(trained):
    def train(run):
        weight = torch.ones(1, requires_grad=True)
        run.keep(weights=[weight])
        frozen = not weight.requires_grad
        assert frozen == (run.start > 0)
        for _ in run.steps():
            weight.requires_grad_(False)
        return 1.0

    trained(train, 0, 1)
    trained(train, 1, 2)


def test_a_parameter_of_another_shape_is_refused(trained):
    def keeps(width):
        def train(run):
            run.keep(weights={"w": torch.zeros(width, requires_grad=True), "n": 0})
            list(run.steps())
            return 1.0

        return train

    trained(keeps(2), 0, 1)
    with pytest.raises(CheckpointError, match=r"has another 'weights' than the one that is kept now \(\(2,\) torch"):
        trained(keeps(3), 1, 2)


def read_only():
    array = np.zeros(2)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (torch.ones(1).expand(3), torch.zeros(1).expand(3)),
        (np.ones(2), read_only()),
        (torch.ones(2), torch.zeros(3)),
        (np.ones(2), np.zeros(2, np.int64)),
        (torch.ones(2).to_sparse(), torch.zeros(2).to_sparse()),
        ([1], {}),
    ],
)
def test_what_cannot_be_written_into_is_put_in_its_place(trained, first, later):
    def keeps(held):
        def train(run):
            kept = {"it": held}
            run.keep(kept=kept)
            list(run.steps())
            value = kept["it"][0]
            return float(value)

        return train

    trained(keeps(first), 0, 1)
    assert trained(keeps(later), 1, 2).metrics == {"loss": 1.0}


def test_files_that_do_not_say_where_anything_was_are_read(trained):
    def train(run):
        best = [0.0, torch.zeros(1), {"a": [1]}]
        run.keep(best=best)
        for step in run.steps():
            best[0] += 1
            best[1] += 1
            best[2]["a"].append(step)
        return {"loss": best[0], "tensor": best[1], "length": len(best[2]["a"])}

    trained(train, 0, 2)
    saved = torch.load(trained.checkpoint, weights_only=True)
    del saved["state"]["places"]
    checkpoints.save(trained.checkpoint, saved["identity"], saved["state"])
    assert trained(train, 2, 3).metrics == {"loss": 3.0, "tensor": 3.0, "length": 4.0}


@pytest.mark.parametrize("weight", [torch.ones(2, requires_grad=True), nn.Parameter(torch.ones(2)), torch.ones(2)])
def test_tensors_of_another_device_come_back_as_they_were(weight):
    found = restored({"stantune kind": "elsewhere", "value": weight}, "meta")
    assert found.is_leaf
    assert (type(found), found.requires_grad, found.device.type) == (type(weight), weight.requires_grad, "meta")


def test_a_metric_of_torchmetrics_is_kept_where_its_state_lasts():
    """By default their state_dict is empty: the page says how to have it full."""
    torchmetrics = pytest.importorskip("torchmetrics")
    one, other = torchmetrics.MeanMetric(), torchmetrics.MeanMetric()
    assert things.state_of(one, "mean") == {}
    for metric in (one, other):
        metric.persistent(True)
    one.update(torch.tensor([1.0, 2.0]))
    things.load(other, restored(things.state_of(one, "mean")))
    other.update(torch.tensor(6.0))
    assert other.compute() == 3
