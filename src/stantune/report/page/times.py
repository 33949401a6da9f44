"""Times of iterations and epochs as people read them, and how far measured ones are from predicted ones."""

from __future__ import annotations

from stantune.quantities import duration

# Beyond it percents are hard to read.
MANY = 3


def off_by(measured: float | None, predicted: float) -> str:
    """Say how far a measured time is from the predicted one."""
    if measured is None or predicted <= 0:
        return "–"
    ratio = measured / predicted
    return f"{ratio - 1:+.0%}" if ratio < MANY else f"{ratio:.3g} times as long"


def time_text(seconds: float | None) -> str:
    """Return a time as people read it, "3.71 ms" or "1.5 s"; a dash for None."""
    return f"{1000 * seconds:.3g} ms" if seconds is not None and seconds < 0.9995 else duration(seconds)
