"""What `stantune profile` says: the times of each layer and the plan that follows from them, as JSON and as text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stantune.images.problem.built_in import Problem
from stantune.report.tables import print_table
from stantune.search.results.contract import Result
from stantune.stan.planning.plan import Plan
from stantune.training.threads import Measured


class PatternProfile(Result):
    """What one pattern brings in one layer."""

    name: str = Field(description='"rows", "columns", "blocks", or "quarter" in one dimension')
    t_i: float = Field(description="seconds that a reduced iteration saves in the forward pass; negative is a loss")
    t_j: float = Field(description="seconds that it saves in the backward pass; negative is a loss")
    error: float = Field(description="norm of exact less filled output over that of the exact one; not in percent")
    planned: bool = Field(description="whether reduced iterations use it in this layer")


class LayerProfile(Result):
    """One convolution; all its uses in an iteration together."""

    name: str = Field(description="its name in the network")
    t_f: float | None = Field(description="seconds of its exact forward pass; null where it was not timed")
    t_b: float | None = Field(description="seconds of its exact backward pass; null where it was not timed")
    t_e: float | None = Field(
        description="seconds of measuring its patterns' errors, as a refresh does where layers choose; null likewise"
    )
    patterns: list[PatternProfile] = Field(description="what it could use")
    left_alone: str | None = Field(description="why it computes every entry always; null where it does not")


class ThreadsProfile(Result):
    """One number of threads."""

    threads: int = Field(description="PyTorch's")
    seconds: float = Field(description="of an exact iteration by native kernels")


class ProfileResult(Result):
    """`stantune profile --json`."""

    schema_version: Literal["stantune.profile/1"] = Field(default="stantune.profile/1", description="kind and version")
    problem: str = Field(description="the problem's name")
    seed: int = Field(description="what was given with --seed")
    rate: float | Literal["auto"] = Field(description="what was given with --rate; the least of several")
    batch_size: int = Field(description="images in an iteration")
    threads: int = Field(description="PyTorch's, as used")
    threads_tried: list[ThreadsProfile] | None = Field(
        description="what --threads auto chose from, in ascending order; null without it"
    )
    device: str = Field(description="where it was timed")
    iterations: int = Field(description="N, the length of the whole run that the prediction is for")
    step: float = Field(description="seconds of a whole exact iteration: data, network, loss, optimizer")
    native_step: float | None = Field(
        description="the same of the accelerated network, whose exact iterations run natively; null where none do"
    )
    layers: list[LayerProfile] = Field(description="every convolution")
    period: int | None = Field(description="Z, reduced iterations after each exact one; null for no exact ones")
    tolerance: float | None = Field(description="relative error that a pattern may have; null where none is chosen")
    predicted_speedup: float | None = Field(
        description="time of a whole exact run over that of one under STAN; null where nothing predicts it"
    )


def profile_result(
    problem: Problem,
    rate: float | Literal["auto"],
    iterations: int,
    threads: int,
    device: str,
    seed: int,
    plan: Plan,
    measured: Measured | None = None,
) -> ProfileResult:
    """Return the result of planning a run of `iterations` with --rate `rate`; `measured` is of --threads auto."""
    layers = []
    for layer in plan.times.layers:
        used = {pattern.name for pattern in layer.among(plan.stan.patterns_of(layer.name))}
        timed = bool(layer.patterns)
        layers.append(
            LayerProfile(
                name=layer.name,
                t_f=layer.t_f if timed else None,
                t_b=layer.t_b if timed else None,
                t_e=layer.t_e if timed else None,
                patterns=[
                    PatternProfile(name=name, t_i=t_i, t_j=t_j, error=error, planned=name in used)
                    for name, t_i, t_j, error in layer.patterns
                ],
                left_alone=plan.reasons.get(layer.name),
            )
        )
    return ProfileResult(
        problem=problem.name,
        seed=seed,
        rate=rate,
        batch_size=problem.batch_size,
        threads=threads,
        threads_tried=measured
        and [ThreadsProfile(threads=count, seconds=seconds) for count, seconds in measured.seconds.items()],
        device=device,
        iterations=iterations,
        step=plan.times.step_seconds,
        native_step=plan.times.native_seconds,
        layers=layers,
        period=plan.stan.period,
        tolerance=plan.stan.tolerance,
        predicted_speedup=plan.predicted_speedup,
    )


def show_profile(console: Console, result: ProfileResult) -> None:
    """Print the times in a table and the plan in a few sentences."""
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    native = "" if result.native_step is None else f", {_ms(result.native_step)} ms with native kernels"
    console.print(
        f"{result.problem}: {result.batch_size} images an iteration, {threads}, {result.device}; a whole exact "
        f"iteration takes {_ms(result.step)} ms{native}",
        soft_wrap=True,
    )
    if result.threads_tried:
        tried = ", ".join(f"{_ms(one.seconds)} ms with {one.threads}" for one in result.threads_tried)
        console.print(f"an exact iteration with native kernels by number of threads: {tried}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("layer")
    for head in ("t_f\nms", "t_b\nms", "t_e\nms"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("pattern")
    for head in ("t_i\nms", "t_j\nms", "error"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("used")
    for layer in result.layers:
        times = [_ms(seconds) for seconds in (layer.t_f, layer.t_b, layer.t_e)]
        rows = [
            (pattern.name, _ms(pattern.t_i), _ms(pattern.t_j), f"{pattern.error:.3f}", "yes" if pattern.planned else "")
            for pattern in layer.patterns
        ] or [("–", "–", "–", "–", "")]
        for number, row in enumerate(rows):
            first = (layer.name, *times) if number == 0 else ("", "", "", "")
            table.add_row(*first, *row, end_section=number == len(rows) - 1)
    print_table(console, table, labels=(0, 4))
    console.print(
        "t_f, t_b: exact forward and backward pass, with the ReLU and the pooling where they are done with it; "
        "t_e: measuring all patterns' errors, as a refresh does where "
        "layers choose; t_i, t_j: saved by a reduced iteration, forward and backward; error: of the filled output, "
        "relative",
        soft_wrap=True,
    )
    for sentence in plan_sentences(result):
        console.print(sentence, soft_wrap=True)


def plan_sentences(result: ProfileResult) -> list[str]:
    """Return what is done with each layer and why, and how fast the run will be."""
    sentences = []
    groups: dict[str, list[str]] = {}
    for layer in result.layers:
        name = layer.name or "(the model)"
        if layer.left_alone is None:
            patterns = [pattern.name for pattern in layer.patterns if pattern.planned]
            groups.setdefault(" or ".join(patterns), []).append(name)
        else:
            sentences.append(f"layer {name} is left alone: {layer.left_alone}")
    if not groups:
        return [*sentences, "plan: train exactly; STAN pays in no layer"]
    used = "; ".join(f"{', '.join(names)}: {patterns}" for patterns, names in groups.items())
    how = "drawn anew for each iteration"
    if result.tolerance is not None:
        how = f"at each refresh the cheapest whose error is at most {result.tolerance:g}, else every entry"
    period = "no exact ones" if result.period is None else f"{result.period} reduced iterations after each exact one"
    sentences.append(f"plan: {used} ({how}); {period}")
    if result.predicted_speedup is not None:
        sentences.append(
            f"predicted: a whole run of {result.iterations} iterations is {result.predicted_speedup:.2f} times as fast "
            "as exact training"
        )
    return sentences


def _ms(seconds: float | None) -> str:
    """Return milliseconds of at most six characters, for times up to a minute; a dash for None."""
    if seconds is None:
        return "–"
    return f"{1e3 * seconds:.2f}" if abs(seconds) < 0.09999 else f"{1e3 * seconds:.0f}"
