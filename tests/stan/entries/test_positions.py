"""conv2d_at beside F.conv2d: dtypes, layouts, chunks, memory and what it refuses; the contract has the shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from stantune.stan.entries import positions
from stantune.stan.entries.positions import conv2d_at

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = ((1, 1), (1, 1, 1, 1), (1, 1))  # stride, padding and dilation of a 3x3 kernel that keeps the size
# Below and above the share from which on the input's gradient is a dense convolution.
SHARES = [0.25, 0.75]


def arguments(dtype=torch.float32, groups=1, size=9) -> tuple[Tensor, Tensor, Tensor]:
    """Return an input of 5 samples, the weight of a 3x3 kernel and a bias, all with gradients."""
    torch.manual_seed(0)
    input = torch.randn(5, 4, size, size, dtype=dtype, requires_grad=True)
    weight = torch.randn(6, 4 // groups, 3, 3, dtype=dtype, requires_grad=True)
    return input, weight, torch.randn(6, dtype=dtype, requires_grad=True)


def share(kept: float, height: int = 9, width: int = 9) -> Tensor:
    """Return an E of 5 samples whose share of computed entries is about `kept`."""
    entries = torch.rand(5, height, width, generator=torch.Generator().manual_seed(1)) < kept
    assert SHARES[0] < positions.DENSE_FROM < SHARES[1]
    assert (entries.float().mean() >= positions.DENSE_FROM) == (kept >= positions.DENSE_FROM)
    return entries


def oracle(leaves, stride, padding, dilation, groups, entries) -> Tensor:
    """Return the true entries of the exact convolution, (n, C_out)."""
    input, weight, bias = leaves
    exact = F.conv2d(F.pad(input, padding), weight, bias, stride, 0, dilation, groups)
    return exact.movedim(1, -1)[entries]


@pytest.mark.parametrize("kept", SHARES)
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_those_of_finite_differences(groups, kept):
    leaves = arguments(torch.float64, groups, size=4)
    entries = share(kept, height=3, width=3)
    setting = ((2, 1), (0, 1, 2, 1), (1, 1), groups)
    assert torch.autograd.gradcheck(lambda *leaves: conv2d_at(*leaves, *setting, entries), leaves, fast_mode=True)


@pytest.mark.parametrize("chunk", [1, 500, 1 << 21])
@pytest.mark.parametrize("kept", SHARES)
def test_chunks_change_nothing(kept, chunk, monkeypatch):
    monkeypatch.setattr(positions, "CHUNK", chunk)
    leaves = arguments(torch.float64)
    entries = share(kept)
    entries[1] = False
    entries[4] = False
    output, wanted = conv2d_at(*leaves, *SAME, 1, entries), oracle(leaves, *SAME, 1, entries)
    torch.testing.assert_close(output, wanted)
    upstream = torch.randn_like(wanted)
    for got, one in zip(*(torch.autograd.grad(way, leaves, upstream) for way in (output, wanted)), strict=True):
        torch.testing.assert_close(got, one)


@pytest.mark.parametrize("kept", SHARES)
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_frozen_leaves_get_no_gradient(needed, kept):
    leaves = arguments(torch.float64)
    entries = share(kept)
    for place, leaf in enumerate(leaves):
        leaf.requires_grad_(place in needed)
    conv2d_at(*leaves, *SAME, 1, entries).square().sum().backward()
    got = [leaf.grad for leaf in leaves]
    assert [place for place in range(3) if got[place] is not None] == list(needed)
    learning = [leaves[place] for place in needed]
    wanted = torch.autograd.grad(oracle(leaves, *SAME, 1, entries).square().sum(), learning)
    torch.testing.assert_close([got[place] for place in needed], list(wanted))


@pytest.mark.parametrize("kept", SHARES)
def test_a_gradient_that_is_one_number_for_all(kept):
    leaves = arguments(torch.float64)
    entries = share(kept)
    got, wanted = (
        torch.autograd.grad(way(), leaves)
        for way in (
            lambda: conv2d_at(*leaves, *SAME, 1, entries).sum(),
            lambda: oracle(leaves, *SAME, 1, entries).sum(),
        )
    )
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("kept", SHARES)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_arithmetic_shrinks_to_the_computed_share(groups, kept):
    leaves = arguments(groups=groups)
    entries = share(kept)

    def count(result: Callable[[], Tensor]) -> int:
        with FlopCounterMode(display=False) as counter:
            result()
        return counter.get_total_flops()

    exact = count(lambda: F.conv2d(*leaves, padding=1, groups=groups))
    reduced = exact * int(entries.sum()) // entries.numel()
    input, weight, bias = (leaf.detach() for leaf in leaves)
    assert count(lambda: conv2d_at(input, weight, bias, *SAME, groups, entries)) == reduced
    for_weight = conv2d_at(input, leaves[1], bias, *SAME, groups, entries)
    assert count(lambda: for_weight.sum().backward()) == reduced
    for_input = conv2d_at(leaves[0], weight, bias, *SAME, groups, entries)
    # Below DENSE_FROM one entry of zeros is multiplied too.
    wanted = exact if kept >= positions.DENSE_FROM else reduced + exact // entries.numel()
    assert count(lambda: for_input.sum().backward()) == wanted


class Largest(TorchDispatchMode):
    """Notes the size of the largest storage that any operation returns, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dense_from", [0, 1])
def test_no_more_than_a_chunk_of_patches_is_held(dense_from, monkeypatch):
    leaves = arguments()
    entries = share(0.75)
    monkeypatch.setattr(positions, "CHUNK", 4000)
    monkeypatch.setattr(positions, "DENSE_FROM", dense_from)
    with Largest() as largest:
        conv2d_at(*leaves, *SAME, 1, entries).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)
    assert 4 * int(entries.sum()) * leaves[1][0].numel() > 2 * 4 * 4000  # what all patches together would take
    assert largest.bytes <= 4 * 4000


@pytest.mark.parametrize("kept", SHARES)
def test_a_channels_last_input_has_a_channels_last_gradient(kept):
    input, weight, bias = arguments()
    input = input.detach().to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(conv2d_at(input, weight, bias, *SAME, 1, share(kept)).sum(), input)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kept", SHARES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_that_of_the_exact_convolution(dtype, kept):
    leaves = arguments()
    entries = share(kept)
    with torch.autocast("cpu", dtype=dtype):
        output, wanted = conv2d_at(*leaves, *SAME, 1, entries), oracle(leaves, *SAME, 1, entries)
    assert output.dtype == wanted.dtype == dtype
    torch.testing.assert_close(output, wanted)
    upstream = torch.randn_like(output)
    got = torch.autograd.grad(output, leaves, upstream)
    exact = torch.autograd.grad(
        oracle([leaf.to(dtype).double() for leaf in leaves], *SAME, 1, entries), leaves, upstream.double()
    )
    for one, other in zip(got, exact, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 2 * torch.finfo(dtype).eps


def test_autocast_leaves_double_precision_alone():
    leaves = arguments(torch.float64)
    entries = share(0.25)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, wanted = conv2d_at(*leaves, *SAME, 1, entries), oracle(leaves, *SAME, 1, entries)
    assert output.dtype == wanted.dtype == torch.float64
    torch.testing.assert_close(output, wanted)


@pytest.mark.parametrize("kept", SHARES)
def test_a_backward_pass_under_autocast_stays_in_single_precision(kept):
    leaves = arguments()
    entries = share(kept)
    losses = [conv2d_at(*leaves, *SAME, 1, entries).square().sum() for _ in range(2)]
    wanted = torch.autograd.grad(losses[0], leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(losses[1], leaves)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_sums_over_many_chunks_of_low_precision_lose_nothing(monkeypatch):
    monkeypatch.setattr(positions, "CHUNK", 1)
    input = torch.ones(1500, 1, 1, 1, dtype=torch.bfloat16)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    entries = torch.ones(1500, 1, 1, dtype=torch.bool)
    conv2d_at(input, weight, None, (1, 1), (0, 0, 0, 0), (1, 1), 1, entries).sum().backward()
    assert weight.grad.item() == torch.tensor(1500.0).bfloat16()  # one by one in bfloat16, the sum stops at 256


@pytest.mark.parametrize(
    ("entries", "kernel", "sentence"),
    [
        (torch.ones(2, 5, 5), 3, r"entries are torch\.float32, not torch\.bool"),
        (torch.ones(2, 5, 4, dtype=torch.bool), 3, r"entries are \(2, 5, 4\), not \(2, 5, 5\)"),
        (torch.ones(3, 5, 5, dtype=torch.bool), 3, r"entries are \(3, 5, 5\), not \(2, 5, 5\)"),
        (torch.ones(2, 0, 0, dtype=torch.bool), 8, r"kernel \(8, 8\) is larger than the padded input \(7, 7\)"),
    ],
)
def test_what_does_not_fit_is_named(entries, kernel, sentence):
    with pytest.raises(ValueError, match=sentence):
        conv2d_at(torch.ones(2, 1, 5, 5), torch.ones(1, 1, kernel, kernel), None, *SAME, 1, entries)
