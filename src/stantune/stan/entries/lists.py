"""Entry matrices as the lists that the native kernels go through."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

import torch
from torch import Tensor

from stantune.kernels.block.lists import Lists
from stantune.kernels.gate import ordinary
from stantune.stan.entries.entries import Entries, EntryMatrix, Grid
from stantune.stan.entries.fill import nearest_computed, sources


def lists_of(entries: Entries, height: int, width: int) -> Lists | None:
    """Return the computed entries of an output, (H_out, W_out), and which of them fills each place (neighbour fill).

    Args:
        entries: E; an EntryMatrix is (B, H_out, W_out).
        height: H_out.
        width: W_out.

    Returns:
        The lists; None for a grid on too small an output (`Grid.fills`), where all entries are computed.
    """
    if isinstance(entries, EntryMatrix):
        number = entries.entries.flatten(1).cumsum(1, dtype=torch.int32) - 1
        return _of_matrix(entries, number.gather(1, nearest_computed(entries.entries).flatten(1)))
    return _of_grid(entries, height, width) if entries.fills(height, width) else None


def lists_among(entries: Entries, height: int, width: int) -> Lists:
    """Return the computed entries of an output, (H_out, W_out), each of which fills its own place alone (memo fill).

    Args:
        entries: E; an EntryMatrix is (B, H_out, W_out), a Grid covers the output.
        height: H_out.
        width: W_out.
    """
    if isinstance(entries, EntryMatrix):
        computed = entries.entries.flatten(1)
        number = computed.cumsum(1, dtype=torch.int32) - 1
        return _of_matrix(entries, torch.where(computed, number, -1))
    return _among_grid(entries, height, width)


def _kept(make: Callable[[Grid, int, int], Lists]) -> Callable[[Grid, int, int], Lists]:
    """Have lists kept that are made of plain tensors: those of a mode, such as fake ones, are nothing to others."""
    kept = lru_cache(maxsize=256)(make)

    @wraps(make)
    def found(grid: Grid, height: int, width: int) -> Lists:
        if not ordinary():
            return make(grid, height, width)
        # What is made under inference mode could not be saved for a backward pass later.
        with torch.inference_mode(False):
            return kept(grid, height, width)

    return found


@_kept
def _among_grid(grid: Grid, height: int, width: int) -> Lists:
    lists = _of_grid(grid, height, width)
    own = torch.full((height * width,), -1, dtype=torch.int32, device="cpu")
    own[lists.positions] = torch.arange(lists.most, dtype=torch.int32, device="cpu")
    return lists._replace(sources=own)


@_kept
def _of_grid(grid: Grid, height: int, width: int) -> Lists:
    pattern = grid.pattern
    # In full: the default device is the user's, and these are kept.
    rows = torch.arange(grid.top, height, pattern.rows, device="cpu")
    columns = torch.arange(grid.left, width, pattern.columns, device="cpu")
    of_row = (sources(height, pattern.rows, grid.top) - grid.top) // pattern.rows
    of_column = (sources(width, pattern.columns, grid.left) - grid.left) // pattern.columns
    return Lists(
        (rows[:, None] * width + columns).flatten().int(),
        (of_row[:, None] * len(columns) + of_column).flatten().int(),
        None,
        len(rows) * len(columns),
        (pattern.rows, pattern.columns, grid.top, grid.left),
    )


def _of_matrix(matrix: EntryMatrix, sources: Tensor) -> Lists:
    entries = matrix.entries.flatten(1)
    each = entries.sum(1, dtype=torch.int32)
    begins = torch.zeros(len(entries) + 1, dtype=torch.int32, device=entries.device)
    begins[1:] = each.cumsum(0)
    positions = entries.nonzero()[:, 1].int()
    return Lists(positions, sources.contiguous(), begins, int(each.max()) if len(entries) else 0)
