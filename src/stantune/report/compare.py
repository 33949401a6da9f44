"""A comparison of exact and STAN's training: its JSON contract, its table and its sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import fmean
from typing import Any, Literal

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stantune.compare.comparison import (
    Arm,
    Comparison,
    Spread,
    error_difference,
    seconds_per_iteration,
    speedup,
    speedup_deviation,
    spread,
)
from stantune.compare.turns import Training
from stantune.protocols import Metric
from stantune.quantities import duration
from stantune.report.tables import print_table
from stantune.report.words import setting_text
from stantune.search.results.contract import MetricResult, Result

_DENOMINATORS = 64
_PERCENT = "%"
# What sentences need not name.
_ERROR = "error"
_TESTED = Field(description="the metric's value, one per seed; null where it diverged")


class ComparedMetric(MetricResult):
    """What is measured on the test images."""

    name: str = Field(description='"test error" for the built-in problems')


class SpreadResult(Result):
    """A value of several seeds."""

    mean: float | None = Field(description="mean over the seeds; null where every seed diverged")
    spread: float | None = Field(description="sample standard deviation over the seeds; null for fewer than two")


class TrainingsResult(Result):
    """Trainings of one kind, one per seed."""

    seconds_per_iteration: float | None = Field(description="mean over all iterations of all seeds")
    seconds: float | None = Field(
        description="of a whole training without evaluation, mean over the seeds; null where every seed diverged"
    )
    test_error: list[float | None] = _TESTED
    kept: float = Field(description="mean share of the entries that reduced iterations computed; 1 for exact training")


class EqualTimeResult(Result):
    """Exact trainings as long as STAN's took."""

    iterations: int = Field(description="of each: iterations / speedup, rounded")
    seconds: float | None = Field(
        description="of a whole training without evaluation, mean over the seeds; null where every seed diverged"
    )
    test_error: list[float | None] = _TESTED
    error_difference: SpreadResult = Field(
        description="how much worse the metric is than after the exact training of all iterations, paired by seed; "
        "below 0 it is better"
    )


_SPEEDUP = Field(
    description="how many times faster the whole training was, measured; null where no seed was trained to its end"
)
_PREDICTED = Field(description="the same as predicted before the first training; null where nothing predicts it")
_DIFFERENCE = Field(
    description="how much worse the metric is than after exact training, paired by seed; below 0 it is better"
)
_EQUAL_TIME = Field(
    description="exact training for as long as STAN's took; null without --equal-time, or where speedup is null"
)


class ArmResult(Result):
    """One way of training under STAN against exact training."""

    rate: float | Literal["auto", "annealed"] = Field(description="what was given with --rate")
    tolerance: float | None = Field(description="what was given with --tolerance; null where nothing was")
    fill: Literal["neighbour", "memo"] = Field(description="what skipped entries receive")
    period: int | None = Field(
        description="Z, reduced iterations after each exact one (epochs where the fill is memo); null for no exact ones"
    )
    pretrain: int = Field(description="exact iterations at the start")
    tail: int = Field(description="exact iterations at the end")
    stan: TrainingsResult = Field(description="the trainings under STAN")
    speedup: float | None = _SPEEDUP
    speedup_spread: float | None = Field(
        description="sample standard deviation of the seeds' own speed-ups; null for fewer than two"
    )
    predicted_speedup: float | None = _PREDICTED
    error_difference: SpreadResult = _DIFFERENCE
    equal_time: EqualTimeResult | None = _EQUAL_TIME


class CompareResult(Result):
    """`stantune compare --json`."""

    schema_version: Literal["stantune.compare/1"] = Field(default="stantune.compare/1", description="kind and version")
    problem: str = Field(description="the problem's name")
    params: dict[str, Any] = Field(description="the values given with --set; the others are the problem's own")
    iterations: int = Field(description="N, of each training")
    seeds: int = Field(description="how many: seed 0 comes first in every list of one value per seed")
    threads: int = Field(description="PyTorch's, of each training")
    metric: ComparedMetric = Field(description="what is measured on the test images")
    exact: TrainingsResult = Field(description="the exact trainings")
    stan: TrainingsResult = Field(description="the trainings under STAN at the first --rate, as in arms")
    speedup: float | None = _SPEEDUP
    predicted_speedup: float | None = _PREDICTED
    error_difference: SpreadResult = _DIFFERENCE
    equal_time: EqualTimeResult | None = _EQUAL_TIME
    arms: list[ArmResult] = Field(description="one for each --rate, in their order")


def compare_result(problem: str, setting: Mapping[str, Any], threads: int, comparison: Comparison) -> CompareResult:
    """Return the numbers of a comparison with at least one arm."""
    metric = comparison.metric
    arms = [_arm(comparison.exact, arm, metric) for arm in comparison.arms]
    first = arms[0]
    return CompareResult(
        problem=problem,
        params=dict(setting),
        iterations=comparison.iterations,
        seeds=len(comparison.exact),
        threads=threads,
        metric=ComparedMetric(name=metric.name, direction=metric.direction, unit=metric.unit),
        exact=_trainings(comparison.exact),
        stan=first.stan,
        speedup=first.speedup,
        predicted_speedup=first.predicted_speedup,
        error_difference=first.error_difference,
        equal_time=first.equal_time,
        arms=arms,
    )


def _arm(exact: Sequence[Training], arm: Arm, metric: Metric) -> ArmResult:
    equal = arm.equal_time
    return ArmResult(
        rate=arm.asked.rate if isinstance(arm.asked.rate, str) else arm.asked.least_rate,
        tolerance=arm.asked.tolerance,
        fill="neighbour" if arm.stan.memo is None else "memo",
        period=arm.stan.period,
        pretrain=arm.stan.pretrain,
        tail=arm.stan.tail,
        stan=_trainings(arm.trainings),
        speedup=speedup(exact, arm.trainings),
        speedup_spread=speedup_deviation(exact, arm.trainings),
        predicted_speedup=arm.predicted_speedup,
        error_difference=_spread(error_difference(exact, arm.trainings, metric)),
        equal_time=None
        if equal is None
        else EqualTimeResult(
            iterations=equal.iterations,
            seconds=_whole_seconds(equal.trainings),
            test_error=[training.test_error for training in equal.trainings],
            error_difference=_spread(error_difference(exact, equal.trainings, metric)),
        ),
    )


def _trainings(trainings: Sequence[Training]) -> TrainingsResult:
    return TrainingsResult(
        seconds_per_iteration=seconds_per_iteration(trainings),
        seconds=_whole_seconds(trainings),
        test_error=[training.test_error for training in trainings],
        kept=fmean(training.kept for training in trainings),
    )


def _whole_seconds(trainings: Sequence[Training]) -> float | None:
    return spread([training.seconds for training in trainings if training.diverged_at is None]).mean


def _spread(value: Spread) -> SpreadResult:
    return SpreadResult(mean=value.mean, spread=value.deviation)


def show_comparison(console: Console, result: CompareResult) -> None:
    """Print one column for exact training and one for each way of STAN, and what it comes to in plain words."""
    console.print(
        f"{result.problem}: {setting_text(result.params)}; {_count(result.iterations, 'iteration')}, "
        f"{_count(result.seeds, 'seed')}, {_count(result.threads, 'thread')}",
        soft_wrap=True,
    )
    print_table(console, _table(result))
    for line in sentences(result):
        console.print(line, soft_wrap=True)


def sentences(result: CompareResult) -> list[str]:
    """Return what a comparison comes to: who diverged, and for each way of STAN what it wins and loses."""
    lines = [] if None not in result.exact.test_error else [_divergence("exact training", result.exact.test_error)]
    for arm in result.arms:
        name = label(arm)
        if None in arm.stan.test_error:
            lines.append(_divergence(name, arm.stan.test_error))
        if arm.speedup is None:
            continue
        line = f"{name} trains {result.problem} {_pace(arm.speedup)} and ends "
        line += _worse(arm.error_difference, result.metric)
        equal = arm.equal_time
        if equal is not None and equal.error_difference.mean is not None:
            line += f"; training exactly for the same time ends {_worse(equal.error_difference, result.metric)}"
        elif equal is not None:
            line += "; training exactly for the same time diverges"
        lines.append(f"{line}.")
    return lines


def label(arm: ArmResult) -> str:
    """Return a short name such as STAN 1/2, STAN auto or STAN 1/4 memo."""
    rate = str(arm.rate)
    if not isinstance(arm.rate, str):
        share = Fraction(arm.rate).limit_denominator(_DENOMINATORS)
        rate = str(share) if float(share) == arm.rate else f"{arm.rate:g}"
    return f"STAN {rate}{' memo' if arm.fill == 'memo' else ''}"


def _table(result: CompareResult) -> Table:
    exact, arms = result.exact, result.arms
    table = Table("", "exact", *map(label, arms), box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    each = [exact, *(arm.stan for arm in arms)]
    table.add_row("an iteration", *(_milliseconds(one.seconds_per_iteration) for one in each))
    table.add_row("whole training", *(duration(one.seconds) for one in each))
    table.add_row("times faster", "", *(_plus_minus(arm.speedup, arm.speedup_spread) for arm in arms))
    table.add_row("as predicted", "", *(_plus_minus(arm.predicted_speedup, None) for arm in arms))
    table.add_row("entries kept", *(f"{100 * one.kept:.0f} %" for one in each), end_section=True)
    unit = result.metric.unit
    measured = f"{result.metric.name}, {unit}" if unit else result.metric.name
    worse, digits = "points worse" if unit == _PERCENT else "worse by", _digits(unit)
    table.add_row(measured, *(_measured(one.test_error, digits) for one in each))
    table.add_row(worse, "", *(_difference(arm.error_difference, digits) for arm in arms), end_section=True)
    equals = [arm.equal_time for arm in arms]
    if any(equals):
        table.add_row("exact, as long")
        table.add_row("  iterations", "", *("–" if one is None else str(one.iterations) for one in equals))
        table.add_row(
            f"  {measured}", "", *("–" if one is None else _measured(one.test_error, digits) for one in equals)
        )
        table.add_row(
            f"  {worse}", "", *("–" if one is None else _difference(one.error_difference, digits) for one in equals)
        )
    return table


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.1f} ms"


def _measured(values: Sequence[float | None], digits: str) -> str:
    return _plus_minus(*spread([value for value in values if value is not None]), digits)


def _difference(value: SpreadResult, digits: str) -> str:
    return _plus_minus(value.mean, value.spread, f"+{digits}")


def _plus_minus(mean: float | None, deviation: float | None, digits: str = ".2f") -> str:
    if mean is None:
        return "–"
    return f"{mean:{digits}}" if deviation is None else f"{mean:{digits}} ± {deviation:{digits.removeprefix('+')}}"


def _digits(unit: str) -> str:
    """Return how values are written, as Metric.text does it."""
    return ".2f" if unit == _PERCENT else ".4g"


def _pace(times: float) -> str:
    shown = f"{times:.2f}"
    if shown == "1.00":
        return "as fast as exact training"
    return f"{shown} times faster" if times > 1 else f"{shown} times as fast as exact training"


def _worse(value: SpreadResult, metric: MetricResult) -> str:
    if value.mean is None:
        return "nowhere"
    what, digits = metric.name.removeprefix("test "), _digits(metric.unit)
    unit = " points" if metric.unit == _PERCENT else f" {metric.unit}".rstrip()
    if float(f"{value.mean:{digits}}") == 0:
        return f"with the same {what}" + ("" if value.spread is None else f" (± {value.spread:{digits}}{unit})")
    how = "worse" if value.mean > 0 else "better"
    where = "" if what == _ERROR else f" in {what}"
    return f"{_plus_minus(abs(value.mean), value.spread, digits)}{unit} {how}{where}"


def _divergence(name: str, errors: Sequence[float | None]) -> str:
    lost = [str(seed) for seed, error in enumerate(errors) if error is None]
    if len(lost) == len(errors):
        return f"{name} diverged with every seed."
    return f"{name} diverged with seed {', '.join(lost)}; what is said of it is of the other seeds."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
