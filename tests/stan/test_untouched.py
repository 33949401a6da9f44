"""untouched: what a model's passes change is put back, in modules, in the example and in random states."""

from __future__ import annotations

import copy
import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.stan.untouched import untouched


class Remembering(nn.Module):
    """Keeps what it has seen in all the ways that people write."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.ready = False
        self.count = 0
        self.bank: list[Tensor] = []
        self.last: deque[int] = deque(maxlen=2)
        self.by_name: dict[str, list[int]] = {"calls": []}
        self.sizes: set[int] = {0}
        self.mean = torch.zeros(4)
        self.drawn = torch.Generator().manual_seed(3)
        self.register_buffer("mask", torch.ones(4, 1, 1).expand(4, 6, 6))

    def forward(self, images: Tensor) -> Tensor:
        images.sub_(images.mean())
        if not self.ready:
            self.ready = True
            self.conv.weight.data.mul_(2.0)
        self.count += 1
        self.bank.append(images.detach())
        self.last.append(self.count)
        self.by_name["calls"].append(self.count)
        self.by_name["new"] = []
        self.sizes.add(self.count)
        output = self.conv(images) * self.mask
        self.mean.add_(output.detach().mean((0, 2, 3)))
        self.output = output
        torch.rand(1, generator=self.drawn)
        torch.rand(1)
        random.random()
        np.random.rand()
        return output


def state(model: Remembering, images: Tensor) -> list[object]:
    random_states = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    plain = {name: value for name, value in vars(model).items() if isinstance(value, bool | int | list | dict | set)}
    plain = {name: value for name, value in plain.items() if not name.startswith("_")}
    tensors = {name: value.tolist() for name, value in model.state_dict().items()}
    rest = (list(model.last), model.mean.tolist(), model.drawn.get_state().tolist(), images.tolist())
    return [copy.deepcopy(plain), tensors, rest, random_states, sorted(vars(model))]


@pytest.mark.parametrize("fails", [False, True])
def test_what_passes_change_is_put_back(fails: bool) -> None:
    torch.manual_seed(0)
    model, images = Remembering(), torch.rand(2, 3, 8, 8)
    images_before = images.clone()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    gradient = model.conv.weight.grad
    held = model.bank, model.last, model.by_name, model.sizes, model.mean
    before = state(model, images)
    try:
        with untouched(model, images):
            for _ in range(3):
                model(images).sum().backward()
            assert state(model, images) != before
            assert not torch.equal(images, images_before)
            if fails:
                raise RuntimeError("it breaks")
    except RuntimeError:
        assert fails
    assert state(model, images) == before
    assert model.conv.weight.grad is gradient
    assert torch.equal(gradient, torch.ones_like(gradient))
    now = model.bank, model.last, model.by_name, model.sizes, model.mean
    assert all(one is other for one, other in zip(now, held, strict=True))


def test_what_was_not_written_to_keeps_its_graph() -> None:
    layer = nn.Linear(2, 2)
    loss = layer(torch.ones(1, 2)).square().sum()
    with untouched(layer):
        layer(torch.ones(1, 2)).sum()
    loss.backward()
    assert layer.weight.grad is not None


def test_a_model_is_never_without_what_it_has() -> None:
    # Another thread may use it, or look at it, while it is put back.
    class Seen(dict[str, object]):
        def clear(self) -> None:
            raise AssertionError("emptied")

    model = nn.Linear(2, 2)
    model.notes = Seen(a=1)
    with untouched(model):
        model.notes["a"], model.notes["b"] = 2, 3
    assert model.notes == {"a": 1}


@pytest.mark.parametrize("rate", ["auto", 0.5])
def test_a_model_that_is_accelerated_is_as_it_was(rate: float | str) -> None:
    torch.manual_seed(0)
    model, images = Remembering(), torch.rand(2, 3, 8, 8)
    before = state(model, images)
    accelerate_(model, Stan(rate=rate), example=images)  # type: ignore[arg-type]
    after = state(model, images)
    added = set(after.pop()) - set(before.pop())  # type: ignore[call-overload]
    assert after == before
    assert not added


class Merging(nn.Linear):
    """Merges its low-rank weights in evaluation and parts them in training, as LoRA does."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.low = nn.Parameter(torch.ones(4, 4))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -self.low.data if self.merged else self.low.data
            self.merged = not mode
        return self

    def forward(self, values: Tensor) -> Tensor:
        output = super().forward(values)
        return output if self.merged else output + values @ self.low.T


@pytest.mark.parametrize("rate", ["auto", 0.5])
def test_layers_that_change_with_the_mode_are_as_they_were(rate: float | str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 5), nn.Conv2d(16, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Merging())
    images = torch.rand(4, 3, 24, 24)
    merging = model[4]
    weight = merging.weight.detach().clone()
    accelerate_(model, Stan(rate=rate), example=images)  # type: ignore[arg-type]
    assert not merging.merged
    assert torch.equal(merging.weight, weight)
    model(images).sum().backward()
    assert merging.low.grad is not None
