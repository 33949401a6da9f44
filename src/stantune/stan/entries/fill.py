"""What the entries that were not computed receive: the neighbour fill, the memo fill and their oracles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.stan.entries.entries import Entries, EntryMatrix, Grid, check_entries


def sources(length: int, period: int, first: int) -> Tensor:
    """Return for each of `length` places along one side of a grid the computed place that fills it, (length,).

    The computed places are first + i * period; each place takes a nearest one. Where two are equally near:

    - periods 1 and 2: the computed one number floor(place * kept / length), as F.interpolate chooses. That is the one
      inside the place's own period of the grid, or the preceding one if the length is no multiple of the period.
    - longer periods: the one inside the place's own period, where there is one.

    `nearest_computed` settles ties otherwise (smallest flat index). The grids keep this rule because training with it
    had the lower error.
    """
    kept = -((first - length) // period)
    places = torch.arange(length, device="cpu")
    if period <= 2:
        return first + period * (places * kept // length)
    return first + period * ((places - _begin(period, first)) // period).clamp(0, kept - 1)


def _begin(period: int, first: int) -> int:
    """Return where the places begin that the first computed one would fill on a side without ends."""
    return first - ((period - 1) // 2 if 2 * first < period else period // 2)


def neighbour(kept: Tensor, height: int, width: int, grid: Grid) -> Tensor:
    """Spread a grid's computed entries over the whole output, each skipped one taking its neighbour's value.

    Args:
        kept: the computed entries, (B, C, h, w).
        height: rows of the whole output.
        width: columns of the whole output.
        grid: where the computed entries lie; its rows are at most 2 apart.

    Returns:
        (B, C, height, width), filled as `sources` says. Its gradient with respect to `kept` is the exact adjoint: a sum
        over the copies.
    """
    period = grid.pattern.columns
    # Autocast would copy in float32, and all that follows would be float32 where the exact output is not.
    with torch.autocast(kept.device.type, enabled=False):
        if period <= 2:
            return F.interpolate(kept, size=(height, width), mode="nearest")
        begin = _begin(period, grid.left)
        copies = F.interpolate(kept, size=(height, kept.shape[-1] * period), mode="nearest")[..., max(-begin, 0) :]
        before = max(begin, 0)
        after = max(width - before - copies.shape[-1], 0)
        return F.pad(copies, (before, after, 0, 0), mode="replicate")[..., :width]


def nearest_computed(entries: Tensor) -> Tensor:
    """Return for each entry its nearest computed one in the same sample, by Euclidean distance.

    The exact distance transform of Saito and Toriwaki (1994), which is separable: the nearest computed entry within
    each line, then over the lines the one with the least sum of squares. Distance and flat index are packed into one
    integer, so that one minimum settles the ties too. Memory: a few times (B, H, W).

    Args:
        entries: E, bool (B, H, W).

    Returns:
        int64 (B, H, W): the flat index, row * W + column, of the nearest computed entry; of two equally near ones the
        smaller. A computed entry is its own nearest.

    Raises:
        ValueError: `entries` is not boolean or not three-dimensional, or a sample has no computed entry.
    """
    if entries.dim() != 3:
        raise ValueError(f"entries are {tuple(entries.shape)}, not (B, H, W)")
    check_entries(entries, tuple(entries.shape))
    height, width = entries.shape[1:]
    empty = ~entries.flatten(1).any(1)
    if empty.any():
        raise ValueError(f"sample {int(empty.nonzero()[0])} has no computed entry")
    if not entries.numel():
        return torch.zeros_like(entries, dtype=torch.int64)

    # Lines run along the longer side: what is done for each line in turn is then done less often.
    tall = height >= width
    lines = (entries.permute(2, 0, 1) if tall else entries.permute(1, 0, 2)).contiguous()  # (lines, B, length)
    number, _, length = lines.shape
    size = height * width
    far = length + number  # beyond every distance, so that a line with no computed entry never wins
    dtype = torch.int32 if (length + far) ** 2 * size * 2 <= torch.iinfo(torch.int32).max else torch.int64
    along = torch.arange(length, dtype=dtype, device=entries.device)
    across = torch.arange(number, dtype=dtype, device=entries.device)

    before = torch.where(lines, along, -far).cummax(2).values
    after = torch.where(lines, along, length + far).flip(2).cummin(2).values.flip(2)
    source = torch.where(along - before <= after - along, before, after)
    index = source * width + across[:, None, None] if tall else across[:, None, None] * width + source
    key = (source - along).square() * size + index

    apart = (across - across[:, None]).square() * size
    best = key[0] + apart[0, :, None, None]
    for line in range(1, number):
        torch.minimum(best, key[line] + apart[line, :, None, None], out=best)
    nearest = (best % size).long()
    return (nearest.permute(1, 2, 0) if tall else nearest.permute(1, 0, 2)).contiguous()


def spread(values: Tensor, nearest: Tensor) -> Tensor:
    """Fill every entry with the value of its nearest computed one: the neighbour fill for any E.

    Args:
        values: (B, C, H, W); only the computed entries are read.
        nearest: of `nearest_computed`, int64 (B, H, W).

    Returns:
        (B, C, H, W). Its gradient with respect to `values` is the exact adjoint: a sum over the copies.
    """
    index = nearest.flatten(1).unsqueeze(1).expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, index).view_as(values)


def neighbour_at(computed: Tensor, entries: Tensor, nearest: Tensor) -> Tensor:
    """Fill a whole output from its computed entries alone: `spread` behind `positions.conv2d_at`.

    Args:
        computed: (n, C), one row for each true entry in row-major order.
        entries: E, bool (B, H, W).
        nearest: of `nearest_computed(entries)`, int64 (B, H, W).

    Returns:
        (B, C, H, W), channels last in memory, as whole rows are copied.
    """
    number = entries.flatten().cumsum(0).view(entries.shape).flatten(1) - 1
    rows = computed.index_select(0, number.gather(1, nearest.flatten(1)).flatten())
    return rows.view(*entries.shape, computed.shape[1]).movedim(-1, 1)


def memo_at(computed: Tensor, entries: Tensor, remembered: Tensor) -> Tensor:
    """Put computed entries among remembered ones: the memo fill behind `positions.conv2d_at`.

    Args:
        computed: (n, C), one row for each true entry in row-major order; for a linear layer (n,).
        entries: E, bool (B, H, W); for a linear layer (B, N).
        remembered: what the other entries receive, (B, C, H, W) or (B, N), of any floating dtype; a constant.

    Returns:
        (B, C, H, W), channels last in memory, or (B, N), in the dtype of `computed`.
    """
    rows = remembered.detach().movedim(1, -1)
    filled = torch.empty(rows.shape, dtype=computed.dtype, device=computed.device).copy_(rows)
    filled[entries] = computed
    return filled.movedim(-1, 1)


def neighbour_of_exact(exact: Tensor, entries: Entries) -> Tensor:
    """Return what the neighbour fill makes of an exact output: the oracle of every fast path, differentiable.

    Args:
        exact: an exact layer output, (B, C, H, W).
        entries: what counts as computed.

    Returns:
        (B, C, H, W): `exact` itself where it is too small for a grid (`Grid.fills`).

    Raises:
        ValueError: E is of another shape, not boolean, or without a computed entry in some sample.
    """
    height, width = exact.shape[-2:]
    if isinstance(entries, EntryMatrix):
        check_entries(entries.entries, (len(exact), height, width))
        return spread(exact, nearest_computed(entries.entries))
    if not entries.fills(height, width):
        return exact
    from_row = sources(height, entries.pattern.rows, entries.top)
    from_column = sources(width, entries.pattern.columns, entries.left)
    return exact.index_select(-2, from_row.to(exact.device)).index_select(-1, from_column.to(exact.device))


def memo_of_exact(exact: Tensor, entries: Entries, remembered: Tensor) -> Tensor:
    """Return what the memo fill makes of an exact output: the oracle of every fast path, differentiable in `exact`.

    No gradient flows to `remembered`: passing it through a memo value as if it were computed diverges.

    Args:
        exact: an exact layer output, (B, C, H, W) or, with an EntryMatrix, (B, N).
        entries: what counts as computed.
        remembered: what the other entries receive, of the same shape and any floating dtype; a constant.

    Returns:
        As `exact`: itself where a grid does not cover it.

    Raises:
        ValueError: E is of another shape or not boolean.
    """
    if isinstance(entries, EntryMatrix):
        computed = entries.entries
        check_entries(computed, tuple(exact.shape) if exact.dim() == 2 else (len(exact), *exact.shape[2:]))
    else:
        height, width = exact.shape[2:]
        if not entries.covers(height, width):
            return exact
        computed = entries.matrix(height, width).to(exact.device).expand(len(exact), height, width)
    return torch.where(computed.unsqueeze(1) if exact.dim() == 4 else computed, exact, remembered.detach().to(exact))
