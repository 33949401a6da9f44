"""What a trainer returned, as a search takes it: whole, its values within the metric's bounds, or else a failure."""

from __future__ import annotations

from dataclasses import replace

from stantune.outcome import Outcome
from stantune.protocols import Metric, Segment, compared_value
from stantune.search.workers.executors import Failure


def taken(how: Outcome, segment: Segment, metric: Metric, unit: str) -> Outcome | Failure:
    """Return what a segment came to; a failure where it ends before the segment, or has a value that there is not."""
    if _is_short(segment, how, metric):
        return Failure(
            f"its trainer returned an Outcome at {unit} {how.iterations} of a segment that ends at {segment.stop}; "
            "train to there, or say `interrupted` or `diverged_at`",
            again=False,
        )
    return _within(metric, how)


def _is_short(segment: Segment, outcome: Outcome, metric: Metric) -> bool:
    """Tell whether an outcome that counts as that of a whole segment ends elsewhere than that; NaN is an end."""
    whole = not outcome.interrupted and outcome.diverged_at is None and outcome.iterations != segment.stop
    return whole and (compared_value(metric, outcome.metrics) is not None or metric.name not in outcome.metrics)


def _within(metric: Metric, outcome: Outcome) -> Outcome | Failure:
    """Return an outcome, its compared values within the bounds; a failure where one is none that there is."""
    rounded = []
    for measured in (outcome.metrics, *outcome.curve.values()):
        value = compared_value(metric, measured)
        if value is not None and (beyond := metric.beyond(metric.within(value))) is not None:
            # It would be in the table, which nobody then believes any more.
            cause = f"{metric.name} came to {beyond}; return one of these, or give the metric other `bounds`"
            return Failure(cause, again=False)
        rounded.append(measured if value is None else {**measured, metric.name: metric.within(value)})
    return replace(outcome, metrics=rounded[0], curve=dict(zip(outcome.curve, rounded[1:], strict=True)))
