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
from stantune.quantities import duration
from stantune.report.tables import print_table
from stantune.report.words import setting_text
from stantune.search.contract import Result

_DENOMINATORS = 64


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
    test_error: list[float | None] = Field(description="percent, one per seed; null where it diverged")
    kept: float = Field(description="mean share of the entries that reduced iterations computed; 1 for exact training")


class EqualTimeResult(Result):
    """Exact trainings as long as STAN's took."""

    iterations: int = Field(description="of each: iterations / speedup, rounded")
    seconds: float | None = Field(
        description="of a whole training without evaluation, mean over the seeds; null where every seed diverged"
    )
    test_error: list[float | None] = Field(description="percent, one per seed; null where it diverged")
    error_difference: SpreadResult = Field(
        description="points of test error above those of the exact training of all iterations, paired by seed"
    )


_SPEEDUP = Field(
    description="how many times faster the whole training was, measured; null where no seed was trained to its end"
)
_PREDICTED = Field(description="the same as predicted before the first training; null where nothing predicts it")
_DIFFERENCE = Field(description="points of test error above those of exact training, paired by seed")
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
    exact: TrainingsResult = Field(description="the exact trainings")
    stan: TrainingsResult = Field(description="the trainings under STAN at the first --rate, as in arms")
    speedup: float | None = _SPEEDUP
    predicted_speedup: float | None = _PREDICTED
    error_difference: SpreadResult = _DIFFERENCE
    equal_time: EqualTimeResult | None = _EQUAL_TIME
    arms: list[ArmResult] = Field(description="one for each --rate, in their order")


def compare_result(problem: str, setting: Mapping[str, Any], threads: int, comparison: Comparison) -> CompareResult:
    """Return the numbers of a comparison with at least one arm."""
    arms = [_arm(comparison.exact, arm) for arm in comparison.arms]
    first = arms[0]
    return CompareResult(
        problem=problem,
        params=dict(setting),
        iterations=comparison.iterations,
        seeds=len(comparison.exact),
        threads=threads,
        exact=_trainings(comparison.exact),
        stan=first.stan,
        speedup=first.speedup,
        predicted_speedup=first.predicted_speedup,
        error_difference=first.error_difference,
        equal_time=first.equal_time,
        arms=arms,
    )


def _arm(exact: Sequence[Training], arm: Arm) -> ArmResult:
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
        error_difference=_spread(error_difference(exact, arm.trainings)),
        equal_time=None
        if equal is None
        else EqualTimeResult(
            iterations=equal.iterations,
            seconds=_whole_seconds(equal.trainings),
            test_error=[training.test_error for training in equal.trainings],
            error_difference=_spread(error_difference(exact, equal.trainings)),
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
        line = f"{name} trains {result.problem} {_pace(arm.speedup)} and ends {_worse(arm.error_difference)}"
        equal = arm.equal_time
        if equal is not None and equal.error_difference.mean is not None:
            line += f"; training exactly for the same time ends {_worse(equal.error_difference)}"
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
    table.add_row("test error, %", *(_error(one.test_error) for one in each))
    table.add_row("points worse", "", *(_difference(arm.error_difference) for arm in arms), end_section=True)
    equals = [arm.equal_time for arm in arms]
    if any(equals):
        table.add_row("exact, as long")
        table.add_row("  iterations", "", *("–" if one is None else str(one.iterations) for one in equals))
        table.add_row("  test error, %", "", *("–" if one is None else _error(one.test_error) for one in equals))
        table.add_row(
            "  points worse", "", *("–" if one is None else _difference(one.error_difference) for one in equals)
        )
    return table


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.1f} ms"


def _error(errors: Sequence[float | None]) -> str:
    return _plus_minus(*spread([error for error in errors if error is not None]))


def _difference(value: SpreadResult) -> str:
    return _plus_minus(value.mean, value.spread, "+")


def _plus_minus(mean: float | None, deviation: float | None, sign: str = "") -> str:
    if mean is None:
        return "–"
    return f"{mean:{sign}.2f}" if deviation is None else f"{mean:{sign}.2f} ± {deviation:.2f}"


def _pace(times: float) -> str:
    shown = f"{times:.2f}"
    if shown == "1.00":
        return "as fast as exact training"
    return f"{shown} times faster" if times > 1 else f"{shown} times as fast as exact training"


def _worse(value: SpreadResult) -> str:
    if value.mean is None:
        return "nowhere"
    if f"{abs(value.mean):.2f}" == "0.00":
        return "with the same error" + ("" if value.spread is None else f" (± {value.spread:.2f} points)")
    return f"{_plus_minus(abs(value.mean), value.spread)} points {'worse' if value.mean > 0 else 'better'}"


def _divergence(name: str, errors: Sequence[float | None]) -> str:
    lost = [str(seed) for seed, error in enumerate(errors) if error is None]
    if len(lost) == len(errors):
        return f"{name} diverged with every seed."
    return f"{name} diverged with seed {', '.join(lost)}; what is said of it is of the other seeds."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
