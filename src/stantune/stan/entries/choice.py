"""Choosing a layer's pattern at a refresh, by the error of each candidate on the exact output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from stantune.stan.entries.entries import Grid, Pattern
from stantune.stan.entries.fill import neighbour_of_exact

# The first samples of a batch tell a layer's error well enough, and measuring them all costs as much as a layer's work.
MEASURED = 16


class Choice(NamedTuple):
    """What a layer chose at a refresh.

    Attributes:
        iteration: of the refresh.
        layer: its name.
        errors: ||Y - fill(Y)|| / ||Y|| of each candidate.
        pattern: the candidate taken, None for all entries.
    """

    iteration: int
    layer: str
    errors: Mapping[Pattern, float]
    pattern: Pattern | None


def grid_errors(exact: Tensor, grids: Sequence[Grid]) -> list[float]:
    """Return ||Y - fill(Y)|| / ||Y|| of the neighbour fill on each grid (ours; Frobenius norms).

    Args:
        exact: Y, the layer's exact output, (B, C, H, W), without its graph; the first MEASURED samples count.
        grids: the candidates; one that does not cover the output has error 0.

    Returns:
        One number per grid; NaN where Y holds one, 0 where Y is all zeros.
    """
    part = exact[:MEASURED].float()
    norm = part.norm()
    return [float((part - neighbour_of_exact(part, grid)).norm() / norm) if norm != 0 else 0.0 for grid in grids]


def cheapest(errors: Mapping[Pattern, float], allowed: float) -> Pattern | None:
    """Return the pattern that computes the fewest entries with an error of at most `allowed`; None if there is none.

    Of patterns that compute as many, the one of the smaller error, then the first.
    """
    fitting = [pattern for pattern, error in errors.items() if error <= allowed]
    return min(fitting, key=lambda pattern: (pattern.rate, errors[pattern]), default=None)
