"""Results as tables for a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from stantune.report.results import PlanResult, ProblemsResult, SearchResult, TrainResult
from stantune.report.words import duration, percent, setting_text


def show_search(console: Console, result: SearchResult, directory: Path) -> None:
    """Print the best five trials, the final errors and where the time went."""
    table = Table("trial", "validation error", "iterations", "setting", title="best five", title_justify="left")
    for leader in result.leaders:
        error = percent(leader.validation_error)
        table.add_row(str(leader.trial), error, str(leader.iterations), setting_text(leader.params))
    console.print(table)
    counts = result.counts
    console.print(
        f"{counts.trials} trials: {counts.promoted} promoted, {counts.dropped} dropped early, "
        f"{counts.diverged} diverged; {result.iterations_trained} iterations"
    )
    _show_final(console, result, directory)
    seconds, saved = result.seconds, result.saved
    times = Table(title="where the time went", title_justify="left", show_header=False)
    times.add_row("training", duration(seconds.training))
    times.add_row("evaluation", duration(seconds.evaluation))
    times.add_row("coordination", duration(seconds.coordination))
    times.add_row("saved by early stopping", f"about {duration(saved.early_stopping)}")
    times.add_row("saved by continuing instead of restarting", f"about {duration(saved.continuing)}")
    if result.accelerate == "stan":
        what = "saved" if saved.stan >= 0 else "lost"
        times.add_row(f"{what} by STAN, as measured", duration(abs(saved.stan)))
    console.print(times)


def _show_final(console: Console, result: SearchResult, directory: Path) -> None:
    final = result.final
    if final is None:
        why = "every trial diverged" if result.complete else "the search is not complete"
        console.print(f"no final training: {why}")
    elif final.validation_error is None:
        console.print(f"final training of the best setting, exact: diverged at iteration {final.iterations}")
    else:
        console.print(
            f"final training, exact, {final.iterations} iterations: validation error "
            f"{percent(final.validation_error)}, test error {percent(final.test_error)} ({directory / 'final.pt'})"
        )


def show_training(console: Console, result: TrainResult) -> None:
    """Print the errors of one training."""
    console.print(f"{result.problem}: {setting_text(result.params)}", soft_wrap=True)
    if result.diverged_at is not None:
        console.print(f"diverged at iteration {result.diverged_at}")
    else:
        if result.validation_error is not None:
            console.print(f"validation error {percent(result.validation_error)}")
        console.print(f"test error {percent(result.test_error)}")
    console.print(f"{result.iterations} iterations in {duration(result.seconds.training)}")


def show_plan(console: Console, result: PlanResult) -> None:
    """Print brackets and rungs, and what they come to."""
    table = Table("bracket", "rung", "iterations", "trials", title=f"{result.problem}, {result.variant}")
    for bracket in result.brackets:
        for place, rung in enumerate(bracket.rungs):
            last = place == len(bracket.rungs) - 1
            name = f"s = {bracket.s}" if place == 0 else ""
            table.add_row(name, str(place), str(rung.iterations), str(rung.trials), end_section=last)
    console.print(table)
    console.print(
        f"{result.trials} trials, {result.iterations} iterations in all ({result.iterations_restarting} if every rung "
        f"began from scratch), then {result.final_iterations} of the final training",
        soft_wrap=True,
    )
    console.print(
        "estimated time: unknown without the data"
        if result.estimated_seconds is None
        else f"estimated time: {duration(result.estimated_seconds)} if no trial diverges"
    )


def show_problems(console: Console, result: ProblemsResult) -> None:
    """Print each problem with its space."""
    for problem in result.problems:
        table = Table(
            "parameter",
            "values",
            title=f"{problem.name}: {problem.data}, {problem.iterations} iterations of {problem.batch_size}",
            title_justify="left",
        )
        for parameter in problem.space:
            if parameter.choices is not None:
                values = ", ".join(map(str, parameter.choices))
            else:
                scale = "log" if parameter.log else "linear"
                values = f"{parameter.low:g} … {parameter.high:g}, {scale}, {parameter.kind}"
            table.add_row(parameter.name, values)
        console.print(table)
