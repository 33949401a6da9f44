"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stantune.protocols import Metric
from stantune.quantities import duration
from stantune.report.results import PlanResult, ProblemsResult, TrainResult
from stantune.report.tables import hold_numbers, print_table
from stantune.report.words import by_parts, percent, setting_text, value_text
from stantune.search.results.contract import (
    BestEvaluation,
    BracketChoice,
    BracketResult,
    Final,
    Leader,
    RateResult,
    SearchSummary,
)
from stantune.space import condition_text


def show_search(console: Console, result: SearchSummary, directory: Path) -> None:
    """Print the best five trials, the final errors and where the time went."""
    counts = result.counts
    console.print(
        f"{counts.trials} trials: {counts.promoted} promoted, {counts.dropped} dropped early, "
        f"{counts.diverged} diverged; {result.iterations_trained} {result.unit}s in all",
        soft_wrap=True,
    )
    _show_rates(console, result.rates, result.unit)
    spared = result.iterations_spared
    if counts.duplicates:
        console.print(
            f"duplicates: {counts.duplicates} trials took over the results of equal ones, "
            f"{spared.duplicates} {result.unit}s not trained",
            soft_wrap=True,
        )
    if spared.diverged:
        console.print(f"stopped where they diverged: {spared.diverged} {result.unit}s not trained", soft_wrap=True)
    if counts.retries or counts.failed:
        console.print(
            f"failures: {counts.retries} trainings begun again, {counts.failed} trials failed for good", soft_wrap=True
        )
    if result.leaders:
        print_table(console, _best_trials(result.leaders, _metric(result), result.unit))
    _show_final(console, result, directory)
    if not counts.trials:
        return
    seconds, saved = result.seconds, result.saved
    times = Table("where the time went", "", box=SIMPLE_HEAD)
    hold_numbers(times, 1)
    times.add_row("training", duration(seconds.training))
    times.add_row("evaluation", duration(seconds.evaluation))
    times.add_row("coordination", duration(seconds.coordination))
    times.add_row("saved by early stopping", f"about {duration(saved.early_stopping)}")
    times.add_row("saved by continuing instead of restarting", f"about {duration(saved.continuing)}")
    if saved.stan:  # nothing where every entry is computed
        what = "saved" if saved.stan >= 0 else "lost"
        times.add_row(f"{what} by STAN, as measured", duration(abs(saved.stan)))
    print_table(console, times)


def _show_rates(console: Console, rates: Sequence[RateResult], unit: str) -> None:
    """Print STAN's rates where they are several."""
    if len(rates) > 1:
        words = ", ".join(f"{rate.rate:g} up to {rate.iterations} {unit}s" for rate in rates)
        console.print(f"share of the entries that STAN computes: {words}", soft_wrap=True)


def _metric(result: SearchSummary) -> Metric:
    return Metric(result.metric.name, result.metric.direction, result.metric.unit)


def _best_trials(leaders: Sequence[Leader], metric: Metric, unit: str) -> Table:
    """Lay the trials side by side: five fit into 80 columns, however many parameters there are."""
    table = Table("best trials", *(f"trial {leader.trial}" for leader in leaders), box=SIMPLE_HEAD)
    hold_numbers(table, 1)
    table.add_row(metric.name, *(metric.text(leader.value) for leader in leaders))
    parts = by_parts(leaders)
    table.add_row(f"{unit}s", *(str(leader.iterations) for leader in leaders), end_section=not parts)
    if parts:
        table.add_row("of the validation set", *parts, end_section=True)
    # Conditional parameters exist in some of the settings only.
    for name in dict.fromkeys(name for leader in leaders for name in leader.params):
        table.add_row(name, *(value_text(leader.params[name]) if name in leader.params else "" for leader in leaders))
    return table


def _show_final(console: Console, result: SearchSummary, directory: Path) -> None:
    final = result.final
    if final is not None and len(result.finalists) > 1:
        _show_finalists(console, result, final, directory)
    elif final is None:
        lost = "diverged or failed" if result.counts.failed else "diverged"
        why = f"every trial {lost}" if result.complete else "the search is not complete"
        why = "none was asked for" if result.complete and result.final_training == "none" else why
        why = why if result.final_failure is None else "it failed"
        console.print(f"no final training: {why}", soft_wrap=True)
    elif final.value is None:
        console.print(
            f"final training of the best setting ({_how(result)}): diverged at {result.unit} {final.iterations}",
            soft_wrap=True,
        )
    else:
        console.print(
            f"final training of the best setting ({_how(result)}, {final.iterations} {result.unit}s):",
            soft_wrap=True,
        )
        console.print(f"  {_measured(result, final)}{_weights(directory, final)}", soft_wrap=True)
    best = None if final is None else final.best
    if final is not None and best is not None and best.value != final.value:
        console.print(
            f"  its best evaluation, after {best.iterations} {result.unit}s: {_measured(result, best)}"
            f"{_weights(directory, best)}",
            soft_wrap=True,
        )


def _how(result: SearchSummary) -> str:
    """Say how final trainings were done."""
    return "its trial's own, which ended exactly" if result.final_training == "continue" else "exact, from scratch"


def _measured(result: SearchSummary, final: Final | BestEvaluation) -> str:
    """Say what was measured, what is compared first; the others are in its unit where their names end as its does."""
    metric = _metric(result)
    kind = metric.name.rpartition(" ")[2]
    words = [f"{metric.name} {metric.text(final.value)}"]
    for name, value in final.metrics.items():
        if name != metric.name:
            like = metric if name.rpartition(" ")[2] == kind else Metric(name)
            words.append(f"{name} {like.text(value)}")
    return ", ".join(words)


def _show_finalists(console: Console, result: SearchSummary, winner: Final, directory: Path) -> None:
    finalists, metric = result.finalists, _metric(result)
    iterations = max(final.iterations for final in finalists)
    console.print(
        f"final trainings of the best {len(finalists)} settings ({_how(result)}, {iterations} {result.unit}s):",
        soft_wrap=True,
    )
    for final in finalists:
        if final.value is None:
            line = f"diverged at {result.unit} {final.iterations}"
        else:
            line = f"{metric.name} {metric.text(final.value)}"
            if final == winner:
                others = _measured(result, final).removeprefix(line).removeprefix(", ")
                line += f", the {metric.best_is}{others and '; ' + others}{_weights(directory, final)}"
        console.print(f"  trial {final.trial}: {line}", soft_wrap=True)


def _weights(directory: Path, final: Final | BestEvaluation) -> str:
    # None where the training keeps nothing.
    return "" if final.weights is None else f"; weights in {directory / final.weights}"


def show_training(console: Console, result: TrainResult) -> None:
    """Print the errors of one training."""
    console.print(f"{result.problem}: {setting_text(result.params)}", soft_wrap=True)
    if result.diverged_at is not None:
        console.print(f"diverged at iteration {result.diverged_at}")
    else:
        for name, value in result.metrics.items():
            shown = percent(value) if name in ("validation error", "test error") else f"{value:.4g}"
            console.print(f"{name} {shown}", soft_wrap=True)
    console.print(f"{result.iterations} iterations in {duration(result.seconds.training)}")


def show_plan(console: Console, result: PlanResult) -> None:
    """Print what trials compute, brackets and rungs, and what they come to."""
    how = "asynchronous" if result.mode == "async" else result.variant
    if result.plan != "hyperband":
        how = "one wide bracket" if result.plan == "wide" else f"measured, {how}"
    console.print(f"{result.problem}, {how}, eta {result.eta}", soft_wrap=True)
    if len(result.rates) == 1:
        rate = result.rates[0].rate
        console.print(f"share of the entries that STAN computes: {'all' if rate == 1 else rate}", soft_wrap=True)
    _show_rates(console, result.rates, result.unit)
    table = Table("bracket", "rung", f"{result.unit}s", "trials", box=SIMPLE_HEAD)
    hold_numbers(table, 1)
    known = [bracket for bracket in result.brackets if not bracket.choices]
    # All that are chosen while searching have the same choices.
    choices = result.brackets[-1].choices
    shown: list[BracketResult | BracketChoice] = [*known, *choices]
    for bracket in shown:
        for place, rung in enumerate(bracket.rungs):
            last = place == len(bracket.rungs) - 1
            name = "" if place else f"s = {bracket.s}" if bracket in known else f"or s = {bracket.s}"
            table.add_row(name, str(place), str(rung.iterations), str(rung.trials), end_section=last)
    print_table(console, table, labels=(0, 1))
    if choices:
        console.print(
            f"brackets in all: {len(result.brackets)}, the first as shown; each other one is chosen when those before "
            "it are through, by how well their rungs have ordered the trials that went on",
            soft_wrap=True,
        )
    several = "s" if result.final_iterations > result.max_iterations else ""
    console.print(
        f"{'at most ' if choices else ''}{result.trials} trials, {result.iterations} {result.unit}s in all "
        f"({result.iterations_restarting} if every rung began from scratch), then {result.final_iterations} of the "
        f"final training{several}",
        soft_wrap=True,
    )
    console.print(
        "estimated time: unknown; it is timed where a Problem's data are there, and one of a few settings trains"
        if result.estimated_seconds is None
        else f"estimated time: {duration(result.estimated_seconds)} if no trial diverges"
    )


def show_problems(console: Console, result: ProblemsResult) -> None:
    """Print each problem with its space."""
    for problem in result.problems:
        console.print(
            f"{problem.name}: {problem.data}, {problem.iterations} iterations of {problem.batch_size} images",
            soft_wrap=True,
        )
        columns = ["parameter", "from", "to", "scale", "kind"]
        if any(parameter.when for parameter in problem.space):
            columns.append("exists where")
        table = Table(*columns, box=SIMPLE_HEAD)
        for parameter in problem.space:
            if parameter.choices is not None:
                row = [parameter.name, ", ".join(map(str, parameter.choices)), "", "", parameter.kind]
            else:
                scale = "log" if parameter.log else "linear"
                row = [parameter.name, f"{parameter.low:g}", f"{parameter.high:g}", scale, parameter.kind]
            if len(columns) > len(row):
                row.append(condition_text(parameter.when or {}))
            table.add_row(*row)
        print_table(console, table)
