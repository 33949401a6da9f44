"""What the entries that were not computed receive: the neighbour fill and its oracle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.stan.entries import Grid


def sources(length: int, kept: int) -> Tensor:
    """Return for each of `length` places along one side which of the `kept` computed ones fills it, (length,).

    Place i takes the computed one number floor(i * kept / length). For the patterns at hand that is a nearest
    computed place; where two are equally near it is the one inside the place's own period of the grid, or the
    preceding one if the length is no multiple of the period.
    """
    return torch.arange(length) * kept // length


def neighbour(kept: Tensor, height: int, width: int) -> Tensor:
    """Spread computed entries over the whole output, each skipped one taking its nearest computed neighbour's value.

    Args:
        kept: the computed entries, (B, C, h, w).
        height: rows of the whole output.
        width: columns of the whole output.

    Returns:
        (B, C, height, width). Its gradient with respect to `kept` is the exact adjoint: a sum over the copies.
    """
    return F.interpolate(kept, size=(height, width), mode="nearest")


def neighbour_of_exact(exact: Tensor, grid: Grid) -> Tensor:
    """Return what the neighbour fill makes of an exact output: the oracle of every fast path, differentiable.

    Args:
        exact: an exact layer output, (B, C, H, W).
        grid: the entries that count as computed.

    Returns:
        (B, C, H, W): `exact` itself where the grid does not cover it.
    """
    height, width = exact.shape[-2:]
    if not grid.covers(height, width):
        return exact
    rows, columns = grid.kept_size(height, width)
    from_row = grid.top + grid.pattern.rows * sources(height, rows)
    from_column = grid.left + grid.pattern.columns * sources(width, columns)
    return exact.index_select(-2, from_row.to(exact.device)).index_select(-1, from_column.to(exact.device))
