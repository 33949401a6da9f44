"""What threads have summed each for its own images: joined by all of them, and only where it is asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stantune.kernels.block.convolve import convolve

pytestmark = pytest.mark.usefixtures("form", "_threads")


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.parametrize("wanted", ["input", "weight", "bias", "weight bias", "input weight bias"])
def test_the_sums_of_all_threads_are_joined(threads: int, channels: int, wanted: str) -> None:
    """Whole numbers, whose sums are exact in any order."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(-3, 4, shape, generator=generator).float()
        for name, shape in (("input", (7, channels, 6, 5)), ("weight", (70, channels, 1, 3)), ("bias", (70,)))
    }
    asked = [tensors[name].requires_grad_() for name in wanted.split()]
    found, expected = (
        convolve(*tensors.values(), (1, 1), (1, 1, 0, 0)),
        F.conv2d(*tensors.values(), padding=(0, 1)),
    )
    gradient = torch.randint(-3, 4, expected.shape, generator=generator).float()
    for one, other in zip(
        torch.autograd.grad(found, asked, gradient), torch.autograd.grad(expected, asked, gradient), strict=True
    ):
        assert torch.equal(one, other)
