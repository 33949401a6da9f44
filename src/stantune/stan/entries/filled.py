"""A convolution at some of its entries, the others filled from them: in PyTorch, on CUDA devices by Triton too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.kernels.cuda.rows import Rows, Window, rows_of
from stantune.kernels.cuda.ways import EXACT, choose, cuda_path
from stantune.kernels.gate import ordinary
from stantune.stan.entries.entries import Entries, EntryMatrix, Grid, check_entries
from stantune.stan.entries.fill import nearest_computed, neighbour_at
from stantune.stan.entries.lists import lists_of
from stantune.stan.entries.positions import conv2d_at
from stantune.stan.entries.strided import conv2d_on_grid, output_size

# What Triton's programs compute with, and how many numbers a tensor of theirs may have.
DTYPES = (torch.float32, torch.bfloat16)
NUMBERS = 2**31 - 1
# So many grids' lists are kept on devices, and as many that were used before them: more than a deep network has kinds
# of layers times offsets, but images of ever new sizes have no end of them.
MOST = 256
_present: dict[tuple[Grid, Window, torch.device], Rows] = {}
_past: dict[tuple[Grid, Window, torch.device], Rows] = {}
# CUDA graphs hold on to the addresses of what they were recorded with.
_recorded: dict[tuple[Grid, Window, torch.device], Rows] = {}


class Convolution(NamedTuple):
    """The arguments of a convolution.

    Attributes:
        input: (B, C_in, H, W).
        weight: (C_out, C_in / groups, kernel height, kernel width).
        bias: (C_out,) or None.
        stride: of rows and columns.
        padding: zeros at the left, right, top and bottom, in F.pad's order.
        dilation: of rows and columns.
        groups: as in F.conv2d.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    @property
    def out(self) -> tuple[int, int]:
        """(H_out, W_out)."""
        return output_size(self.input, self.weight, self.stride, self.padding, self.dilation)

    @property
    def dtype(self) -> torch.dtype:
        """What PyTorch multiplies in: autocast's where it is on."""
        kind = self.input.device.type
        if torch.is_autocast_enabled(kind) and self.input.dtype != torch.float64:
            return torch.get_autocast_dtype(kind)
        return self.input.dtype


def convolve_filled(convolution: Convolution, entries: Entries) -> Tensor:
    """Convolve at some entries and fill the others from their nearest computed neighbour (STAN, ours).

    In plain PyTorch; on a CUDA device by Triton where it can do this, and where it was measured to be faster.

    Args:
        convolution: of whatever kind.
        entries: those to compute; an EntryMatrix is (B, H_out, W_out).

    Returns:
        (B, C_out, H_out, W_out), the size of the exact output; computed exactly where that is too small for a grid
        (`Grid.fills`).
    """
    if (
        _on_cuda(convolution.input)
        and ordinary()  # transforms of torch.func follow PyTorch's operations alone
        and "triton" in cuda_path().ways
        and has_triton_form(convolution, entries)
        and _way(convolution, entries) == "triton"
    ):
        return by_triton(convolution, entries)
    return by_pytorch(convolution, entries)


def by_pytorch(convolution: Convolution, entries: Entries) -> Tensor:
    """Do as `convolve_filled` in plain PyTorch: a grid by stride, any other entries by gathering."""
    if isinstance(entries, Grid):
        return conv2d_on_grid(*convolution, entries)
    computed = conv2d_at(*convolution, entries.entries)
    return neighbour_at(computed, entries.entries, nearest_computed(entries.entries))


def by_triton(convolution: Convolution, entries: Entries) -> Tensor:
    """Do as `convolve_filled` by Triton, where `has_triton_form`; under autocast in its dtype, as PyTorch does."""
    from stantune.kernels.cuda.triton_conv import convolve_rows  # Triton is optional, and takes a while to import

    dtype, (left, _, top, _) = convolution.dtype, convolution.padding
    input, weight, bias = (None if each is None else each.to(dtype) for each in convolution[:3])
    assert input is not None
    assert weight is not None
    window = Window(
        _pair(input.shape[2:]),
        convolution.out,
        _pair(weight.shape[2:]),
        _pair(convolution.stride),
        (top, left),
        _pair(convolution.dilation),
    )
    if isinstance(entries, Grid):
        rows = _rows_on_device(entries, window, input.device)
    else:
        rows = _rows_of_matrix(entries, window, len(input))
    with torch.autocast(input.device.type, enabled=False):
        return convolve_rows(input, weight, bias, window, rows)


def by_all(convolution: Convolution) -> Tensor:
    """Compute every entry, (B, C_out, H_out, W_out), as the layer itself does."""
    input, weight, bias, stride, (left, right, top, bottom), dilation, groups = convolution
    if (left, top) != (right, bottom):
        input = F.pad(input, (left, right, top, bottom))
        left = top = 0
    return F.conv2d(input, weight, bias, tuple(stride), (top, left), tuple(dilation), groups)


def has_triton_form(convolution: Convolution, entries: Entries) -> bool:
    """Tell whether Triton's programs can do this: one group, float32 or bfloat16, and not too large."""
    input, weight, bias = convolution[:3]
    height, width = convolution.out
    alike = torch.is_autocast_enabled(input.device.type) or all(
        each is None or each.dtype == input.dtype for each in (weight, bias)
    )
    return (
        convolution.groups == 1
        and input.shape[1] == weight.shape[1]
        and min(height, width) > 0
        and alike
        and convolution.dtype in DTYPES
        and max(input.numel(), len(input) * len(weight) * height * width) <= NUMBERS
        and (isinstance(entries, EntryMatrix) or entries.fills(height, width))
    )


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]


def _on_cuda(input: Tensor) -> bool:
    return input.device.type == "cuda"


def _way(convolution: Convolution, entries: Entries) -> str:
    """Return the way for this shape: the offset of a grid makes no difference, of other entries their number does."""
    tensors, geometry = convolution[:3], tuple(map(tuple, convolution[3:6]))
    input, weight, bias = tensors
    if isinstance(entries, Grid):
        pattern = f"one of {entries.pattern.rows}x{entries.pattern.columns}"
    else:
        pattern = f"{round(8 * entries.kept)}/8 of any"
    wanted = tuple(each is not None and each.requires_grad for each in tensors)
    key = (input.device, convolution.dtype, tuple(input.shape), tuple(weight.shape), geometry, wanted, pattern)
    what = (
        f"{weight.shape[2]}x{weight.shape[3]} convolution of {tuple(input.shape)} to {weight.shape[0]} channels, "
        f"{str(convolution.dtype).removeprefix('torch.')}, {pattern} entries"
    )
    copied = convolution._replace(input=_copy(input), weight=_copy(weight), bias=_copy(bias))
    targets = [each for each in copied[:3] if each is not None and each.requires_grad]

    def trial(do: Callable[[], Tensor]) -> list[Tensor]:
        # A trial's graph is nobody's: hooks of others, such as a checkpoint's that count what is saved, do not see it.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
            output = do()
        # Detached: a graph that stays alive would hold on to the stream that it was made on.
        result = output.detach()
        return [result, *(torch.autograd.grad(output, targets, result) if targets else ())]

    ways = {
        EXACT: partial(by_all, copied),
        "cudnn": partial(by_pytorch, copied, entries),
        "triton": partial(by_triton, copied, entries),
    }
    with torch.cuda.device_of(input):  # type: ignore[no-untyped-call]
        # Which other entries there are, PyTorch waits for the device to know.
        recordable = isinstance(entries, Grid)
        return choose(key, what, {way: partial(trial, do) for way, do in ways.items()}, recordable=recordable)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _copy(tensor: Tensor | None) -> Any:
    """Return a leaf of the same values, in another graph: what is measured leaves no gradient behind."""
    return None if tensor is None else tensor.detach().requires_grad_(tensor.requires_grad)


def _rows_on_device(grid: Grid, window: Window, device: torch.device) -> Rows:
    """Return a grid's lists, from among those that are kept; for ever where they become part of a CUDA graph."""
    global _present, _past
    key = grid, window, device
    if key in _recorded:
        return _recorded[key]
    recording = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    rows = _present.get(key)
    if rows is None:
        rows = _past.pop(key, None) or _rows_of_grid(*key)
        if len(_present) >= MOST and not recording:
            # What is forgotten now nobody has asked for in a long time, but another stream may still have to read it.
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            _past, _present = _present, {}
        _present[key] = rows
    if recording:
        _recorded[key] = rows
    return rows


def _rows_of_grid(grid: Grid, window: Window, device: torch.device) -> Rows:
    lists = lists_of(grid, *window.out)
    assert lists is not None, "has_triton_form has asked whether the grid covers the output"
    rows = rows_of(lists.positions, lists.sources, 1, window)
    return Rows(rows.images, *(each.to(device) for each in rows[1:]))


def _rows_of_matrix(matrix: EntryMatrix, window: Window, images: int) -> Rows:
    entries = matrix.entries
    check_entries(entries, (images, *window.out))
    places = window.out[0] * window.out[1]
    within = nearest_computed(entries).flatten(1) + places * torch.arange(images, device=entries.device)[:, None]
    number = entries.flatten().cumsum(0) - 1
    return rows_of(entries.flatten().nonzero()[:, 0], number[within.flatten()], images, window)
