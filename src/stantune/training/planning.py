"""Plans for a problem: its layers timed within its own training, and what STAN's "auto" comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from stantune.errors import StantuneError
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.stan.planning.plan import Plan, checked, decide, fitted
from stantune.stan.planning.timing import ModelTimes, clock_for, measure, typical
from stantune.stan.schedule import Phase
from stantune.stan.surgery import CHECKED_SECONDS, SHORT
from stantune.training.trainable import Splits, Trainable
from stantune.training.trial import Trial

# For timing the layers: noise of a few percent is left.
SECONDS = 3.0


def times_of(
    problem: Trainable,
    setting: Mapping[str, Any],
    layers: tuple[str, ...],
    splits: Splits,
    *,
    seed: int = 0,
    device: str = "cpu",
    native: bool = True,
) -> ModelTimes:
    """Time the layers of a problem's network, and whole iterations of its training, on this machine.

    Args:
        problem: what is trained.
        setting: values of its parameters, checked.
        layers: shell patterns of the names of the layers that STAN may accelerate.
        splits: the problem's data.
        seed: of the training that is timed.
        device: where to train.
        native: whether native kernels may be used.

    Raises:
        StantuneError: the setting diverges within the few iterations that this takes.
    """
    trial = Trial(problem, setting, splits, seed=derive("plan", seed), stan=None, device=device, native=native)
    step = partial(_step, problem, trial)
    return measure(trial.model, layers, trial.batches.at(0).inputs, step=step, native=native, budget=SECONDS)


def planned_stan(
    stan: Stan,
    problem: Trainable,
    setting: Mapping[str, Any],
    splits: Splits | None,
    before: Mapping[str, Any] | None,
    *,
    iterations: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Stan:
    """Return settings with a plan in place of "auto", and of "annealed" the run's length; other settings as they are.

    Timings are not reproducible, so a plan is made once: where there is an earlier one, it is taken.

    Args:
        stan: the settings.
        problem: what is trained.
        setting: values of its parameters, checked.
        splits: the problem's data; None will do where there is nothing to time: a rate in numbers, or `before`.
        before: an earlier run's `Stan.planned`, None if there is none.
        iterations: N of the run, if `stan` does not say.
        seed: of the training that is timed.
        device: where to train.

    Raises:
        StantuneError: the setting diverges within the few iterations that the timing takes.
    """
    if stan.rate == "annealed" and stan.iterations is None:
        return replace(stan, iterations=iterations)
    if stan.rate != "auto" or stan.plan is not None:
        return stan
    if before is not None:
        return stan.with_plan(before)
    assert splits is not None  # there is something to time
    times = times_of(problem, setting, stan.layers, splits, seed=seed, device=device, native=stan.native)
    length = stan.iterations or iterations
    return plan_from(times, stan, problem, setting, splits, iterations=length, seed=seed, device=device).stan


def plan_from(
    times: ModelTimes,
    stan: Stan,
    problem: Trainable,
    setting: Mapping[str, Any],
    splits: Splits,
    *,
    iterations: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Plan:
    """Return the plan that follows from times of `times_of`; whoever asks of one problem is told the same.

    One for "auto" is held against whole iterations where these are short, as `accelerate_` does it.

    Args:
        times: of the problem's layers, with the same or more than `stan` has.
        stan: the settings.
        problem: what is trained.
        setting: values of its parameters, checked.
        splits: the problem's data.
        iterations: N of the run, if `stan` does not say.
        seed: of the training that is timed.
        device: where to train.

    Raises:
        StantuneError: the setting diverges within the few iterations that this takes.
    """
    plan = decide(fitted(times), stan, iterations)
    if (
        stan.rate == "auto"
        and plan.stan.plan
        and plan.predicted_speedup is not None
        and 0 < times.exact_seconds < SHORT
    ):
        plan = checked(plan, *_cycle_seconds(problem, setting, splits, plan.stan, seed, device), iterations)
    return plan


def _cycle_seconds(
    problem: Trainable, setting: Mapping[str, Any], splits: Splits, stan: Stan, seed: int, device: str
) -> tuple[float, float]:
    """Return the seconds of a refresh and of a reduced iteration of the problem's own training under planned settings.

    As `accelerate_` has them of a model by itself.
    """
    # Of the run's length nothing is left here.
    stan = replace(stan, pretrain=0, tail=0, iterations=None)
    trial = Trial(problem, setting, splits, seed=derive("plan", seed), stan=stan, device=device)
    handle, clock = trial.handle, clock_for(torch.device(device))
    assert handle is not None  # it was given STAN
    seconds: dict[Phase, list[float]] = {Phase.REFRESH: [], Phase.REDUCED: []}
    began = clock()
    while len(seconds[Phase.REDUCED]) < 2 or clock() - began < CHECKED_SECONDS:
        phase, started = handle.phase, clock()
        _step(problem, trial)
        seconds[phase].append(clock() - started)
        if phase is Phase.REDUCED:
            # Of a long cycle one reduced iteration, then the next refresh.
            trial.iteration += (stan.period or 1) - 1
            handle.seek(trial.iteration)
    return typical(seconds[Phase.REFRESH]), typical(seconds[Phase.REDUCED])


def _step(problem: Trainable, trial: Trial) -> None:
    """Train an iteration; raises StantuneError where it diverges."""
    diverged, _ = trial.train(trial.iteration + 1, lambda: False, lambda iteration: None)
    if diverged:
        raise StantuneError(
            f"problem {problem.name!r} diverges at iteration {trial.iteration} with this setting, and what is "
            "measured then means nothing; give it a lower learning rate"
        )
