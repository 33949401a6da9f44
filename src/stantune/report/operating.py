"""Searches as those who run them see them: where one stands, all below a folder, a trial."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stantune.protocols import Metric
from stantune.quantities import duration
from stantune.report.tables import hold_numbers, print_table
from stantune.report.words import setting_text
from stantune.search.operating.told import FoundSearch, ListResult, LossPoint, StatusResult, TrialReport
from stantune.search.plan.validation import part_text
from stantune.search.results.contract import MetricResult

BARS = "▁▂▃▄▅▆▇█"
BARS_WIDE = 40


def show_status(console: Console, result: StatusResult) -> None:
    """Print where a search stands."""
    for line in _head(result):
        console.print(line, soft_wrap=True)
    table = Table("bracket", f"{result.unit}s", "trials", "done", "diverged", "promoted", box=SIMPLE_HEAD)
    hold_numbers(table, 1)
    for bracket in result.brackets:
        for place, rung in enumerate(bracket.rungs):
            last = place == len(bracket.rungs) - 1
            numbers = (rung.iterations, rung.trials, rung.done, rung.diverged, rung.promoted)
            name = f"s = {bracket.s}" if place == 0 else ""
            table.add_row(name, *map(str, numbers), end_section=last)
    print_table(console, table, labels=(0, 1))
    for now in result.training:
        which = ", final training" if now.final else ""
        console.print(f"trial {now.trial}: {result.unit} {now.iterations} of {now.stop}{which}", soft_wrap=True)
    for failure in result.failures:
        what = "given up" if failure.for_good else "tried again"
        console.print(
            f"trial {failure.trial}, on its way to {failure.iterations}, failed ({failure.cause}): {what}",
            soft_wrap=True,
        )
    if result.failure is not None:
        console.print(f"the last run ended with {result.failure}", soft_wrap=True)


def show_found(console: Console, result: ListResult) -> None:
    """Print all searches below a folder."""
    now = time.time()
    if not result.searches:
        console.print(f"there is no search below {result.folder}", soft_wrap=True)
        return
    console.print(f"searches below {result.folder}", soft_wrap=True)
    table = Table("directory", "problem", "state", "trials", "best", "written", box=SIMPLE_HEAD)
    hold_numbers(table, 3)
    for found in result.searches:
        age = f"{duration(max(now - datetime.fromisoformat(found.changed).timestamp(), 0.0))} ago"
        if found.state is None or found.metric is None:
            table.add_row(_below(found, result), "", "unreadable", "", "", age)
            continue
        best = "–" if found.best is None else f"{found.metric.name} {metric_of(found.metric).text(found.best)}"
        trials = f"{found.trials} of {found.trials_planned}"
        table.add_row(_below(found, result), found.problem or "", found.state, trials, best, age)
    print_table(console, table)
    for found in result.searches:
        if found.error is not None:
            console.print(f"{found.directory}: {found.error}", soft_wrap=True)


def show_trial(console: Console, result: TrialReport) -> None:
    """Print all that is known of a trial."""
    metric = metric_of(result.metric)
    console.print(
        f"trial {result.trial} of {result.problem}: {result.status}, bracket s = {result.bracket}, "
        f"{result.iterations} {result.unit}s, {duration(result.seconds.total)}",
        soft_wrap=True,
    )
    console.print(setting_text(result.params), soft_wrap=True)
    if result.started_from is not None:
        console.print(f"the setting of trial {result.started_from} of the search that it started from")
    others = list(dict.fromkeys(name for rung in result.rungs for name in rung.metrics if name != metric.name))
    table = Table(f"{result.unit}s", metric.name, *others, "training", "evaluation", "coordination", box=SIMPLE_HEAD)
    hold_numbers(table, 0)
    for rung in result.rungs:
        value = "diverged" if rung.value is None else f"{metric.text(rung.value)}{part_text(rung.validation_share)}"
        measured = [f"{rung.metrics[name]:.4g}" if name in rung.metrics else "" for name in others]
        if rung.seconds is None:
            times = [f"taken over from trial {rung.taken_over_from}", "", ""]
        else:
            spent = rung.seconds
            times = [duration(each) for each in (spent.training, spent.evaluation, spent.coordination)]
        table.add_row(str(rung.iterations), value, *measured, *times)
    if result.rungs:
        print_table(console, table)
    if result.losses:
        console.print(losses_text(result.losses), soft_wrap=True)
    if result.diverged_at is not None:
        console.print(f"diverged at {result.unit} {result.diverged_at}")
    for failure in result.failures:
        console.print(f"failed on its way to {failure.iterations}: {failure.cause}", soft_wrap=True)
    if result.cause is not None:
        console.print(f"given up because of {result.cause}", soft_wrap=True)
    for final in result.finals:
        value = f"diverged at {result.unit} {final.iterations}" if final.value is None else metric.text(final.value)
        weights = "" if final.weights is None else f"; weights in {final.weights}"
        console.print(f"final training of its setting: {metric.name} {value}{weights}", soft_wrap=True)
        if final.losses:
            console.print(losses_text(final.losses), soft_wrap=True)
    if result.checkpoint is not None:
        console.print(f"checkpoint: {result.checkpoint}", soft_wrap=True)


def losses_text(points: Sequence[LossPoint]) -> str:
    """Say how a training's losses went: the first and the last mean in numbers, those between them as bars."""
    means = [point.mean for point in points]
    least, span = min(means), (max(means) - min(means)) or 1.0
    shown = [means[place * len(means) // BARS_WIDE] for place in range(BARS_WIDE)] if len(means) > BARS_WIDE else means
    bars = "".join(BARS[min(int((mean - least) / span * len(BARS)), len(BARS) - 1)] for mean in shown)
    return f"training loss: {means[0]:.4g} {bars} {means[-1]:.4g}, {points[-1].count} losses"


def metric_of(result: MetricResult) -> Metric:
    """Return the metric that a result names."""
    return Metric(result.name, result.direction, result.unit)


def _head(result: StatusResult) -> Iterator[str]:
    counts, metric = result.counts, metric_of(result.metric)
    where = "" if result.process is None else f", process {result.process} on {result.host}"
    if result.state == "running":
        workers = "" if result.workers is None else f", {len(result.training)} of {result.workers} workers training"
        yield f"{result.problem}: running{where}{workers}"
    elif result.state == "done" or result.process is None:
        yield f"{result.problem}: {result.state}"
    else:
        how = "was killed, or could not say how it ended" if result.ended is None else f"ended at {result.ended}"
        yield f"{result.problem}: interrupted{where}, which {how}; the command that began it goes on from there"
    yield (
        f"trials {counts.trials} of {result.trials_planned}; {counts.promoted} promoted, {counts.dropped} dropped, "
        f"{counts.diverged} diverged, {counts.failed} failed; {counts.retries} begun again; "
        f"{result.finals} of {result.finals_planned} final trainings"
    )
    left = "" if result.seconds_left is None else f"; about {duration(result.seconds_left)} left"
    run = "" if result.seconds_run is None else f"{duration(result.seconds_run)} in the last run; "
    yield f"time: {run}{duration(result.seconds.total)} of all workers in all runs{left}"
    best = result.best
    if best is not None:
        yield (
            f"best {metric.name} {metric.text(best.value)}{part_text(best.validation_share)}: trial {best.trial} after "
            f"{best.iterations} {result.unit}s, {setting_text(best.params)}"
        )


def _below(found: FoundSearch, result: ListResult) -> str:
    """Say where a search is, in as few letters as a table needs."""
    return os.path.relpath(found.directory, result.folder)
