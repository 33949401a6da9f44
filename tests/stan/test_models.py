"""accelerate_ on the models that people have: one table; forward, backward and evaluation agree with the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from stantune import Stan, accelerate_, restore_
from stantune.stan.entries.entries import EntryMatrix
from stantune.stan.entries.fill import neighbour_of_exact
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d

pytestmark = pytest.mark.usefixtures("one_thread")


class Twice(nn.Module):
    """One module used twice, at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.conv(images))


class Tied(nn.Module):
    """Two modules that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(images)))


class Nested(nn.Module):
    """A residual block inside a Sequential inside a module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AvgPool2d(3, 1, 1))
        )

    def forward(self, images: Tensor) -> Tensor:
        return images + self.body(images)


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    return model


def _hooked() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3)
    conv.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    conv.register_forward_hook(lambda _, __, output: output + 1)
    return conv


@dataclass(frozen=True)
class Case:
    """A model, the shape of its input, how many of its layers are accelerated, and what is asked for as layers=."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 4, 11, 10)
    layers: int = 1
    asked: tuple[str, ...] = ("*",)


CASES = {
    "plain": Case(lambda: nn.Conv2d(4, 6, 3, padding=1)),
    "grouped": Case(lambda: nn.Conv2d(4, 6, 3, groups=2)),
    "depthwise": Case(lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), asked=("",)),
    "dilated": Case(lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=2)),
    "strided": Case(lambda: nn.Conv2d(4, 6, 3, stride=(2, 3), padding=1), (2, 4, 17, 16)),
    "one by one": Case(lambda: nn.Conv2d(4, 6, 1)),
    "even kernel": Case(lambda: nn.Conv2d(4, 6, (4, 2), padding=(1, 2))),
    "valid": Case(lambda: nn.Conv2d(4, 6, 5, padding="valid")),
    "same": Case(lambda: nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(2, 1))),
    "same with an even kernel": Case(lambda: nn.Conv2d(4, 6, 4, padding="same")),
    "reflect": Case(lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect")),
    "circular same": Case(lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular")),
    "no bias": Case(lambda: nn.Conv2d(4, 6, 3, bias=False)),
    "1-d": Case(lambda: nn.Conv1d(4, 6, 3, padding=1), (3, 4, 13)),
    "1-d strided, dilated, grouped": Case(
        lambda: nn.Conv1d(4, 6, 3, stride=2, dilation=2, groups=2, padding=3), (3, 4, 30)
    ),
    "1-d replicate": Case(lambda: nn.Conv1d(4, 6, 5, padding=2, padding_mode="replicate"), (3, 4, 13)),
    "1-d without batch": Case(lambda: nn.Conv1d(4, 6, 3), (4, 16)),
    "3-d beside it is left alone": Case(
        lambda: nn.Sequential(nn.Conv3d(1, 1, 1), nn.Flatten(1, 2), nn.Conv2d(4, 6, 3)), (3, 1, 4, 9, 8)
    ),
    "transposed beside it is left alone": Case(
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 6, 3)), layers=1
    ),
    "used twice": Case(Twice),
    "tied weights": Case(Tied, layers=2),
    "nested": Case(Nested, layers=2),
    "partly frozen": Case(_frozen, layers=2),
    "with hooks": Case(_hooked),
    "batch norm after it": Case(lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())),
    "odd sizes": Case(lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 13, 11)),
    "rows too few": Case(lambda: nn.Conv2d(4, 6, 3), (2, 4, 3, 9)),
    "smaller than the pattern": Case(lambda: nn.Conv2d(4, 6, 3), (2, 4, 3, 3)),
    "batch of one": Case(lambda: nn.Conv2d(4, 6, 3), (1, 4, 9, 8)),
    "no batch": Case(lambda: nn.Conv2d(4, 6, 3), (4, 9, 8)),
    "empty batch": Case(lambda: nn.Conv2d(4, 6, 3), (0, 4, 9, 8)),
}
SETTINGS = {
    "columns": Stan(rate=0.5, period=3),
    "rows": Stan(rate=0.5, pattern="rows", period=3),
    "blocks": Stan(rate=0.25, period=3),
}


def oracle_of(model: nn.Module, accelerated: nn.Module) -> nn.Module:
    """Return a copy of `model` that computes everything and fills as the accelerated one's layers are told to."""
    oracle = copy.deepcopy(model)
    layers = dict(accelerated.named_modules())
    for name, module in oracle.named_modules():
        if isinstance(layers[name], StanConv1d | StanConv2d):
            grid = layers[name].grid
            flat = isinstance(module, nn.Conv1d)

            def filled(_: nn.Module, __: tuple, exact: Tensor, grid=grid, flat=flat) -> Tensor:
                plane = exact.unsqueeze(-2) if flat else exact
                whole = plane if plane.dim() == 4 else plane.unsqueeze(0)
                if not whole.numel():
                    return exact
                return neighbour_of_exact(whole, grid).view(exact.shape)

            # Before the model's own hooks, which see what the layer gives.
            module.register_forward_hook(filled, prepend=True)
    return oracle


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Train one pass and return the output and every gradient by name."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    output = model(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * weights).sum().backward()
    parameters = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": images.grad, **parameters}


@pytest.mark.parametrize("stan", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward_backward_and_evaluation_agree_with_the_oracle(case, stan):
    torch.manual_seed(0)
    original = case.build().double()
    images = torch.randn(case.shape, dtype=torch.float64)
    model = copy.deepcopy(original)
    handle = accelerate_(model, replace(stan, layers=case.asked))
    assert sum(not line.reason for line in handle.report) == case.layers
    assert torch.equal(model.eval()(images), original.eval()(images))
    model.train()
    exact = gradients(original.train(), images)
    for _ in range(8):
        want = gradients(oracle_of(original, model), images) if handle.phase == "reduced" else exact
        found = gradients(model, images)
        assert found.keys() == want.keys()
        for name, value in want.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)
        handle.step()
    restore_(model)
    classes = [type(module) for module in original.modules()]
    assert [type(module) for module in model.modules()] == classes
    assert model.state_dict().keys() == original.state_dict().keys()


@pytest.mark.parametrize("name", ["plain", "reflect", "1-d", "1-d strided, dilated, grouped"])
def test_any_entry_matrix_agrees_with_the_oracle(name):
    torch.manual_seed(0)
    original = CASES[name].build().double()
    images = torch.randn(CASES[name].shape, dtype=torch.float64)
    model = copy.deepcopy(original)
    accelerate_(model, Stan())
    output = original(images)
    entries = torch.rand(len(images), *output.shape[2:]) < 0.4
    entries.view(len(images), -1)[:, 0] = True
    model.grid = EntryMatrix(entries)
    plane = output if output.dim() == 4 else output.unsqueeze(2)
    want = neighbour_of_exact(plane, EntryMatrix(entries.view(len(images), *plane.shape[2:]))).view(output.shape)
    weights = torch.randn_like(want)
    (want * weights).sum().backward()
    found = model(images)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(model.weight.grad, original.weight.grad)


@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_under_autocast_the_fast_form_is_in_bfloat16_too(rate):
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3))
    model = copy.deepcopy(original)
    accelerate_(model, Stan(rate=rate, period=None))
    images = torch.randn(4, 3, 10, 10)
    want = gradients(oracle_of(original, model), images)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
        assert output.dtype == torch.bfloat16
        found = gradients(model, images)
    assert found["0.weight"].dtype == torch.float32
    for name, value in want.items():
        assert (found[name].float() - value).norm() <= 0.02 * value.norm(), name


def test_compiled_and_eager_agree_and_nothing_is_compiled_anew_in_later_iterations():
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    model, eager = copy.deepcopy(original), copy.deepcopy(original)
    handles = [accelerate_(each, Stan(rate=0.5, period=2)) for each in (model, eager)]
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    images = torch.randn(4, 3, 8, 8)
    for iteration in range(12):
        if iteration == 6:
            frames = torch._dynamo.utils.counters["frames"]["total"]
        want = gradients(eager, images)
        for name, value in gradients(compiled, images).items():
            torch.testing.assert_close(value, want[name.removeprefix("_orig_mod.")])
        for handle in handles:
            handle.step()
    assert torch._dynamo.utils.counters["frames"]["total"] == frames
    torch.testing.assert_close(compiled.eval()(images), eager.eval()(images))


def test_state_dicts_go_both_ways():
    torch.manual_seed(0)
    images = torch.randn(2, 4, 9, 8)
    original, model = Nested(), Nested()
    accelerate_(model, Stan())
    model.load_state_dict(original.state_dict())
    assert torch.equal(model.eval()(images), original.eval()(images))
    other = Nested()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images), original(images))


def test_batch_norm_keeps_sound_statistics():
    """Statistics of reduced iterations must do for the exact evaluation: the fill copies, it does not shrink."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8, momentum=0.05))
    reference = copy.deepcopy(model)
    handle = accelerate_(model, Stan(rate=0.25, period=None))
    for _ in range(100):
        # Smooth images, as real ones are.
        images = nn.functional.avg_pool2d(torch.randn(32, 3, 20, 20), 5, 1)
        model(images)
        reference(images)
        handle.step()
    found, want = model[1], reference[1]
    # By more than rounding: the passes were reduced.
    assert not torch.allclose(found.running_var, want.running_var, rtol=1e-4, atol=0)
    assert (found.running_mean - want.running_mean).abs().max() < 0.1 * want.running_var.sqrt().max()
    torch.testing.assert_close(found.running_var, want.running_var, rtol=0.15, atol=0)
