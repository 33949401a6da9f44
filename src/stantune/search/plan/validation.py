"""The share of the validation set by rung: a part where trainings only rank settings, all where the winner is decided.

As with the rates by rung (`fidelity`), a rung is told by the iterations that a trial has there, so that results of
different brackets can be compared, and equal settings need not be trained twice.
"""

from __future__ import annotations

ALL, BY_RUNG = VALIDATION = ("all", "by-rung")


def share_at(iterations: int, max_iterations: int) -> float:
    """Return the share that tells settings apart after so many iterations: that of R, so that all rungs spend alike.

    Settings differ most where they have trained least, and an evaluation then takes the same part of the time in each
    rung.
    """
    return iterations / max_iterations


def part_text(share: float) -> str:
    """Say by which part of the validation set something was measured, in brackets; nothing of all of it."""
    return "" if share == 1 else f" (by {share:.0%} of the validation set)".replace("%", " %")
