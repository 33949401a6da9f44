"""Entry matrices as the lists that the native kernels go through."""

from __future__ import annotations

from functools import lru_cache

import torch

from stantune.kernels.blocks import Lists
from stantune.stan.entries import Entries, EntryMatrix, Grid
from stantune.stan.fill import nearest_computed, sources


def lists_of(entries: Entries, height: int, width: int) -> Lists | None:
    """Return the computed entries of an output, (H_out, W_out), and which of them fills each place (neighbour fill).

    Args:
        entries: E; an EntryMatrix is (B, H_out, W_out).
        height: H_out.
        width: W_out.

    Returns:
        The lists; None for a grid that does not cover the output, where all entries are computed.
    """
    if isinstance(entries, EntryMatrix):
        return _of_matrix(entries)
    return _of_grid(entries, height, width) if entries.covers(height, width) else None


@lru_cache(maxsize=256)
def _of_grid(grid: Grid, height: int, width: int) -> Lists:
    pattern = grid.pattern
    rows = torch.arange(grid.top, height, pattern.rows)
    columns = torch.arange(grid.left, width, pattern.columns)
    of_row = (sources(height, pattern.rows, grid.top) - grid.top) // pattern.rows
    of_column = (sources(width, pattern.columns, grid.left) - grid.left) // pattern.columns
    return Lists(
        (rows[:, None] * width + columns).flatten().int(),
        (of_row[:, None] * len(columns) + of_column).flatten().int(),
        None,
        len(rows) * len(columns),
        (pattern.rows, pattern.columns, grid.top, grid.left),
    )


def _of_matrix(matrix: EntryMatrix) -> Lists:
    entries = matrix.entries.flatten(1)
    counts = entries.cumsum(1, dtype=torch.int32)
    each = counts[:, -1]
    begins = torch.zeros(len(entries) + 1, dtype=torch.int32)
    begins[1:] = each.cumsum(0)
    positions = entries.nonzero()[:, 1].int()
    return Lists(
        positions,
        (counts - 1).gather(1, nearest_computed(matrix.entries).flatten(1)).contiguous(),
        begins,
        int(each.max()) if len(entries) else 0,
    )
