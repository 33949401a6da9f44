"""Plans for a problem: its layers timed within its own training, and what STAN's "auto" comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stantune.errors import StantuneError
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.stan.planning.plan import decide
from stantune.stan.planning.timing import ModelTimes, measure
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
) -> ModelTimes:
    """Time the layers of a problem's network, and whole iterations of its training, on this machine.

    Args:
        problem: what is trained.
        setting: values of its parameters, checked.
        layers: shell patterns of the names of the layers that STAN may accelerate.
        splits: the problem's data.
        seed: of the training that is timed.
        device: where to train.

    Raises:
        StantuneError: the setting diverges within the few iterations that this takes.
    """
    trial = Trial(problem, setting, splits, seed=derive("plan", seed), stan=None, device=device)

    def step() -> None:
        diverged, _ = trial.train(trial.iteration + 1, lambda: False, lambda iteration: None)
        if diverged:
            raise StantuneError(
                f"problem {problem.name!r} diverges at iteration {trial.iteration} with this setting, and what is "
                "measured then means nothing; give it a lower learning rate"
            )

    return measure(trial.model, layers, trial.batches.at(0).inputs, step=step, budget=SECONDS)


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
    times = times_of(problem, setting, stan.layers, splits, seed=seed, device=device)
    return decide(times, stan, stan.iterations or iterations).stan
