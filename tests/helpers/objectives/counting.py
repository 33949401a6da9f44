"""A function that does nothing but count its steps, and keeps how many there were."""

from __future__ import annotations


def keeping(run):
    """Return the count as the loss."""
    count = [0]
    run.keep(count=count)
    for _ in run.steps():
        count[0] += 1
    return {"loss": count[0]}
