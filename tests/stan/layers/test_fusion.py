"""Runs of layers done as one give what the layers give one by one, and step aside for whoever watches them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stantune import Stan, accelerate_, restore_
from stantune.kernels.block.follow import Follow
from stantune.kernels.library import kernels
from stantune.stan.layers import conv2d
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.fusion import StanSequential, evaluated_natively, follow_of, follows_in

needs_kernels = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")


@pytest.mark.parametrize(
    ("modules", "follow", "taken"),
    [
        ([], Follow(), 0),
        ([nn.Tanh(), nn.ReLU()], Follow(), 0),
        ([nn.ReLU()], Follow(relu=True), 1),
        ([nn.ReLU(inplace=True), nn.Tanh()], Follow(relu=True), 1),
        ([nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True)], Follow("average", (3, 3), (2, 2), True, True), 2),
        ([nn.ReLU(), nn.MaxPool2d((2, 3))], Follow("max", (2, 3), (2, 3), False, True), 2),
        ([nn.MaxPool2d(2), nn.ReLU()], Follow("max", (2, 2), (2, 2), False, True), 2),
        ([nn.MaxPool2d(2), nn.Tanh()], Follow("max", (2, 2), (2, 2), False, False), 1),
        ([nn.AvgPool2d(2), nn.ReLU()], Follow("average", (2, 2), (2, 2), False, False), 1),
        ([nn.ReLU(), nn.ReLU()], Follow(relu=True), 1),
        ([nn.MaxPool2d(2), nn.MaxPool2d(2)], Follow("max", (2, 2), (2, 2), False, False), 1),
        ([nn.MaxPool2d(2, padding=1), nn.ReLU()], Follow(), 0),
        ([nn.MaxPool2d(2, dilation=2), nn.ReLU()], Follow(), 0),
        ([nn.MaxPool2d(2, return_indices=True)], Follow(), 0),
        ([nn.AvgPool2d(2, padding=1)], Follow(), 0),
        ([nn.AvgPool2d(2, divisor_override=3)], Follow(), 0),
        ([nn.ReLU6()], Follow(), 0),
    ],
)
def test_what_can_follow_a_convolution(modules: list[nn.Module], follow: Follow, taken: int) -> None:
    assert follow_of(modules) == (follow, taken)


def test_a_convolution_that_stands_there_twice_keeps_the_pooling_behind_it() -> None:
    conv, follow = nn.Conv2d(3, 3, 3), Follow("max", (2, 2), (2, 2), False, True)
    pooled, plain = [conv, nn.ReLU(), nn.MaxPool2d(2)], [conv, nn.ReLU()]
    assert follows_in(nn.Sequential(*pooled, *plain)) == follows_in(nn.Sequential(*plain, *pooled)) == {conv: follow}


def test_a_relu_and_a_pooling_that_are_shared_follow_each_convolution() -> None:
    torch.manual_seed(0)
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    shared = nn.Sequential(nn.Conv2d(3, 8, 3), relu, pool, nn.Conv2d(8, 6, 3), relu, pool)
    follow = Follow("max", (2, 2), (2, 2), False, True)
    assert follows_in(shared) == {shared[0]: follow, shared[3]: follow}
    each = nn.Sequential(*(copy.deepcopy(module) for module in shared))
    images, outputs = torch.randn(2, 3, 20, 20), []
    for model in (shared, each):
        accelerate_(model, Stan(rate=0.5, period=None))
        outputs.append(model(images))
    assert torch.equal(*outputs)
    restore_(shared)
    assert [type(module) for module in shared] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d] * 2


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 3 * 3, 4),
    )


@needs_kernels
@pytest.mark.parametrize("rate", [1, 0.5, 0.25])
def test_one_by_one_and_as_one_are_the_same(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = network(), torch.randn(4, 3, 16, 16)
    plain = copy.deepcopy(model)
    accelerate_(model, Stan(rate=rate, period=None))
    accelerate_(plain, Stan(rate=rate, period=None))
    calls: list[Follow] = []
    convolve = conv2d.convolve
    monkeypatch.setattr(conv2d, "convolve", lambda *given: calls.append(given[6]) or convolve(*given))
    model(images).square().sum().backward()
    assert calls == [Follow("max", (3, 3), (2, 2), True, True), Follow("average", (2, 2), (2, 2), False, True)]
    nn.Sequential.forward(plain, images).square().sum().backward()
    assert calls[2:] == [Follow(), Follow()]
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_layer_with_a_hook_is_called_by_itself_and_sees_its_own_output(place: int) -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    seen: list[torch.Tensor] = []
    model[place].register_forward_hook(lambda module, inputs, output: seen.append(output))
    expected = nn.Sequential(*list(network())[: place + 1])(images)
    accelerate_(model, Stan(rate=1))
    model(images)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("side", [255, 256, 260])
def test_a_maximum_over_more_entries_than_can_be_numbered_is_pytorchs(side: int, relu: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 2, 1), *[nn.ReLU()] * relu, nn.MaxPool2d(2))
    model = copy.deepcopy(plain)
    accelerate_(model, Stan(rate=1))
    image = torch.randn(1, 1, side, side, requires_grad=True)
    of_images = [torch.autograd.grad(each(image).square().sum(), [image, each[0].weight]) for each in (plain, model)]
    for expected, found in zip(*of_images, strict=True):
        # Which entry a gradient goes to, too.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@needs_kernels
def test_evaluation_and_the_restored_model_are_the_original_bit_for_bit() -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    expected = network()(images)
    accelerate_(model, Stan())
    assert type(model) is StanSequential
    assert type(model[0]) is StanConv2d
    model.eval()
    assert torch.equal(model(images), expected)
    restore_(model)
    assert type(model) is nn.Sequential
    assert type(model[0]) is nn.Conv2d
    assert torch.equal(model.train()(images), expected)


@needs_kernels
def test_evaluation_is_exact_and_native_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    expected = network()(images)
    handle = accelerate_(model, Stan(period=None))
    for _ in range(3):
        model(images).sum().backward()
        handle.step()
    model.eval()
    assert model[0].grid is not None
    done = []
    convolve = conv2d.convolve
    monkeypatch.setattr(conv2d, "convolve", lambda *args: done.append(args[5]) or convolve(*args))
    with torch.inference_mode(), evaluated_natively(model):
        found = model(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert done
    assert set(done) == {None}  # no lists: every entry
    assert torch.equal(model(images), expected)


@needs_kernels
def test_a_sequential_with_a_forward_of_its_own_keeps_it() -> None:
    class Residual(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input + super().forward(input)

    model = Residual(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    accelerate_(model, Stan())
    assert type(model) is Residual


@needs_kernels
def test_the_report_says_what_is_native() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2))
    handle = accelerate_(model, Stan())
    assert [line.native for line in handle.report] == [True, False, False]
    restore_(model)
    assert [line.native for line in accelerate_(model.double(), Stan()).report] == [False, False, False]
