"""Schedules of a run's own length against their formulas, and by name in a solver."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stantune.errors import UsageError
from stantune.images.solving.schedules import SCHEDULES, Cosine, Fixed, Inv, MultiStep, OneCycle, Step, WarmUp, over
from stantune.images.solving.solver import Solver

relative = st.sampled_from([Cosine(), Cosine(0.1), OneCycle(), OneCycle(0.5, 0.1, 0.01), Step(), Step(0.25, 0.5)])
relative |= st.builds(WarmUp, st.floats(0, 0.9), st.sampled_from([Fixed(), Cosine(), Step(), MultiStep((3,), 0.5)]))


def test_cosine_is_pytorchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.2)
    ours = Cosine(0.2).over(30)
    for iteration in range(30):
        assert ours.factor(iteration) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_one_cycle_rises_and_falls() -> None:
    course = OneCycle(rise=0.25, start=0.1, end=0.01).over(40)
    factors = [course.factor(i) for i in range(40)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == 1.0 == max(factors)
    assert factors[5] == pytest.approx(0.55)
    assert factors == [*sorted(factors[:11]), *sorted(factors[11:], reverse=True)]
    assert factors[-1] < 0.015


def test_steps_come_after_each_share() -> None:
    course = Step(every=0.25, gamma=0.5).over(8)
    assert [course.factor(i) for i in range(10)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125]


def test_a_warm_up_rises_to_the_other_policy() -> None:
    course = WarmUp(0.3, Cosine()).over(10)
    cosine = Cosine().over(10)
    assert [course.factor(i) / cosine.factor(i) for i in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert WarmUp(0.0).over(10).factor(0) == 1.0


@given(policy=relative, length=st.integers(1, 300), factor=st.fractions(Fraction(1, 9), 9))
def test_every_factor_is_above_zero_and_a_scaled_course_is_longer(policy: Any, length: int, factor: Fraction) -> None:
    course = policy.over(length)
    factors = [course.factor(i) for i in range(length + 5)]
    assert all(0 < each <= 1 for each in factors)
    longer = course.scaled(factor)
    if not isinstance(policy, WarmUp):
        assert longer == policy.over(math.ceil(length * factor))
    assert over(policy, length) == course


def test_policies_with_times_of_their_own_stay_what_they_are() -> None:
    for policy in (Fixed(), Inv(0.1, 0.5), MultiStep((3,))):
        assert over(policy, 100) is policy


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_has_a_name_and_may_be_a_parameter(name: str) -> None:
    assert Solver(lr=1.0, policy=name).policy == SCHEDULES[name]()
    assert Solver(lr=1.0).course({"schedule": name}, 20) == over(SCHEDULES[name](), 20)
    assert Solver(lr=1.0, policy=name).is_relative(()) == (name != "fixed")


def test_a_warm_up_may_be_a_parameter() -> None:
    assert Solver(lr=1.0, policy="cosine", warmup=0.1).course({}, 20) == WarmUp(0.1, Cosine(), None).over(20)
    assert Solver(lr=1.0, policy="cosine").course({"warmup": 0.2}, 20) == WarmUp(0.2, Cosine(), None).over(20)
    assert Solver(lr=1.0, policy="cosine", warmup=0.1).course({"warmup": 0.0}, 20) == Cosine().over(20)
    assert Solver(lr=1.0, warmup=0.1).is_relative(())
    assert Solver(lr=1.0).is_relative(("warmup",))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="no schedule is called 'cosin': take fixed, cosine"):
        Solver(lr=1.0, policy="cosin")
    with pytest.raises(UsageError, match=r"The floor of a cosine schedule is 1.0: take a share from 0 up to"):
        Cosine(1.0)
    with pytest.raises(UsageError, match="The rise of a one-cycle schedule is 0"):
        OneCycle(rise=0.0)
    with pytest.raises(UsageError, match="every=0 or gamma=0"):
        Step(gamma=0.0)
    with pytest.raises(UsageError, match=r"Cosine does not know how long the run is: call its over\(length\)"):
        Cosine().factor(0)
