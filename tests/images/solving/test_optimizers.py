"""PyTorch's optimizers by name: each makes the steps that PyTorch's own makes, and settings choose among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stantune.errors import UsageError
from stantune.images.solving.optimizers import KINDS, SettingError
from stantune.images.solving.solver import Multiplier, Solver
from stantune.training.steps import can_be_recorded


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, prepare: Any = lambda i: None) -> list[torch.Tensor]:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    for iteration in range(4):
        prepare(iteration)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_each_steps_as_pytorchs_own(kind: str) -> None:
    decay = {} if kind == "rprop" else {"weight_decay": 0.01}
    solver = Solver(kind=kind.upper(), lr=0.03, **decay)
    mine, theirs = network(), network()
    optimizer = solver.optimizer(mine)
    assert isinstance(optimizer, KINDS[kind])
    ours = trained(mine, optimizer, lambda i: solver.set_iteration(optimizer, i))
    for one, other in zip(ours, trained(theirs, KINDS[kind](theirs.parameters(), lr=0.03, **decay)), strict=True):
        torch.testing.assert_close(one, other)
    assert not can_be_recorded(optimizer) or kind == "sgd"


def test_nesterovs_momentum_and_other_options_are_pytorchs() -> None:
    for solver, own in (
        (
            Solver(lr=0.1, momentum=0.9, options={"nesterov": True}, policy="cosine"),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        ),
        (
            Solver(kind="rmsprop", lr=0.01, momentum=0.5, options={"alpha": 0.8, "centered": True}),
            lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, alpha=0.8, centered=True),
        ),
        (
            Solver(kind="adamw", lr=0.01, options={"betas": (0.8, 0.9), "eps": 1e-3}),
            lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.0),
        ),
    ):
        mine, theirs = network(), network()
        optimizer = solver.optimizer(mine)
        for one, other in zip(trained(mine, optimizer), trained(theirs, own(theirs.parameters())), strict=True):
            torch.testing.assert_close(one, other)
        assert not can_be_recorded(optimizer)


def test_a_setting_chooses_the_optimizer_and_its_numbers() -> None:
    solver = Solver(lr=0.1, momentum=0.9, options={"dampening": 0.0}, multipliers={"*.bias": Multiplier(lr=2.0)})
    optimizer = solver.optimizer(network(), {"optimizer": "adamw", "beta1": 0.8, "weight_decay": 0.1, "0_l2": 0.3})
    assert type(optimizer) is torch.optim.AdamW
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.999)}
    assert sorted((group["lr"], group["weight_decay"]) for group in optimizer.param_groups) == [
        (0.1, 0.1),
        (0.1, 0.3),
        (0.2, 0.1),
        (0.2, 0.3),
    ]
    own = Solver(kind="adam", lr=0.1, options={"betas": (0.5, 0.6)})
    assert own.optimizer(network(), {"beta2": 0.7}).param_groups[0]["betas"] == (0.5, 0.7)
    nesterov = solver.optimizer(network(), {"nesterov": True})
    assert nesterov.param_groups[0]["nesterov"]
    solver.set_iteration(nesterov, 3)
    assert nesterov.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("solver", "setting", "message"),
    [
        ({"options": {"beta": 1}}, {}, "sgd has no option 'beta': take dampening, nesterov"),
        ({"kind": "rmsprop", "options": {"lr": 1}}, {}, "rmsprop has no option 'lr'"),
        ({"options": {"nesterov": True}}, {}, r"sgd cannot be made \(Nesterov momentum requires"),
        ({}, {"beta1": 0.5}, r"has beta1, and sgd does not: leave it out, or .* when=.* with adam, adamax, adamw"),
        ({}, {"optimizer": "adam", "momentum": 0.5}, "has momentum, and adam does not: .* with rmsprop, sgd"),
        ({}, {"optimizer": "rprop", "weight_decay": 0.5}, "has a weight decay, and rprop has none"),
        ({}, {"optimizer": "adma"}, r"no optimizer 'adma' \(did you mean adam"),
        ({"kind": "adam"}, {"beta1": 1.5}, "adam cannot be made"),
        ({"kind": "rprop", "weight_decay": 0.5}, {}, "The solver has a weight decay of 0.5, but rprop has none"),
    ],
)
def test_what_an_optimizer_does_not_take_is_told(solver: Any, setting: Any, message: str) -> None:
    with pytest.raises(SettingError if setting else UsageError, match=message):
        Solver(**{"lr": 0.1, **solver}).optimizer(network(), setting)


def test_the_solvers_own_decay_is_for_optimizers_that_have_one() -> None:
    solver = Solver(lr=0.1, weight_decay=0.5, momentum=0.9)
    assert {group["weight_decay"] for group in solver.optimizer(network(), {"optimizer": "rprop"}).param_groups} == {0}
    with pytest.raises(SettingError, match="The setting has a weight decay, and rprop has none: leave it out"):
        solver.optimizer(network(), {"optimizer": "rprop", "0_l2": 0.3})


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("option", ["foreach", "differentiable"])
def test_another_form_of_a_step_may_be_asked_for(kind: str, option: str) -> None:
    optimizer = Solver(lr=0.1, kind=kind, options={option: True}).optimizer(network())
    assert optimizer.param_groups[0][option]
    assert not optimizer.param_groups[0].get("fused")
