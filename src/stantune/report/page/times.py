"""Times of iterations as people read them, and how far measured ones are from predicted ones."""

from __future__ import annotations


def off_by(measured: float | None, predicted: float) -> str:
    """Say how far a measured time is from the predicted one."""
    if measured is None or predicted <= 0:
        return "–"
    return f"{measured / predicted - 1:+.0%}"


def milliseconds(seconds: float | None) -> str:
    """Return a time as people read it; a dash for None."""
    return "–" if seconds is None else f"{1000 * seconds:.3g} ms"
