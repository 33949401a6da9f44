"""Where native convolutions pay: shapes as they were measured, and what a layer then does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.kernels.block.follow import Follow
from stantune.kernels.library import kernels, plain_pytorch
from stantune.kernels.pays import Work, filtered, pays

MAXIMUM = Follow("max", (2, 2), (2, 2), False, True)


def square(
    batch: int, channels: int, filters: int, kernel: int, side: int, stride: int = 1, planes: bool = False
) -> Work:
    """A convolution that keeps the size of its square images, but for the stride."""
    out = (side - 1) // stride + 1
    return Work(batch, channels, filters, (kernel,) * 2, (stride,) * 2, (side,) * 2, (out,) * 2, planes)


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize(
    "shape", [(16, 64, 64, 3, 16), (16, 64, 64, 3, 64), (100, 32, 32, 5, 16), (64, 256, 256, 3, 16)]
)
def test_large_maps_under_kernels_of_three_and_five_rows_are_native(shape: tuple[int, ...], planes: bool) -> None:
    work = square(*shape, planes=planes)
    assert filtered(work)
    assert pays(work, Follow())


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize(
    "shape", [(4, 256, 256, 1, 16), (4, 3, 64, 7, 64, 2), (1, 512, 512, 3, 2, 2), (4, 32, 64, 1, 4)]
)
def test_what_pytorch_does_as_fast_is_left_to_it(shape: tuple[int, ...], planes: bool) -> None:
    assert not pays(square(*shape, planes=planes), Follow())


def test_few_images_of_many_contiguous_channels_are_left_to_pytorch() -> None:
    assert not pays(square(4, 512, 512, 3, 4, planes=True), Follow())


def test_what_a_pooling_follows_is_native() -> None:
    assert pays(square(4, 3, 64, 7, 64, 2), MAXIMUM)


@pytest.mark.parametrize("follow", [Follow(), MAXIMUM])
def test_few_images_for_many_threads_are_left_to_pytorch(follow: Follow) -> None:
    """Each thread has whole images: of two images fourteen of sixteen threads have none."""
    few = [square(batch, 64, 64, 3, 64) for batch in (0, 1, 2)]
    assert all(pays(work, follow) for work in few[1:])
    assert not any(pays(work, follow, 16) for work in few)
    assert pays(square(16, 64, 64, 3, 64), follow, 16)


@pytest.mark.usefixtures("_threads")
@pytest.mark.skipif(kernels().library is None, reason="there are no native kernels")
@pytest.mark.parametrize(
    ("side", "batch", "threads", "native"), [(16, 8, 1, True), (1, 1, 1, False), (16, 2, 1, True), (16, 2, 8, False)]
)
def test_a_layer_asks_the_rule(side: int, batch: int, threads: int, native: bool) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = nn.Conv2d(64, 64, 3, padding=1)
    input = torch.randn(batch, 64, side, side)

    def gradient() -> Tensor:
        model.zero_grad()
        model(input).square().sum().backward()
        assert model.weight.grad is not None
        return model.weight.grad.clone()

    with plain_pytorch():
        stock = gradient()
    accelerate_(model, Stan(rate=1))
    found = gradient()
    torch.testing.assert_close(found, stock, rtol=1e-3, atol=1e-2)
    assert torch.equal(found, stock) is not native


@pytest.mark.skipif(kernels().library is None, reason="there are no native kernels")
def test_between_native_layers_images_stay_channels_last_and_all_others_see_them_contiguous() -> None:
    torch.manual_seed(0)
    seen: list[Tensor] = []

    class Watch(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(input)
            return input

    def run() -> tuple[Tensor, ...]:
        model.zero_grad()
        model(input).square().sum().backward()
        return tuple(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)

    one, two, three = nn.Conv2d(16, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
    first = (one, nn.ReLU(), two, nn.ReLU(), nn.MaxPool2d(2), Watch())
    model = nn.Sequential(*first, three, nn.ReLU(), nn.Conv2d(64, 8, 1), Watch())
    input = torch.randn(8, 16, 16, 16)
    stock = run()
    accelerate_(model, Stan(rate=1))
    found = run()
    assert [each.is_contiguous() for each in seen] == [True] * 4
    for one, other in zip(found, stock, strict=True):
        assert one.stride() == other.stride()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
