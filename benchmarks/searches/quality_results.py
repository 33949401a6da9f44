"""What time_to_quality.py's searches came to: kept in a file, as tables, as curves."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.side_by_side import table
from stantune.files import write_whole

EXACT = "exact"
OPTUNA = "optuna"


@dataclass(frozen=True)
class Found:
    """What one side came to with one seed.

    Attributes:
        points: (seconds, validation error in percent) of each evaluation, in order.
        seconds: of the search, to its last result.
        final_seconds: of the final trainings and their evaluations.
        trials: begun.
        params: the best setting.
        test_error: of the winner's final training, percent; None where it diverged.
        started: of Optuna's, whether TPE has learnt in every bracket; of others None.
    """

    points: list[tuple[float, float]]
    seconds: float
    final_seconds: float
    trials: int
    params: dict[str, Any]
    test_error: float | None
    started: bool | None = None


class Kept:
    """What the sides came to, in a JSON file where there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._plain: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}

    def get(self, key: str) -> Found | None:
        """Return what was kept under this key, None where nothing was."""
        plain = self._plain.get(key)
        return None if plain is None else Found(**{**plain, "points": [tuple(point) for point in plain["points"]]})

    def put(self, key: str, found: Found) -> None:
        """Keep it."""
        self._plain[key] = vars(found)
        if self._file:
            write_whole(self._file, f"{json.dumps(self._plain, indent=1)}\n".encode())


def best(found: Found) -> float:
    """Return the lowest validation error of the whole search."""
    return min(error for _, error in found.points)


def reached(found: Found, quality: float) -> float:
    """Return the seconds until the validation error was this low; infinite where it never was."""
    return next((seconds for seconds, error in found.points if error <= quality), math.inf)


def best_at(found: Found, seconds: float) -> float:
    """Return the lowest validation error until then; nan where there was none."""
    return min((error for at, error in found.points if at <= seconds), default=math.nan)


def quartiles(values: Sequence[float], form: str) -> str:
    """Return the median and the quartiles."""
    if not values:
        return "–"
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:{form}} ({low:{form}} … {high:{form}})"


def tables(found: Mapping[str, list[Found]]) -> str:
    """Return the numbers as Markdown."""
    rows = []
    for side, runs in found.items():
        tests = [run.test_error for run in runs if run.test_error is not None]
        rows.append(
            (
                side,
                quartiles([run.seconds for run in runs], ".0f"),
                quartiles([run.final_seconds for run in runs], ".0f"),
                quartiles([run.trials for run in runs], ".0f"),
                quartiles([best(run) for run in runs], ".2f"),
                quartiles(tests, ".2f"),
                f"{statistics.fmean(tests):.2f}" if tests else "–",
            )
        )
    columns = (
        "side",
        "whole search, s",
        "final, s",
        "trials",
        "best validation error",
        "winner's test error",
        "its mean",
    )
    text = table(columns, rows)
    for other, what, last in (
        (EXACT, "through a whole Hyperband", "and the final training"),
        (OPTUNA, "to Optuna's final quality", "got there"),
    ):
        if other in found:
            against = [_against(side, runs, found[other], other) for side, runs in found.items() if side != other]
            header = (f"against {other}, seed by seed", f"times faster {what}", last, "test error above, mean")
            text += f"\n\n{table(header, against)}"
    return text


def _against(side: str, runs: Sequence[Found], others: Sequence[Found], other: str) -> tuple[str, str, str, str]:
    pairs = list(zip(runs, others, strict=True))
    above = [
        mine.test_error - theirs.test_error
        for mine, theirs in pairs
        if mine.test_error is not None and theirs.test_error is not None
    ]
    mean = f"{statistics.fmean(above):+.2f}" if above else "–"
    if other == OPTUNA:
        faster = [reached(theirs, best(theirs)) / reached(mine, best(theirs)) for mine, theirs in pairs]
        return side, quartiles(faster, ".2f"), f"{sum(value > 0 for value in faster)} of {len(faster)}", mean
    if side == OPTUNA:
        # It was given the other's time.
        return side, "–", "–", mean
    search = [theirs.seconds / mine.seconds for mine, theirs in pairs]
    whole = [(theirs.seconds + theirs.final_seconds) / (mine.seconds + mine.final_seconds) for mine, theirs in pairs]
    return side, quartiles(search, ".2f"), quartiles(whole, ".2f"), mean


def draw(path: Path, title: str, found: Mapping[str, list[Found]]) -> None:
    """Draw the median of the best validation error against time, with quartiles, side by side. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for side, runs in found.items():
        # From when every seed has a result, to when the last one is done.
        first = max(run.points[0][0] for run in runs)
        times = sorted({seconds for run in runs for seconds, _ in run.points if seconds >= first} | {first})
        errors = np.array([[best_at(run, seconds) for seconds in times] for run in runs])
        low, middle, high = np.percentile(errors, (25, 50, 75), axis=0)
        (line,) = axes.step(times, middle, where="post", label=side)
        axes.fill_between(times, low, high, step="post", alpha=0.15, color=line.get_color(), linewidth=0)
        end = statistics.median(run.seconds for run in runs)
        there = statistics.median(best_at(run, max(end, first)) for run in runs)
        axes.plot(end, there, "o", color=line.get_color(), markersize=4)
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.set_xlabel("seconds")
    axes.set_ylabel("best validation error, %")
    axes.set_title(title)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
