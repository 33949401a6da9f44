"""Native SGD against PyTorch's: weights and velocities step by step, and who makes the step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stantune.kernels import library, sgd
from stantune.kernels.library import plain_pytorch
from stantune.kernels.sgd import Sgd

pytestmark = pytest.mark.usefixtures("form", "_threads")
EPSILON = torch.finfo(torch.float32).eps


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parameters each native step had."""
    seen: list[int] = []
    kernels = library.kernels()

    class Spied:
        def stan_sgd(self, parameters: Any, count: int, threads: int) -> None:
            seen.append(count)
            assert kernels.library is not None
            kernels.library.stan_sgd(parameters, count, threads)

    monkeypatch.setattr(sgd, "loaded", Spied)
    return seen


sizes = st.lists(st.integers(0, 70) | st.just(70_000), min_size=1, max_size=5)
rates = st.sampled_from([0.0, 0.01, 0.9, 1.7])


@settings(deadline=None, max_examples=60)
@given(sizes=sizes, momenta=st.tuples(rates, rates), decays=st.tuples(rates, rates), threads=st.integers(1, 3))
def test_steps_are_those_of_the_definition(
    sizes: list[int], momenta: tuple[float, float], decays: tuple[float, float], threads: int
) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(len(sizes))
    # Behind each parameter's numbers there is one that nobody may touch.
    guarded = [torch.randn(size + 1, generator=generator) for size in sizes]
    ends = [float(each[-1]) for each in guarded]
    parameters = [nn.Parameter(each[:-1]) for each in guarded]
    groups = [
        {"params": parameters[k::2], "lr": 0.1 + k, "momentum": momenta[k], "weight_decay": decays[k]}
        for k in range(2)
        if parameters[k::2]
    ]
    optimizer = Sgd(groups, lr=0.1)
    weights = [parameter.detach().double() for parameter in parameters]
    velocities = [torch.zeros_like(weight) for weight in weights]
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        for k, (parameter, weight) in enumerate(zip(parameters, weights, strict=True)):
            assert parameter.grad is not None
            rate, momentum, decay = 0.1 + k % 2, momenta[k % 2], decays[k % 2]
            gradient = parameter.grad.double()
            terms = gradient.abs() + decay * weight.abs() + momentum * velocities[k].abs()
            velocity = gradient + decay * weight + momentum * velocities[k]
            expected = weight - rate * velocity
            assert ((parameter - expected).abs() <= EPSILON * 4 * (weight.abs() + rate * terms)).all()
            if momentum:
                kept = optimizer.state[parameter]["momentum_buffer"]
                assert ((kept - velocity).abs() <= EPSILON * 4 * terms).all()
                velocities[k] = kept.double()
            else:
                assert "momentum_buffer" not in optimizer.state[parameter]
            # The next step goes on from what there is, so that roundings do not add up.
            weights[k] = parameter.detach().double()
    assert [float(each[-1]) for each in guarded] == ends


def network() -> nn.Module:
    """Weights in channels_last memory, in rows, and of one number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 1))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def test_a_network_trains_as_with_pytorchs(calls: list[int]) -> None:
    models = [network() for _ in range(2)]
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    ours, theirs = Sgd(models[0].parameters(), **options), torch.optim.SGD(models[1].parameters(), **options)
    train(models[0], ours, 5)
    train(models[1], theirs, 5)
    assert calls == [6] * 5
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, state in theirs.state_dict()["state"].items():
        buffer = ours.state_dict()["state"][key]["momentum_buffer"]
        torch.testing.assert_close(buffer, state["momentum_buffer"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("from_pytorch", [False, True])
def test_it_goes_on_from_a_state(calls: list[int], from_pytorch: bool) -> None:
    options = {"lr": 0.05, "momentum": 0.9}
    model = network()
    first = (torch.optim.SGD if from_pytorch else Sgd)(model.parameters(), **options)
    train(model, first, 3)
    kept = copy.deepcopy(model.state_dict()), copy.deepcopy(first.state_dict())
    # Another order in memory means the same numbers.
    for state in kept[1]["state"].values():
        state["momentum_buffer"] = state["momentum_buffer"].contiguous()
    train(model, first, 2)
    other = network()
    other.load_state_dict(kept[0])
    optimizer = Sgd(other.parameters(), **options)
    optimizer.load_state_dict(kept[1])
    train(other, optimizer, 2)
    for one, again in zip(model.parameters(), other.parameters(), strict=True):
        if from_pytorch:
            torch.testing.assert_close(one, again, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(one, again)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: torch.randn(4, 3), {"nesterov": True}),
        (lambda: torch.randn(4, 3), {"dampening": 0.5}),
        (lambda: torch.randn(4, 3), {"maximize": True}),
        (lambda: torch.randn(4, 3).double(), {}),
        (lambda: torch.randn(4, 3).bfloat16(), {}),
        (lambda: torch.randn(8, 3)[::2], {}),
        (lambda: torch.randn(4, 3).t(), {}),
        # The gradient lies in another order.
        (lambda: torch.randn(2, 3, 2, 2).contiguous(memory_format=torch.channels_last), {}),
        (lambda: torch.randn(2, 3, 2, 2).contiguous(memory_format=torch.channels_last), {"momentum": 0.0}),
    ],
    ids=[
        *("nesterov", "dampening", "maximize", "double", "bfloat16", "with gaps", "transposed"),
        *("channels last", "channels last without momentum"),
    ],
)
def test_the_rest_is_pytorchs(calls: list[int], make: Callable[[], Tensor], options: dict[str, Any]) -> None:
    found = []
    for kind in (Sgd, torch.optim.SGD):
        torch.manual_seed(0)
        parameter = nn.Parameter(make())
        optimizer = kind([parameter], **{"lr": 0.1, "momentum": 0.9, **options})
        for _ in range(2):
            parameter.grad = torch.randn(parameter.shape, dtype=parameter.dtype)
            optimizer.step()
        found.append(parameter.detach())
    assert torch.equal(*found)
    assert not calls


def test_gradients_that_mixed_precision_scaled_are_pytorchs(calls: list[int]) -> None:
    one = torch.ones(())
    for grad_scale, found_inf, expected in ((2 * one, None, 0.5), (None, one, 1.0), (None, None, 0.0)):
        weight = nn.Parameter(torch.ones(3))
        weight.grad = torch.ones(3)
        optimizer = Sgd([weight], lr=1.0, fused=True)
        optimizer.grad_scale, optimizer.found_inf = grad_scale, found_inf
        optimizer.step()
        assert weight.tolist() == [expected] * 3
    assert calls == [1]


def test_a_step_that_is_differentiated_is_pytorchs(calls: list[int]) -> None:
    weight, gradient = torch.ones(3, requires_grad=True).clone(), torch.ones(3, requires_grad=True)
    weight.retain_grad()
    weight.grad = gradient
    Sgd([weight], lr=0.5, differentiable=True).step()
    (of_gradient,) = torch.autograd.grad(weight.sum(), gradient)
    assert of_gradient.tolist() == [-0.5] * 3
    assert not calls


def test_sparse_gradients_and_closures_are_pytorchs(calls: list[int]) -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = Sgd(table.parameters(), lr=0.1)
    table(torch.tensor([1, 2])).sum().backward()
    before = table.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, table.weight)
    table.weight.grad = torch.ones(5, 3)
    assert optimizer.step(lambda: 7.0) == 7.0
    assert not calls
    with plain_pytorch():
        optimizer.step()
    assert not calls
    optimizer.step()
    assert calls == [1]


def test_hooks_run_once_for_each_step_whoever_makes_it() -> None:
    """Where somebody has made one of PyTorch's in the same process, a step that was left to it ran them twice."""
    parameter = nn.Parameter(torch.ones(3))
    torch.optim.SGD([parameter], lr=0.1)
    optimizer, ran = Sgd([parameter], lr=0.1), []
    optimizer.register_step_post_hook(lambda *_: ran.append(1))
    parameter.grad = torch.ones(3)
    optimizer.step()
    optimizer.step(lambda: 7.0)
    with plain_pytorch():
        optimizer.step()
    assert len(ran) == 3


def test_a_parameter_without_gradient_stays(calls: list[int]) -> None:
    still, moved = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = Sgd([still, moved], lr=0.5, momentum=0.9, weight_decay=1.0)
    optimizer.step()
    moved.grad = torch.ones(3)
    optimizer.step()
    assert (still.tolist(), moved.tolist()) == ([1.0] * 3, [0.0] * 3)
    assert calls == [1]
    assert still not in optimizer.state


def test_a_graph_that_was_kept_notices_the_step(calls: list[int]) -> None:
    weight = nn.Parameter(torch.ones(3))
    x = torch.ones(3, requires_grad=True)
    optimizer = Sgd([weight], lr=0.1)
    loss = (weight * x).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert calls == [1]


@settings(max_examples=30)
@given(momenta=st.tuples(rates, rates), decays=st.tuples(rates, rates), seed=st.integers(0, 100))
def test_steps_that_follow_are_pytorchs(momenta: tuple[float, float], decays: tuple[float, float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mine = [nn.Parameter(torch.randn(3, 4, generator=generator)) for _ in range(5)]
    its = [nn.Parameter(parameter.detach().clone()) for parameter in mine]

    def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [
            {"params": parameters[k::2], "lr": 0.1 + k, "momentum": momenta[k], "weight_decay": decays[k]}
            for k in range(2)
        ]

    optimizer, plain = Sgd(groups(mine), lr=0.1), torch.optim.SGD(groups(its), lr=0.1)
    optimizer.follow()
    for iteration in range(4):
        for each in (optimizer, plain):
            for group in each.param_groups:
                group["lr"] *= 0.7
                group["momentum"] *= 0.9
        optimizer.send()
        # What is recorded knows these numbers no more.
        real = [(group["lr"], group["momentum"]) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"], group["momentum"] = float("nan"), float("nan") if group["momentum"] else 0.0
        for number, (one, other) in enumerate(zip(mine, its, strict=True)):
            gradient = torch.randn(3, 4, generator=generator)
            one.grad, other.grad = (None, None) if number == iteration else (gradient.clone(), gradient)
        optimizer.step()
        plain.step()
        for group, (lr, momentum) in zip(optimizer.param_groups, real, strict=True):
            group["lr"], group["momentum"] = lr, momentum
        for one, other in zip(mine, its, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    held, expected = (
        {number for number, state in each.state_dict()["state"].items() if state.get("momentum_buffer") is not None}
        for each in (optimizer, plain)
    )
    assert held == expected


def test_what_follows_again_has_its_numbers() -> None:
    """As a training does that goes on from a checkpoint, or whose steps are made anew: it stood still once."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = Sgd([{"params": []}, {"params": [weight]}], lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.follow()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.send()
        torch.testing.assert_close(optimizer.sent, torch.tensor([[0.1, 0.9], [0.1, 0.9]]))
    weight.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.9))


def test_what_cannot_be_followed_is_refused() -> None:
    optimizer = Sgd([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9, nesterov=True)
    with pytest.raises(ValueError, match="Nesterov"):
        optimizer.follow()
