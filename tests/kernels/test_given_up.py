"""Parts of a storage that was given up, as sharding does it: PyTorch's error, or what it computes anew."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.block.convolve import convolve
from stantune.kernels.block.follow import Follow
from stantune.kernels.library import kernels
from stantune.kernels.pool import Pool, pooled

pytestmark = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)


def test_a_part_of_it_is_refused_in_pytorchs_words() -> None:
    base = torch.randn(2, 4, 16, 64, 64)
    # In planes both: where PyTorch has to copy such an input, it crashes itself.
    x, weight = base[1], torch.randn(4, 16, 3, 3)
    base.untyped_storage().resize_(0)
    for run in (lambda: convolve(x, weight, None, (1, 1), (1,) * 4), lambda: F.conv2d(x, weight)):
        with pytest.raises(RuntimeError, match="not allocated"):
            run()


def spoiled(tensor: Tensor) -> Tensor:
    """Return what is like a tensor of winners, and a part of a storage that was given up; the others as they are."""
    if tensor.is_floating_point():
        return tensor
    part = torch.cat([tensor] * 2).contiguous(memory_format=torch.channels_last)[len(tensor) :]
    part.untyped_storage().resize_(0)
    return part


@pytest.mark.parametrize("alone", [False, True], ids=["behind a convolution", "alone"])
def test_winners_that_are_a_part_of_it_are_not_read(alone: bool) -> None:
    x, weight, gradient = numbers(2, 16, 8, 8).requires_grad_(), numbers(16, 16, 3, 3), numbers(2, 16, 4, 4)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, spoiled):
        if alone:
            output = pooled(x, Pool(False, (2, 2), (2, 2)))
        else:
            output = convolve(x, weight, None, (1, 1), (1,) * 4, follow=Follow("max", (2, 2), (2, 2)))
    expected = F.max_pool2d(x if alone else F.conv2d(x, weight, padding=1), 2)
    found, wanted = (torch.autograd.grad(each, x, gradient)[0] for each in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
