"""A solver's file: each rule steps as Caffe's, each policy gives Caffe's rates; all else is refused by line."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from caffe_files import SOLVER, layer, network, write
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.images.prototxt.policies import Exponential, Logistic, Polynomial, Steps
from stantune.images.prototxt.reading import from_caffe
from stantune.images.prototxt.solver_file import read_solver
from stantune.images.prototxt.syntax.text import RefusalError


def moves(text: str, gradients: list[Tensor]) -> Tensor:
    """Where a weight of 0s is after steps with these gradients, by the solver that a file gives."""
    solver = read_solver(text, {}).solver
    weight = nn.Module()
    weight.w = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = solver.optimizer(weight)
    for iteration, gradient in enumerate(gradients):
        solver.set_iteration(optimizer, iteration)
        weight.w.grad = gradient.clone()
        optimizer.step()
    return weight.w.detach()


def caffes(kind: str, gradients: list[Tensor], lr: float = 0.1) -> Tensor:
    """The same by the formulas of Caffe's solvers: momentum 0.9, momentum2 0.99, rms_decay 0.8, delta 1e-3."""
    w = torch.zeros(4, dtype=torch.float64)
    v, h, u = (torch.zeros_like(w) for _ in range(3))
    for step, g in enumerate(gradients, 1):
        if kind == "SGD":
            v = 0.9 * v + lr * g
            w = w - v
        elif kind == "Nesterov":
            before, v = v, 0.9 * v + lr * g
            w = w - (1.9 * v - 0.9 * before)
        elif kind == "AdaGrad":
            h = h + g * g
            w = w - lr * g / (h.sqrt() + 1e-3)
        elif kind == "RMSProp":
            h = 0.8 * h + 0.2 * g * g
            w = w - lr * g / (h.sqrt() + 1e-3)
        elif kind == "AdaDelta":
            h = 0.9 * h + 0.1 * g * g
            d = g * ((u + 1e-3) / (h + 1e-3)).sqrt()
            u = 0.9 * u + 0.1 * d * d
            w = w - lr * d
        else:
            v = 0.9 * v + 0.1 * g
            h = 0.99 * h + 0.01 * g * g
            # Caffe adds delta before the correction, PyTorch after it.
            correction = math.sqrt(1 - 0.99**step)
            w = w - lr * correction / (1 - 0.9**step) * v / (h.sqrt() + 1e-3 * correction)
    return w


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_each_rule_steps_as_caffes(kind: str) -> None:
    made = torch.Generator().manual_seed(0)
    gradients = [torch.randn(4, generator=made, dtype=torch.float64) for _ in range(5)]
    numbers = "" if kind in ("AdaGrad", "RMSProp") else "momentum: 0.9 "
    text = f'base_lr: 0.1 lr_policy: "fixed" max_iter: 9 delta: 1e-3 momentum2: 0.99 rms_decay: 0.8 {numbers}'
    expected = caffes(kind, gradients)
    for said in (f'type: "{kind}"', f"solver_type: {kind.upper()}"):
        assert torch.allclose(moves(text + said, gradients), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ('"fixed"', lambda i: 1.0),
        ('"step" gamma: 0.5 stepsize: 7', lambda i: 0.5 ** (i // 7)),
        ('"exp" gamma: 0.99', lambda i: 0.99**i),
        ('"inv" gamma: 0.1 power: 0.75', lambda i: (1 + 0.1 * i) ** -0.75),
        ('"multistep" gamma: 0.1 stepvalue: 5 stepvalue: 20', lambda i: 0.1 ** ((i >= 5) + (i >= 20))),
        ('"poly" power: 2', lambda i: (1 - i / 50) ** 2),
        ('"sigmoid" gamma: -0.2 stepsize: 25', lambda i: 1 / (1 + math.exp(0.2 * (i - 25)))),
    ],
)
def test_each_policy_gives_caffes_rates(words: str, rate) -> None:  # type: ignore[no-untyped-def]
    policy = read_solver(f"base_lr: 1 max_iter: 50 lr_policy: {words}", {}).solver.policy
    for iteration in range(50):
        assert policy.factor(iteration) == pytest.approx(rate(iteration), rel=1e-12)  # type: ignore[union-attr]
    # Also in a run that is longer.
    assert policy.factor(60) > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", [Steps(7, 0.5), Exponential(0.99), Polynomial(2, 50), Logistic(-0.2, 25)])
def test_a_policy_of_a_longer_run_is_as_far_at_the_same_share(policy) -> None:  # type: ignore[no-untyped-def]
    longer = policy.scaled(Fraction(3, 2))
    for iteration in range(0, 50, 2):
        assert longer.factor(3 * iteration // 2) == pytest.approx(policy.factor(iteration), rel=1e-9)


@pytest.mark.parametrize("kind", ["Nesterov", "SGD", "Adam"])
def test_momentum_is_searched_where_it_is_one(kind: str, tmp_path: Path) -> None:
    files = write(tmp_path, network(layer("ReLU")), f'{SOLVER}momentum: 0.5 type: "{kind}"')
    assert ("momentum" in from_caffe(*files, "mnist").space) == (kind != "Adam")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "the solver has no max_iter; give one"),
        ("max_iter: 0", 1, "max_iter is 0; give 1 or more"),
        ("max_iter: 9", 1, "the solver has no base_lr; give one"),
        ("max_iter: 9\nbase_lr: 0", 2, "base_lr is 0.0; give more than 0"),
        ("max_iter: 9 base_lr: 1", 1, "the solver has no lr_policy; give one"),
        (f"{SOLVER}momentum: -1", 4, "momentum is -1.0; give 0 or more"),
        (f'{SOLVER}type: "Lion"', 4, "type is 'Lion'; take SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam"),
        (f'{SOLVER}type: "SGD"\nsolver_type: ADAM', 5, "there are both type and solver_type; leave out one"),
        (f'{SOLVER}type: "Nesterov"', 1, 'Nesterov has no momentum; give one above 0, or type: "SGD"'),
        (f'{SOLVER}type: "AdaGrad" momentum: 0.9', 4, "momentum is 0.9; AdaGrad takes none, as in Caffe; remove it"),
        (f'{SOLVER}type: "Adam" momentum2: 1', 4, "momentum2 is 1.0; Adam takes 0 up to, not including, 1"),
        (f'{SOLVER}type: "AdaDelta" momentum: 2', 4, "momentum is 2.0; AdaDelta takes 0 to 1"),
        (f'{SOLVER}type: "RMSProp" rms_decay: 1', 4, "rms_decay is 1.0; RMSProp takes 0 up to, not including, 1"),
        (f"{SOLVER}clip_gradients: 5", 4, "clip_gradients is 5.0; gradients are not clipped here; remove it"),
        (f"{SOLVER}iter_size: 2", 4, "iter_size is 2; gradients are not summed over batches here; remove it"),
        (f'{SOLVER}regularization_type: "L1"', 4, "regularization_type is 'L1'; take L2"),
        (f"{SOLVER}net_param {{ nix: 1 }}", 4, "net_param holds a network; write that into a file of its own"),
        (f'{SOLVER}weights: "w"', 4, "weights begins with others' weights, which is not taken; remove it"),
        (f"{SOLVER}train_state {{ }}", 4, "train_state chooses layers, which is not taken; remove it"),
        (SOLVER.replace("fixed", "plateau"), 2, "lr_policy is 'plateau'; take fixed, step, exp, inv, multistep, poly"),
        (SOLVER.replace("fixed", "step"), 1, "the solver has no stepsize, which the policy step needs; give one"),
        (SOLVER.replace("fixed", "step") + "stepsize: 0", 4, "stepsize is 0; give more than 0"),
        (
            SOLVER.replace("fixed", "multistep") + "stepvalue: [2, 1]",
            4,
            "needs stepvalue, each larger than that before",
        ),
        (SOLVER.replace("fixed", "inv") + "gamma: -1 power: 1", 4, "gamma is -1.0; give 0 or more"),
        (
            SOLVER.replace("fixed", "exp") + "gamma: 1e-30",
            2,
            "the policy exp multiplies the rate by 0.0 at iteration 99",
        ),
        (
            SOLVER.replace("fixed", "exp") + "gamma: 1e30",
            2,
            "the policy exp multiplies the rate by inf at iteration 99",
        ),
    ],
)
def test_what_is_not_taken_is_refused_on_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(RefusalError) as caught:
        read_solver(text, {})
    assert words in caught.value.words
    assert caught.value.line == line


@pytest.mark.parametrize("make", [lambda: Steps(0, 1), lambda: Exponential(0), lambda: Polynomial(math.nan, 3)])
def test_a_policy_of_impossible_numbers_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="take a"):
        make()
