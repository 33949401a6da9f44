"""How the texts of options become settings, or are refused in the options' own names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stantune.arguments import digits, typed_number
from stantune.cli.panels import PANELS
from stantune.errors import UsageError
from stantune.texts import brief

if TYPE_CHECKING:
    import typer

    # Imported for real where they are used: PyTorch and Optuna take seconds, and `--help` needs none of them.
    from stantune.images.problem.built_in import Problem
    from stantune.protocols import Objective
    from stantune.stan.config import Stan

# Options that nothing reads where STAN does nothing.
_HEEDED_BY_STAN = {"fill", *PANELS["STAN"]} - {"accelerate"}


def device_of(text: str) -> str:
    """Return the device to train on; raises UsageError where there is none such."""
    from stantune.process.runtime import device_named

    return device_named(text)


def is_caffe(name: str) -> bool:
    """Tell whether this names Caffe's file of a network."""
    return name.lower().endswith(".prototxt")


def what_is_named(name: str, solver: Path | None, dataset: str | None, batch_size: int | None = None) -> str | Problem:
    """Return the problem that Caffe's files are, where the name is that of one; the name itself for any other.

    Raises UsageError where an option for Caffe's files is missing, or given for another problem.
    """
    if not is_caffe(name):
        for option, value in (("--solver", solver), ("--dataset", dataset), ("--batch-size", batch_size)):
            if value is not None:
                raise UsageError(
                    f"{option} {brief(value)} is for Caffe's files, and {brief(name) or 'nothing'} is none; leave it "
                    "out, or give a network's FILE.prototxt"
                )
        return name
    missing = f"{brief(name)} is Caffe's file of a network"
    if solver is None:
        raise UsageError(f"{missing}, and --solver is missing; give its solver's file")
    if dataset is None:
        raise UsageError(f"{missing}, and --dataset is missing; give the data set, such as mnist")
    from stantune.images.prototxt.reading import from_caffe

    return from_caffe(name, solver, dataset, batch_size=batch_size)


def problem_of(what: str | Problem, layers: list[str] | None) -> Problem:
    """Return the problem of this name, with the --layers that are given as those that STAN reduces.

    Raises UsageError where there is none such; what is wrong with the layers shows where they are looked for.
    """
    import dataclasses

    from stantune.images.problem.built_in import find

    problem = find(what) if isinstance(what, str) else what
    return problem if layers is None else dataclasses.replace(problem, stan_layers=tuple(layers))


def setting_of(problem: Problem | Objective, assignments: list[str] | None) -> dict[str, Any]:
    """Return the setting that --set gives; raises UsageError where one is no assignment or outside the space."""
    setting = {}
    for assignment in assignments or []:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {brief(assignment)} is no assignment; write it as NAME=VALUE")
        if name in setting:
            raise UsageError(f"--set {brief(assignment)} gives {brief(name)} a second time; give each parameter once")
        setting[name] = problem.space.parse(name, text)
    return problem.space.check(setting)


def rate_of(text: str) -> float | Literal["auto", "annealed"]:
    """Return the value of --rate; raises UsageError where it is none."""
    if text == "auto":
        return "auto"
    if text == "annealed":
        return "annealed"
    rate = typed_number(text)
    if rate is None:
        raise UsageError(
            f"--rate {brief(text)} is no share of the entries; give a number such as 0.5, or auto, or annealed"
        )
    return rate


def period_of(text: str) -> int | None:
    """Return the value of --period; raises UsageError where it is none."""
    reduced = digits(text)
    if text != "none" and reduced is None:
        raise UsageError(
            f"--period {brief(text)} is no number of iterations, 0 or more; give one, or none for no exact ones"
        )
    return reduced


def stan_of(
    accelerate: str,
    rate: str,
    tolerance: float | None,
    period: str,
    pretrain: int,
    tail: int,
    iterations: int,
    problem: Problem,
) -> Stan | None:
    """Return STAN's settings, or None for --accelerate none; raises UsageError."""
    from stantune.stan.config import Stan

    if accelerate not in ("stan", "none"):
        raise UsageError(f"--accelerate {brief(accelerate)} is unknown; give stan or none")
    if accelerate == "none":
        return None
    reduced = period_of(period)
    if pretrain + tail > iterations:
        raise UsageError(
            f"--pretrain {pretrain} and --tail {tail} are more than the training's {iterations} iterations; give less"
        )
    return Stan(
        rate=rate_of(rate),
        tolerance=tolerance,
        period=reduced,
        pretrain=pretrain,
        tail=tail,
        iterations=iterations,
        layers=problem.stan_layers,
    )


def check_heeded(ctx: typer.Context) -> None:
    """Raise UsageError where an option says how STAN trains, and --accelerate that it does not."""
    if ctx.params["accelerate"] != "none":
        return
    for option in ctx.command.params:
        name = option.name or ""
        if name not in _HEEDED_BY_STAN:
            continue
        source = ctx.get_parameter_source(name)
        # A whole configuration names defaults, too.
        differs = ctx.params[name] != option.default
        if source is not None and (source.name == "COMMANDLINE" or (source.name == "DEFAULT_MAP" and differs)):
            raise UsageError(
                f"--{name} says how STAN trains, and --accelerate none that it does not; leave --{name} away, or have "
                "a Problem trained by --accelerate stan"
            )


def brackets_of(text: str) -> int | None:
    """Return the value of --brackets, None for all; raises UsageError where it is none."""
    number = digits(text)
    if text != "all" and number is None:
        raise UsageError(f"--brackets {brief(text)} is neither all nor a number; give one of them")
    return number


def accelerated_by_rung(accelerate: str) -> tuple[float, ...] | Literal["auto"]:
    """Return the rates that stand behind "stan:" in --accelerate, () where none do; raises UsageError."""
    kind, by_rung, text = accelerate.partition(":")
    if not by_rung:
        return ()
    if kind != "stan":
        raise UsageError(f"--accelerate {brief(accelerate)} is unknown; give stan, stan:auto, stan:0.25,0.5,1 or none")
    if text == "auto":
        return "auto"
    rates = tuple(rate for rate in map(typed_number, text.split(",")) if rate is not None)
    if len(rates) <= text.count(","):
        raise UsageError(
            f"--accelerate {brief(accelerate)} names no rates; give stan:auto, or a rate for each rung from the lowest "
            "to the top, such as stan:0.25,0.5,1"
        )
    if len(rates) < 2:
        raise UsageError(
            f"--accelerate {accelerate} is one rate for all rungs; give --accelerate stan --rate {text}, or several "
            "rates, such as stan:0.25,0.5,1"
        )
    return rates
