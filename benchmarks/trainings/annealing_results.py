"""What annealing.py's trainings came to: kept in a file, as tables."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.paired import difference_text
from benchmarks.common.side_by_side import table
from benchmarks.trainings.annealing_schedules import SHORTER, SIDE, Kind, Schedule, schedules_of
from stantune.images.problem.built_in import Problem


def share_of_time(schedule: Schedule, milliseconds: Mapping[str, float]) -> float:
    """Return a schedule's time as a share of native exact training's."""
    exact = milliseconds[Kind(1.0, 1, "all", SIDE).name]
    return sum(float(share) * milliseconds[kind.name] / exact for kind, share in schedule.kinds.items())


def shorter_error(errors: Mapping[float, float], length: float) -> float | None:
    """Return the error of exact training of this length: of {length: error}, between the two nearest; None outside."""
    there = sorted(errors)
    if not there or not there[0] <= length <= there[-1]:
        return None
    right = next(each for each in there if each >= length)
    if right == length or right == there[0]:
        return errors[right]
    left = max(each for each in there if each < right)
    return errors[left] + (errors[right] - errors[left]) * (length - left) / (right - left)


def report(records: Sequence[Mapping[str, Any]], problem: Problem, iterations: int) -> str:
    """Return a problem's table."""
    own = [one for one in records if (one["problem"], one["iterations"]) == (problem.name, iterations)]
    milliseconds: dict[str, float] = next((one["milliseconds"] for one in reversed(own) if "milliseconds" in one), {})
    errors: dict[str, dict[int, float]] = {}
    diverged: dict[str, int] = {}
    for one in own:
        if "schedule" not in one:
            continue
        if one["test_error"] is None:
            diverged[one["schedule"]] = diverged.get(one["schedule"], 0) + 1
        else:
            errors.setdefault(one["schedule"], {})[one["seed"]] = one["test_error"]
    exact = errors.get("exact", {})
    lengths = {float(each.length): errors.get(each.name, {}) for each in SHORTER} | {1.0: exact}
    points = {}
    for each in schedules_of(problem):
        there = errors.get(each.name, {})
        if there and set(there) <= set(exact):
            share = share_of_time(each, milliseconds) if milliseconds else math.nan
            points[each.name] = share, {seed: there[seed] - exact[seed] for seed in sorted(there)}
    rows = []
    for each_name, (share, above) in points.items():
        mean = statistics.fmean(above.values())
        beaten = any(
            other_share <= share and statistics.fmean(other.values()) <= mean and other_name != each_name
            for other_name, (other_share, other) in points.items()
        )
        shorter = {
            seed: shorter_error({at: of[seed] for at, of in lengths.items() if seed in of}, share) for seed in above
        }
        against = [above[seed] + exact[seed] - error for seed, error in shorter.items() if error is not None]
        mine = f"{statistics.fmean(errors[each_name].values()):.2f}"
        lost = f" ({diverged[each_name]} diverged)" if each_name in diverged else ""
        timed = not math.isnan(share)
        rows.append(
            (
                each_name,
                str(len(above)) + lost,
                f"{share:.2f}" if timed else "–",
                f"{1 / share:.2f}" if timed else "–",
                f"{milliseconds['stock'] / milliseconds[Kind(1.0, 1, 'all', SIDE).name] / share:.2f}" if timed else "–",
                mine,
                difference_text(list(above.values())),
                difference_text(against),
                "–" if not timed else "" if beaten else "yes",
            )
        )
    columns = (
        "schedule",
        "seeds",
        "time",
        "× native exact",
        "× stock",
        "test error, %",
        "above exact",
        "above exact of the same time",
        "on the frontier",
    )
    head = f"`{problem.name}`, {iterations} iterations"
    if milliseconds:
        stock, native = milliseconds["stock"], milliseconds[Kind(1.0, 1, "all", SIDE).name]
        head += f"; an exact iteration {native:.2f} ms, by stock PyTorch {stock:.2f} ms"
    return f"{head}\n\n{table(columns, rows)}" if rows else f"{head}: nothing is trained yet"


def records_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add(file: Path, record: Mapping[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(f"{json.dumps(record)}\n")
