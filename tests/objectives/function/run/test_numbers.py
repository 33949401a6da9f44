"""The numbers that a function gives: its losses, their curve, what it returns, and which of them are a divergence."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from stantune.errors import StantuneError
from stantune.objectives.returned import LossError, ReturnError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "returned",
    [
        {"loss": 0.5, "n": 3},
        {"loss": np.float32(0.5), "n": np.int64(3)},
        {"loss": torch.tensor([[0.5]], requires_grad=True), "n": torch.tensor(3)},
        {"loss": np.array([0.5]), "n": 3, "unknown": math.nan},
        {"loss": np.ma.array([0.5]), "n": np.ma.array(3, mask=False), "unknown": np.ma.masked},
    ],
)
def test_metrics_are_pythons_numbers(trained, returned):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = trained(lambda run: returned)
    assert outcome.metrics == {"loss": 0.5, "n": 3.0}
    assert all(type(value) is float for value in outcome.metrics.values())


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (None, r"train returned None; return \{'loss': number\}, or the number alone"),
        ("0.5", "train returned a str; return"),
        ({}, "train returned nothing, and not 'loss', by which trials are compared; return it too"),
        ({"f1": 1, "n": 2}, "train returned 'f1', 'n', and not 'loss', by which"),
        ({"loss": None}, "train returned None as 'loss'; a metric is one number"),
        ({"loss": [0.5]}, "train returned a list as 'loss'"),
        ({"loss": True}, "train returned a bool as 'loss'"),
        ({"loss": torch.zeros(2)}, "train returned a Tensor as 'loss'"),
        ({"loss": np.zeros(2)}, "train returned a ndarray as 'loss'"),
        ({"loss": np.ma.masked_all(2)}, "train returned a MaskedArray as 'loss'"),
        (10**400, "train returned a whole number of 401 digits as 'loss', and a metric is at most some 1.8e308"),
        ({"loss": -(10**4000)}, "train returned a whole number of 4001 digits as 'loss'"),
        ({"loss": 1, "n": "many"}, "a str as 'n'; a metric is one number, also where it is not compared as 'loss' is:"),
        ({3: 0.5}, "train returned a metric called 3; a metric's name is a text"),
    ],
)
def test_what_is_no_metric_fails_the_trial(trained, returned, sentence):
    with pytest.raises(ReturnError, match=sentence) as raised:
        trained(lambda run: returned)
    # One trial's misfortune; a StantuneError would end the search.
    assert not isinstance(raised.value, StantuneError)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", "'a'"),
        ("0.5", "'0.5'"),
        (None, "None"),
        ([0.5], "a list"),
        (1j, "a complex"),
        (torch.zeros(3), r"a Tensor of shape \(3,\)"),
        (np.zeros((2, 2)), r"a ndarray of shape \(2, 2\)"),
    ],
)
def test_a_loss_that_is_no_number_is_told_in_a_sentence(trained, value, shown):
    with pytest.raises(LossError, match=rf"^`value` of run\.loss is {shown}, and a loss is one number; give") as raised:
        trained(lambda run: run.loss(value))
    assert not raised.value.again


def test_every_kind_of_number_is_a_loss(trained):
    seen = []

    def train(run):
        for value in (1, 0.5, Fraction(1, 2), np.float32(0.5), np.ones(1), torch.ones(1, 1), torch.tensor(1)):
            run.loss(value)
        seen.extend(mean for _, mean in run.curve)
        return 1.0

    trained(train)
    assert seen == [1, 0.5, 0.5, 0.5, 1, 1, 1]
    assert trained(lambda run: run.loss(10**400), 0, 3).diverged_at == 0


def test_what_a_gpu_has_to_say_is_no_matter_of_the_metric(trained):
    class Faulty:
        def item(self):
            raise RuntimeError("CUDA error: out of memory")

    for function in (lambda run: run.loss(Faulty()), lambda run: Faulty()):
        with pytest.raises(RuntimeError, match="out of memory"):
            trained(function)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.ma.masked, np.ma.array([3.0], mask=[True])])
def test_a_compared_metric_that_is_not_finite_is_a_divergence(trained, value):
    outcome = trained(lambda run: {"loss": value, "other": 1.0}, 0, 3)
    assert (outcome.diverged_at, outcome.metrics, outcome.iterations) == (3, {}, 3)


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan), np.float32("inf"), np.ma.masked])
def test_a_loss_that_is_not_finite_ends_the_function_at_once(trained, loss):
    after = []

    def train(run):
        kept = [0]
        run.keep(kept=kept)
        for step in run.steps():
            try:
                run.loss(loss if step == 2 else 0.5)
            except Exception:
                after.append("swallowed")
            if step == 2:
                after.append(step)
        return 1.0

    outcome = trained(train, 0, 5)
    assert (outcome.iterations, outcome.diverged_at, outcome.metrics, outcome.interrupted) == (2, 2, {}, False)
    assert after == []
    # Done again it diverges again.
    assert trained(train, 0, 5) == outcome


def test_a_divergence_stays_one_whatever_becomes_of_its_exception(trained):
    def swallows(run):
        for _ in run.steps():
            try:
                run.loss(math.nan)
            except BaseException:
                break
        return 1.0

    def wraps(run):
        try:
            run.loss(math.nan)
        except BaseException as error:
            raise RuntimeError("something went wrong") from error

    def goes_on(run):
        for _ in run.steps():
            try:
                run.loss(math.nan)
            except BaseException:
                continue
        return 1.0

    for train in (swallows, wraps, goes_on):
        assert trained(train).diverged_at == 0


def test_losses_of_tensors_with_gradients_do_not_warn(trained):
    def train(run):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run.loss(torch.ones((), requires_grad=True))
            run.loss(np.float64(1))
            run.loss(1)
        return run.curve[-1][1]

    assert trained(train).metrics == {"loss": 1.0}


def test_the_curve_goes_on(trained):
    curves = []

    def train(run):
        kept = [0]
        run.keep(kept=kept)
        for step in run.steps():
            for i in range(300):
                run.loss(step * 300.0 + i)
        curves.append(run.curve)
        return 1.0

    trained(train, 0, 4)
    trained.checkpoint.unlink()
    trained(train, 0, 1)
    trained(train, 1, 4)
    assert curves[0] == curves[2]
    assert len(curves[0]) <= 512
    ends = [count for count, _ in curves[0]]
    assert ends[-1] == 1200
    for (before, _), (count, mean) in pairwise([(0, 0.0), *curves[0]]):
        assert mean == pytest.approx((before + count - 1) / 2)
