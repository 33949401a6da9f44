"""Solvers against a literal loop of Caffe's update, and their reading of settings."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stantune.errors import StantuneError, UsageError
from stantune.images.nets.cifar import ALEXLRN_SOLVER, CQ_SOLVER, alexlrn, cq
from stantune.images.solving.optimizers import SettingError
from stantune.images.solving.solver import Fixed, Inv, Multiplier, MultiStep, Policy, Solver
from stantune.kernels.sgd import Sgd
from stantune.training.steps import numbers_of


class Tiny(nn.Module):
    """Two layers, one of them a convolution in channels_last, with gradients that depend on the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3)
        self.fc1 = nn.Linear(3, 2)
        self.double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, iteration: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(iteration)
        x = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=generator)
        scores: torch.Tensor = self.fc1(torch.tanh(self.conv1(x)).flatten(1))
        return scores.square().mean()


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny()


def rates_and_decays(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def step(solver: Solver, optimizer: torch.optim.Optimizer, model: Tiny, iteration: int) -> None:
    solver.set_iteration(optimizer, iteration)
    optimizer.zero_grad()
    model.loss(iteration).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@pytest.mark.parametrize("policy", [Fixed(), Inv(0.3, 0.75), MultiStep((3, 5), 0.1), MultiStep((2,), 3.0)])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.5])
def test_sgd_is_caffes(policy: Policy, momentum: float) -> None:
    multipliers = {"*.bias": Multiplier(lr=2.0, decay=0.0), "fc1.weight": Multiplier(lr=0.5, decay=250.0)}
    solver = Solver(lr=0.05, momentum=momentum, weight_decay=4e-3, policy=policy, multipliers=multipliers)
    model, other = tiny(), tiny()
    optimizer = solver.optimizer(model, {})
    table = {
        "conv1.weight": (1.0, 1.0),
        "conv1.bias": (2.0, 0.0),
        "fc1.weight": (0.5, 250.0),
        "fc1.bias": (2.0, 0.0),
    }
    velocity = {name: torch.zeros_like(p) for name, p in other.named_parameters()}
    for iteration in range(9):
        step(solver, optimizer, model, iteration)
        other.zero_grad()
        other.loss(iteration).backward()  # type: ignore[no-untyped-call]
        rate = 0.05 * policy.factor(iteration)
        with torch.no_grad():
            for name, w in other.named_parameters():
                assert w.grad is not None
                lr, decay = table[name]
                gradient = w.grad + 4e-3 * decay * w
                velocity[name] = momentum * velocity[name] + rate * lr * gradient
                w.sub_(velocity[name])
        torch.testing.assert_close(dict(model.named_parameters()), dict(other.named_parameters()), rtol=1e-12, atol=0)


def test_a_plain_torch_sgd_would_not_do() -> None:
    """The momentum correction matters: without it the update after a milestone is another one."""
    solver = Solver(lr=0.05, momentum=0.9, policy=MultiStep((2,), 0.1))
    corrected, plain = tiny(), tiny()
    first, second = solver.optimizer(corrected), solver.optimizer(plain)
    for iteration in range(4):
        step(solver, first, corrected, iteration)
        solver.set_iteration(second, iteration)
        for group in second.param_groups:
            group["momentum"] = 0.9
        second.zero_grad()
        plain.loss(iteration).backward()  # type: ignore[no-untyped-call]
        second.step()
    assert not torch.allclose(corrected.fc1.weight, plain.fc1.weight, rtol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_resumed_run_goes_on_bit_for_bit(kind: Any) -> None:
    solver = Solver(
        kind=kind, lr=0.05, momentum=0.9 if kind == "sgd" else 0.0, weight_decay=0.01, policy=Inv(0.2, 0.75)
    )
    setting = {"lr": 0.02, "conv1_l2": 0.3}
    whole = tiny()
    optimizer = solver.optimizer(whole, setting)
    for iteration in range(7):
        step(solver, optimizer, whole, iteration)

    begun = tiny()
    optimizer = solver.optimizer(begun, setting)
    for iteration in range(3):
        step(solver, optimizer, begun, iteration)
    file = io.BytesIO()
    torch.save({"model": begun.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = tiny(seed=1)
    resumed.load_state_dict(state["model"])
    optimizer = solver.optimizer(resumed, setting)
    optimizer.load_state_dict(state["optimizer"])
    for iteration in range(3, 7):
        step(solver, optimizer, resumed, iteration)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    milestones=st.lists(st.integers(0, 50), max_size=4).map(lambda m: tuple(sorted(m))),
    iteration=st.integers(0, 60),
)
def test_multistep_counts_milestones_from_their_own_iteration_on(milestones: tuple[int, ...], iteration: int) -> None:
    passed = 0
    for now in range(iteration + 1):
        passed += milestones.count(now)
    assert MultiStep(milestones, 0.5).factor(iteration) == 0.5**passed


def test_inv_is_caffes() -> None:
    assert Inv(1e-4, 0.75).factor(0) == 1.0
    assert Inv(1e-4, 0.75).factor(5_000) == pytest.approx(0.7377879, rel=1e-6)


factors = st.fractions(min_value=Fraction(1, 50), max_value=Fraction(50))


@settings(max_examples=80)
@given(
    milestones=st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
    factor=factors,
    iteration=st.integers(0, 10**7),
)
def test_a_scaled_multistep_is_where_the_original_was(
    milestones: tuple[int, ...], factor: Fraction, iteration: int
) -> None:
    policy = MultiStep(milestones, 0.5)
    then = iteration * factor.denominator // factor.numerator
    assert policy.scaled(factor).factor(iteration) == policy.factor(then)


def test_milestones_are_scaled_without_rounding_errors() -> None:
    assert MultiStep((4000,), 0.1).scaled(Fraction(3333, 5000)) == MultiStep((2667,), 0.1)
    assert MultiStep((5,), 0.1).scaled(Fraction(3, 5)) == MultiStep((3,), 0.1)
    # In floats 50 · 0.14 is more than 7.
    assert MultiStep((50, 100), 0.1).scaled(Fraction(7, 50)) == MultiStep((7, 14), 0.1)
    assert MultiStep((60_000, 65_000), 0.1).scaled(Fraction(1)) == MultiStep((60_000, 65_000), 0.1)


@settings(max_examples=60)
@given(factor=factors, iteration=st.integers(0, 10**5))
def test_a_scaled_inv_is_where_the_original_was(factor: Fraction, iteration: int) -> None:
    scaled = Inv(1e-4, 0.75).scaled(factor)
    assert scaled.factor(iteration) == pytest.approx((1 + 1e-4 * float(iteration / factor)) ** -0.75, rel=1e-12)


def test_a_constant_rate_stays_constant() -> None:
    assert Fixed().scaled(Fraction(2, 3)) == Fixed()


def test_the_setting_overrides_the_solver() -> None:
    model = cq()
    optimizer = CQ_SOLVER.optimizer(model, {"lr": 0.5, "momentum": 0.3, "weight_decay": 0.2, "hidden": 12})
    found = rates_and_decays(optimizer, model)
    assert found["conv1.weight"] == (0.5, 0.2)
    assert found["fc2.bias"] == (1.0, 0.2)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.3}
    assert len(optimizer.param_groups) == 2


def test_a_layers_own_decay_takes_no_other_multiplier() -> None:
    model = alexlrn()
    found = rates_and_decays(ALEXLRN_SOLVER.optimizer(model, {"fc1_l2": 0.5, "conv2_l2": 0.0}), model)
    assert found["fc1.weight"] == (1e-3, 0.5)
    assert found["fc1.bias"] == (2e-3, 0.0), "a decay multiplier of 0 stays 0"
    assert found["conv2.weight"] == (1e-3, 0.0)
    assert found["conv2.bias"] == (2e-3, 0.0)
    assert found["conv1.weight"] == (1e-3, 4e-3)
    assert found["conv1.bias"] == (2e-3, 4e-3)


def test_groups_come_in_the_order_of_the_model() -> None:
    model = tiny()
    solver = Solver(lr=1.0, weight_decay=0.1, multipliers={"*.bias": Multiplier(lr=2.0)})
    groups = solver.optimizer(model, {"fc1_l2": 0.7}).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1.0, 0.1), (2.0, 0.1), (1.0, 0.7), (2.0, 0.7)]


def test_the_first_matching_glob_counts() -> None:
    model = tiny()
    multipliers = {"fc1.*": Multiplier(lr=3.0), "*.bias": Multiplier(lr=2.0)}
    found = rates_and_decays(Solver(lr=1.0, multipliers=multipliers).optimizer(model), model)
    assert [found[name][0] for name in ("conv1.weight", "conv1.bias", "fc1.bias")] == [1.0, 2.0, 3.0]


def test_frozen_parameters_are_left_out() -> None:
    model = tiny()
    model.conv1.requires_grad_(False)
    assert set(rates_and_decays(Solver(lr=1.0).optimizer(model), model)) == {"fc1.weight", "fc1.bias"}


def test_a_layer_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(SettingError, match=r"conv9_l2.*no layer 'conv9': take conv1_l2, fc1_l2\.$"):
        Solver(lr=1.0).optimizer(tiny(), {"conv9_l2": 0.1})


def test_a_glob_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'\*\.bais'"):
        Solver(lr=1.0, multipliers={"*.bais": Multiplier(lr=2.0)}).optimizer(tiny())


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.1", None, True])
@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "conv1_l2"])
def test_a_value_that_is_no_rate_is_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=name):
        Solver(lr=1.0).optimizer(tiny(), {name: value})


def test_what_one_setting_cannot_have_ends_no_search() -> None:
    assert not issubclass(SettingError, StantuneError)
    with pytest.raises(SettingError, match=r"warm-up of a schedule is .*: take a share"):
        Solver(lr=1.0).course({"warmup": 1.5}, 10)
    # What the solver itself cannot have, no setting could.
    with pytest.raises(UsageError, match="Nesterov"):
        Solver(lr=1.0, options={"nesterov": True}).optimizer(tiny(), {"width": 3})


def test_impossible_solvers_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no optimizer 'adagard' .did you mean adagrad"):
        Solver(kind="adagard", lr=1.0)
    with pytest.raises(UsageError, match="lr"):
        Solver(lr=-1.0)
    with pytest.raises(UsageError, match="momentum"):
        Solver(kind="adam", lr=1.0, momentum=0.9)
    with pytest.raises(SettingError, match="momentum"):
        Solver(kind="adam", lr=1.0).optimizer(tiny(), {"momentum": 0.9})
    with pytest.raises(UsageError, match="gamma"):
        MultiStep((1,), 0.0)
    with pytest.raises(UsageError, match="gamma"):
        Inv(-1.0, 0.75)
    with pytest.raises(UsageError, match="decay"):
        Multiplier(decay=-1.0)


def test_a_policy_that_reaches_zero_is_refused() -> None:
    solver = Solver(lr=1.0, policy=MultiStep((1,), 1e-200))
    optimizer = solver.optimizer(tiny())
    solver.set_iteration(optimizer, 1)
    solver = Solver(lr=1.0, policy=MultiStep((1, 2), 1e-200))
    with pytest.raises(UsageError, match="iteration 2"):
        solver.set_iteration(optimizer, 2)


def test_a_step_depends_on_the_rate_unless_it_follows() -> None:
    solver = Solver(lr=1.0, momentum=0.9, policy=Inv(0.1, 0.75))
    optimizer = solver.optimizer(tiny())
    assert isinstance(optimizer, Sgd)
    numbers = []
    for iteration in range(4):
        if iteration == 2:
            optimizer.follow()
        solver.set_iteration(optimizer, iteration)
        numbers.append(numbers_of(optimizer))
    assert len({hash(each) for each in numbers[:3]}) == 3
    assert numbers[2] == numbers[3]
    optimizer.param_groups[0]["momentum"] = 0.0
    assert numbers_of(optimizer) != numbers[3]
    optimizer.param_groups[0]["weight_decay"] = 0.5
    assert numbers_of(optimizer) != numbers[3]


def test_solvers_are_values() -> None:
    assert Solver(lr=1.0) == Solver(lr=1.0) != Solver(lr=2.0)
    assert hash(CQ_SOLVER) == hash(CQ_SOLVER)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_components_of_gradients_are_clipped_before_each_step(kind: str) -> None:
    model, other = tiny(), tiny()
    solver = Solver(lr=0.05, kind=kind, clip=0.03)
    optimizer = solver.optimizer(model)
    plain = replace(solver, clip=None).optimizer(other)
    for iteration in range(5):
        step(solver, optimizer, model, iteration)
        plain.zero_grad()
        other.loss(iteration).backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in other.parameters() if parameter.grad is not None]
        assert any((gradient.abs() > 0.03).any() for gradient in gradients)
        for gradient in gradients:
            gradient.copy_(
                torch.tensor([max(-0.03, min(0.03, g)) for g in gradient.flatten().tolist()]).view_as(gradient)
            )
        plain.step()
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize(
    ("clip", "message"),
    [(0.0, "clip is 0 and leaves no gradient"), (-1.0, "clip"), (math.nan, "clip"), ("5", "clip")],
)
def test_a_clip_that_bounds_nothing_is_refused(clip: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Solver(lr=0.1, clip=clip)
