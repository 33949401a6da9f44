"""What is beside the states of kept things: rates of optimizers, modes of modules; cut or not, they are the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer, lr_scheduler

from stantune.errors import CheckpointError
from stantune.objectives.function import beside
from stantune.training import checkpoint as checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")
SCHEDULES = {
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.5, 1, 6),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 6),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=7),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=4),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, 1, 3), lr_scheduler.ExponentialLR(optimizer, 0.5)],
        milestones=[3],
    ),
}
OPTIMIZERS = {
    "SGD": lambda model: SGD(model.parameters(), 0.1, momentum=0.9),
    "SGD with a tensor": lambda model: SGD(model.parameters(), torch.tensor(0.1), momentum=0.9),
    "Adam": lambda model: Adam(
        [{"params": [model.weight], "lr": 0.2}, {"params": [model.bias]}], 0.1, betas=(0.8, 0.99)
    ),
}
WAYS = ["before the optimizer is kept", "after it", "after it, without steps", "in a dict"]


def scheduled(optimizer_of, schedule_of, way, seen):
    """Return a function that notes its optimizer's numbers in each step."""

    def train(run):
        model = nn.Linear(2, 1)
        optimizer = optimizer_of(model)
        if way == WAYS[0]:
            schedule = schedule_of(optimizer)
        holder = {}
        run.keep(model=model, optimizer=optimizer, holder=holder)
        if way != WAYS[0]:
            schedule = schedule_of(optimizer)
        if way != "in a dict":
            run.keep(schedule=schedule)
        elif holder:
            schedule.load_state_dict(holder["schedule"])
        for _ in range(run.start, run.stop) if way.endswith("without steps") else run.steps():
            seen.append([numbers(group) for group in optimizer.param_groups])
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            schedule.step()
            if way == "in a dict":
                holder["schedule"] = schedule.state_dict()
        return model.weight.sum()

    return train


def numbers(group):
    """Return all of a group but its parameters, as it is now."""
    found = {key: value for key, value in group.items() if key != "params"}
    return {key: repr(value.item() if isinstance(value, torch.Tensor) else value) for key, value in found.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_cut_or_not_rates_are_the_same(trained, optimizer, schedule, way):
    seen: list[list[dict[str, str]]] = []
    train = scheduled(OPTIMIZERS[optimizer], SCHEDULES[schedule], way, seen)
    whole = trained(train, 0, 6)
    expected = list(seen)
    assert len({str(groups) for groups in expected}) > 3
    seen.clear()
    trained.checkpoint.unlink()
    for start, stop in ((0, 2), (2, 5), (5, 6)):
        cut = trained(train, start, stop)
    assert seen == expected
    assert cut.metrics == whole.metrics


def test_a_state_is_put_back_once_and_flags_stay_what_the_function_set(trained):
    """The state may be large; and a flag may say what weights are, which nobody has put back then."""
    loaded, seen = [], []

    class Flagged(SGD):
        def load_state_dict(self, state):
            loaded.append(len(state["param_groups"]))
            super().load_state_dict(state)

    def train(run):
        optimizer = Flagged([nn.Parameter(torch.ones(1))], 0.1)
        (group,) = optimizer.param_groups
        group.update(trains=False, names=["a"])
        run.keep(optimizer=optimizer)
        (group,) = optimizer.param_groups
        group.update(trains=True, names=["b"])
        run.keep(schedule=lr_scheduler.ExponentialLR(optimizer, 0.5))
        for _ in run.steps():
            seen.append((group["trains"], group["names"]))
            group["trains"] = False
        return 1.0

    trained(train, 0, 1)
    trained(train, 1, 2)
    assert loaded == [1]
    assert seen == [(True, ["b"])] * 2


def test_a_rate_that_is_a_tensor_remains_the_same_object():
    rate = torch.tensor(0.5)
    optimizer = SGD([nn.Parameter(torch.ones(1))], rate)
    groups = beside.groups_of(optimizer)
    for value in (0.25, 0.125):
        optimizer.param_groups[0]["lr"].fill_(value)
        beside.put_groups(optimizer, groups)
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate == 0.5
    optimizer.param_groups[0]["lr"] = 0.25
    beside.put_groups(optimizer, groups)
    optimizer.param_groups[0]["lr"].fill_(0.125)
    beside.put_groups(optimizer, groups)
    assert optimizer.param_groups[0]["lr"] == 0.5


class Layerwise(nn.Module):
    """Has groups of its own, which are no optimizer's."""

    def __init__(self):
        super().__init__()
        self.param_groups = [[nn.Parameter(torch.zeros(1))]]


@pytest.mark.parametrize("thing", [nn.Linear(1, 1), Layerwise(), {"param_groups": [{"lr": 1.0}]}, torch.zeros(1)])
def test_what_has_no_groups_is_left(thing):
    assert beside.groups_of(thing) == []
    beside.put_groups(thing, [])


def noting(seen, change, before=lambda run, model: None):
    """Return a function that notes the modes of its model at the beginning of each step, and changes them in it."""

    def train(run):
        model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        run.keep(model=model)
        before(run, model)
        for step in run.steps():
            seen.append((model.training, model[1].training, model[0].weight.requires_grad, model[0].bias.requires_grad))
            change(step, model)
        return 1.0

    return train


def leaves_evaluation(step, model):
    model.eval()


def freezes(step, model):
    if step == 1:
        model[0].weight.requires_grad_(False)


def there_and_back(step, model):
    model[1].train(step % 2 == 0)
    model[0].bias.requires_grad_(step % 3 == 0)
    model[0].weight.requires_grad_(step < 3)


def only_at_first(run, model):
    if run.start == 0:
        model.eval()
        model[0].bias.requires_grad_(False)


def test_modes_of_an_evaluation_behind_steps_that_were_left_are_not_those_of_the_next_segment(trained):
    seen = []

    def train(run):
        model = nn.Linear(1, 1)
        run.keep(model=model)
        model.train()
        for _ in run.steps():
            seen.append(model.training)
            if run.stop == 3:
                break
        model.eval()
        model.requires_grad_(False)
        return 1.0

    trained(train, 0, 3)
    seen.clear()
    trained(train, 3, 6)
    assert seen == [True] * 3


@pytest.mark.parametrize("before", [lambda run, model: None, lambda run, model: model.eval(), only_at_first])
@pytest.mark.parametrize("change", [lambda step, model: None, leaves_evaluation, freezes, there_and_back])
@pytest.mark.parametrize("cuts", [(1,), (2, 4), (1, 2, 3, 4, 5)])
def test_cut_or_not_modes_are_the_same(trained, before, change, cuts):
    seen: list[tuple[bool, ...]] = []
    train = noting(seen, change, before)
    trained(train, 0, 6)
    expected = list(seen)
    seen.clear()
    trained.checkpoint.unlink()
    for start, stop in zip((0, *cuts), (*cuts, 6), strict=True):
        trained(train, start, stop)
    assert seen == expected


def test_a_training_that_its_evaluation_leaves_without_dropout_is_the_same(trained):
    def train(run):
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        optimizer = SGD(model.parameters(), 0.1)
        run.keep(model=model, optimizer=optimizer)
        for _ in run.steps():
            loss = model(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.eval()
        return loss

    whole = trained(train, 0, 4).metrics
    trained.checkpoint.unlink()
    trained(train, 0, 2)
    assert trained(train, 2, 4).metrics == whole


def test_checkpoints_have_no_modes_where_they_are_as_they_were_given(trained):
    seen: list[tuple[bool, ...]] = []
    trained(noting(seen, lambda step, model: model.train()), 0, 2)
    assert "modes" not in torch.load(trained.checkpoint, weights_only=True)["state"]
    trained.checkpoint.unlink()
    trained(noting(seen, freezes), 0, 2)
    saved = torch.load(trained.checkpoint, weights_only=True)
    assert saved["state"]["modes"] == {"model": {"requires_grad": {"0.weight": False}}}
    # Those of before have none, and are read.
    del saved["state"]["modes"]
    checkpoints.save(trained.checkpoint, saved["identity"], saved["state"])
    seen.clear()
    trained(noting(seen, freezes), 2, 3)
    assert seen == [(True, True, True, True)]


def test_a_module_without_a_mode_has_none():
    model = nn.Sequential(nn.Linear(1, 1))
    # As of a scripted module that is frozen.
    del model[0].training
    modes = beside.modes_of(model)
    assert modes["training"] == {"": True}
    model.training = False
    assert beside.modes_beside(model, [modes]) == {"training": {"": False}}
    # What was not there is nothing that changed.
    model.append(nn.Linear(1, 1).eval())
    assert beside.modes_beside(model, [modes]) == {"training": {"": False}}
    beside.put_modes(model, modes)
    assert model.training
    assert not model[1].training


def adding(seen, remedy):
    """Return a function that trains its second layer from its third step on."""

    def train(run):
        model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        optimizer = SGD((model if remedy == "all at once" else model[0]).parameters(), 0.1, momentum=0.9)
        if remedy == "all at once":
            model[1].requires_grad_(False)
        if remedy == "before keep" and run.start > 2:
            optimizer.add_param_group({"params": list(model[1].parameters())})
        run.keep(model=model, optimizer=optimizer)
        for step in run.steps():
            if step == 2 and remedy == "all at once":
                model[1].requires_grad_(True)
            elif step == 2:
                optimizer.add_param_group({"params": list(model[1].parameters())})
            optimizer.zero_grad()
            model(torch.ones(1, 1)).sum().backward()
            optimizer.step()
            seen.append([each.item() for each in model.parameters()])
        return 1.0

    return train


@pytest.mark.parametrize("remedy", ["before keep", "all at once"])
def test_groups_that_were_added_are_told_with_a_remedy_that_works(trained, remedy):
    trained(adding([], None), 0, 3)
    with pytest.raises(
        CheckpointError,
        match=r"has another 'optimizer' than .* number of parameter groups\); call add_param_group before run\.keep "
        r"where a step that is done has called it \(`if run\.start > 5:`\), or give the optimizer all parameters at "
        r"once and freeze some of them until then by requires_grad_\(False\)$",
    ):
        trained(adding([], None), 3, 5)
    trained.checkpoint.unlink()
    seen: list[list[float]] = []
    trained(adding(seen, remedy), 0, 5)
    expected = list(seen)
    seen.clear()
    trained.checkpoint.unlink()
    for start, stop in ((0, 1), (1, 3), (3, 4), (4, 5)):
        trained(adding(seen, remedy), start, stop)
    assert seen == expected


def test_another_optimizer_of_as_many_groups_has_the_other_remedy(trained):
    def keeps(count):
        def train(run):
            optimizer: Optimizer = SGD([nn.Parameter(torch.ones(1)) for _ in range(count)], 0.1)
            run.keep(optimizer=optimizer)
            list(run.steps())
            return 1.0

        return train

    trained(keeps(1), 0, 1)
    with pytest.raises(CheckpointError, match=r"has another 'optimizer' than .*; call run\.keep as it was when"):
        trained(keeps(2), 1, 2)
