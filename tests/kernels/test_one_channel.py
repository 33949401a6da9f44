"""Weights' gradients of convolutions with one input channel: PyTorch's, computed otherwise."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stantune.kernels.cuda import one_channel
from stantune.kernels.cuda.one_channel import OneChannelConv2d, with_fast_gradients_


def gradients(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    output = model(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * weights).sum().backward()
    return [output.detach(), *(each.grad for each in model.parameters())]


sides = st.integers(1, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.booleans(),
    st.booleans(),
)
def test_they_are_pytorchs(
    filters: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], bias: bool, last: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, filters, kernel, stride, padding, bias=bias), nn.Tanh(), nn.Conv2d(filters, 2, 1)
    )
    mine = copy.deepcopy(model)
    assert with_fast_gradients_(mine) == 1 + (filters == 1)
    assert type(mine[0]) is OneChannelConv2d
    images = torch.randn(3, 1, 7, 6)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
        mine = mine.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for one, other in zip(gradients(mine, images), gradients(model, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3),
        nn.Conv2d(1, 3, 3, dilation=2),
        nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect"),
        type("Own", (nn.Conv2d,), {})(1, 3, 3),
    ],
    ids=["two channels", "dilation", "reflect", "of one's own class"],
)
def test_other_layers_are_left(layer: nn.Conv2d) -> None:
    assert not with_fast_gradients_(nn.Sequential(layer))
    assert type(layer) is not OneChannelConv2d


def test_a_replaced_convolution_is_left() -> None:
    layer = nn.Conv2d(1, 3, 3)
    layer._conv_forward = lambda input, weight, bias: input  # type: ignore[method-assign]
    assert not with_fast_gradients_(layer)


def test_large_images_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(1, 3, 3, padding=1, stride=2)
    with_fast_gradients_(layer)
    images = torch.randn(2, 1, 6, 8)
    assert "_OneChannel" in str(layer(images).grad_fn)
    monkeypatch.setattr(one_channel, "MOST", 2 * 3 * 4 * 9 * 4 - 1)
    assert "_OneChannel" not in str(layer(images).grad_fn)
    monkeypatch.setattr(one_channel, "MOST", 2 * 3 * 4 * 9 * 4)
    assert "_OneChannel" in str(layer(images).grad_fn)


def test_gradients_have_gradients() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Tanh()).double().float()
    mine = copy.deepcopy(plain)
    assert with_fast_gradients_(mine) == 1
    images, found = torch.randn(2, 1, 6, 6), []
    for model in (plain, mine):
        weights = list(model.parameters())
        first = torch.autograd.grad(model(images).square().sum(), weights, create_graph=True)
        sum(each.square().sum() for each in first).backward()
        found.append([each.grad for each in weights])
    for its, own in zip(*found, strict=True):
        torch.testing.assert_close(own, its, rtol=1e-3, atol=1e-3)


def test_functions_of_functions_take_it() -> None:
    layer = nn.Conv2d(1, 3, 3)
    with_fast_gradients_(layer)
    images = torch.randn(4, 2, 1, 6, 6)
    weights = dict(layer.named_parameters())

    def loss(weights: dict[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, weights, (seen,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, images)
    for number, some in enumerate(images):
        layer.zero_grad()
        layer(some).square().sum().backward()
        torch.testing.assert_close(each["weight"][number], layer.weight.grad, rtol=1e-4, atol=1e-4)


def test_the_switch_leaves_all_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANTUNE_KERNELS", "off")
    assert not with_fast_gradients_(nn.Conv2d(1, 3, 3))


def test_whatever_it_was_not_made_for_is_pytorchs() -> None:
    layer = nn.Conv2d(1, 3, 3, padding="same")
    with_fast_gradients_(layer)
    plain = copy.deepcopy(layer)
    plain.__class__ = nn.Conv2d
    images = torch.randn(2, 1, 5, 5)
    assert torch.equal(layer(images), plain(images))
    assert torch.equal(layer(images[0]), plain(images[0]))
    valid = nn.Conv2d(1, 3, 3)
    with_fast_gradients_(valid)
    asking = images.clone().requires_grad_()
    valid(asking).square().sum().backward()
    assert asking.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert valid(images).dtype is torch.bfloat16
    valid.double()(images.double()).sum().backward()
    valid.weight.requires_grad_(False)
    assert "_OneChannel" not in str(valid(images.double()).grad_fn)
