"""How long a search of a problem will take, from a few timed iterations of settings that it may try."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from stantune.errors import NoEffectWarning, StantuneError, words_of
from stantune.images.objective import ProblemObjective
from stantune.images.resizing import Resize, resized
from stantune.outcome import Cost, total
from stantune.search.estimate import seconds_of
from stantune.search.plan.finals import CONTINUE
from stantune.search.plan.hyperband import stops_of
from stantune.search.propose.given import fixed_values, with_fixed
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan
from stantune.stan.schedule import Schedule
from stantune.texts import one_line
from stantune.training.train import run
from stantune.training.trainable import Trainable

# Where settings differ in what they cost, so many are timed, the first that a random search tries.
DRAWN = 8
# Iterations that are timed: of one setting alone, and of each of several; and those that warm it up.
TIMED = 16
TIMED_OF_EACH = 4
WARM_UP = 2
# What an iteration's time depends on, besides what the network takes.
_COSTLY = ("batch_size", "optimizer")


def estimate_seconds(
    objective: ProblemObjective,
    settings: SearchSettings,
    workers: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> float | None:
    """Return the seconds of a whole search if no trial diverges, final trainings and all evaluations included.

    Exact and, under STAN, reduced iterations are timed here and now, in this process alone: that several workers do not
    slow one another down is supposed. Where parameters change what an iteration costs (a width, the batch size), they
    are those of a few settings drawn from the space; everything else is the problem's own. Settings that cannot be
    trained are left out, as a search goes on without them; None where all of these few are such, and `say` is told why.

    Raises:
        StantuneError: the problem cannot be trained here, or its own numbers do not fit into the device's memory.
    """
    resize = objective.resize
    several = _trainable(objective, settings, say)
    if not several:
        return None
    try:
        whole = _pace(objective, settings, several)
        small = whole if resize is None else _pace(objective, settings, several, resize)
    except torch.OutOfMemoryError as error:
        # Of an evaluation, whose batches are larger, or of STAN.
        say(f"note: no estimate, since the memory of {settings.device} does not do ({one_line(words_of(error))})")
        return None
    until = 0 if resize is None else resize.iterations(settings.max_resource)

    def training(start: int, stop: int) -> float:
        change = min(max(start, until), stop)
        return small.training(start, change) + whole.training(change, stop)

    plan = settings.plan()
    # Evaluated on the test images as well as where each rung ends, and at its own end.
    evaluations = len({*stops_of(plan), settings.final_length}) + 1
    final = whole.exact * settings.final_length + evaluations * whole.evaluation
    if settings.final == CONTINUE:
        final = 2 * whole.evaluation
    rounds = math.ceil(settings.finals / workers)

    def evaluation(stop: int) -> float:
        _, share = objective.compared_by(settings.validation_share(stop))
        return (small if stop <= until else whole).evaluation * share

    return seconds_of(plan, training, evaluation, workers) + rounds * final


class _Pace(NamedTuple):
    """The seconds of an exact iteration and of an evaluation of all that is held out, and what reduced ones save."""

    exact: float
    evaluation: float
    savings: list[_Saving]

    def training(self, start: int, stop: int) -> float:
        """Return the seconds of a training from `start` to `stop`."""
        return self.exact * (stop - start) - sum(saving.of(start, stop) for saving in self.savings)


class _Saving(NamedTuple):
    """What a trial saves between two iterations: so many seconds in each reduced one."""

    start: int
    stop: int
    schedule: Schedule
    seconds: float

    def of(self, start: int, stop: int) -> float:
        """Return the seconds saved of a training from `start` to `stop`."""
        return self.seconds * self.schedule.counts(max(start, self.start), min(stop, self.stop)).reduced


def _pace(
    objective: ProblemObjective,
    settings: SearchSettings,
    several: Sequence[Mapping[str, Any]],
    resize: Resize | None = None,
) -> _Pace:
    """Time what a trial does, on whole images or on small ones."""
    # Under STAN exact iterations are computed as those of the final training are.
    stan = None if objective.stan is None else Stan(rate=1, native=objective.stan.native)
    cost = _time(objective, settings, several, stan, resize, evaluate=True)
    # Fewer than TIMED where a setting diverges.
    exact = cost.exact_seconds / max(cost.exact, 1)
    return _Pace(exact, cost.evaluation_seconds, _savings(objective, settings, several, resize, exact))


def _savings(
    objective: ProblemObjective,
    settings: SearchSettings,
    several: Sequence[Mapping[str, Any]],
    resize: Resize | None,
    exact: float,
) -> list[_Saving]:
    """Time a reduced iteration of each rate, against the seconds of an exact one."""
    stan = objective.stan
    if stan is None:
        return []
    rates = settings.rates_from() or stan.rates
    starts = [start for start, _ in rates] or [0]
    stans = [replace(stan, rate=rate) for _, rate in rates] or [stan]
    savings = []
    for start, stop, settled in zip(starts, [*starts[1:], settings.max_resource], stans, strict=True):
        part = _time(objective, settings, several, replace(settled, pretrain=0, tail=0), resize, evaluate=False)
        if part.reduced:
            saved = exact - part.reduced_seconds / part.reduced
            savings.append(_Saving(start, stop, stan.schedule, saved))
    return savings


def drawn(objective: ProblemObjective, settings: SearchSettings) -> list[dict[str, Any]]:
    """Return the settings to time: of a few that are drawn what makes them cost more or less, or the problem's own.

    What costs nothing, such as a learning rate, is left out: with it most would diverge, and be timed no further.
    """
    space = objective.space
    costly = {*inspect.signature(objective.problem.network).parameters, *_COSTLY} & set(space)
    while parents := {parent for name in costly for parent in space.when.get(name, {})} - costly:
        costly |= parents
    fixed = fixed_values(space, settings.fixed)
    left = space.without(fixed)
    # Without their values, the problem's own are a draw like any other.
    count = DRAWN if costly & set(left) else 1
    whole = [with_fixed(space, fixed, sample(left, settings.seed, number)) for number in range(count)]
    return [{name: value for name, value in setting.items() if name in costly} for setting in whole]


def _trainable(
    objective: ProblemObjective, settings: SearchSettings, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return those of the settings to time that can be trained: in a search the others are trials that fail."""
    found, cause = [], ""
    several = drawn(objective, settings)
    for setting in several:
        try:
            _cost(objective, settings, setting, None, None, WARM_UP, ())
        except StantuneError:
            raise
        except Exception as error:
            # A width that heads do not divide, or that is too large for a GPU: whatever there is against it.
            cause = words_of(error)
            if isinstance(error, torch.OutOfMemoryError) and len(several) == 1:
                # It is no matter of the setting: all trials are like that.
                raise StantuneError(
                    f"{objective.name} does not fit into the memory of {settings.device} ({one_line(cause)}); free "
                    "some there, or give another `device`"
                ) from error
            continue
        found.append(setting)
    if not found:
        say(f"note: none of the settings that were tried for an estimate trains, the last one by {one_line(cause)}")
    return found


def _time(
    objective: ProblemObjective,
    settings: SearchSettings,
    several: Sequence[Mapping[str, Any]],
    stan: Stan | None,
    resize: Resize | None,
    evaluate: bool,
) -> Cost:
    """Return what iterations of several settings cost, after a few that warm up; and an evaluation, if asked for."""
    costs = []
    for setting in several:
        _cost(objective, settings, setting, stan, resize, WARM_UP, ())
        timed = TIMED if len(several) == 1 else TIMED_OF_EACH
        evaluated = ("validation",) if evaluate else ()
        costs.append(_cost(objective, settings, setting, stan, resize, timed, evaluated))
    # What diverged all the same was not evaluated.
    evaluations = [one.evaluation_seconds for one in costs if one.evaluation_seconds]
    return replace(total(costs), evaluation_seconds=sum(evaluations) / max(len(evaluations), 1))


def _cost(
    objective: ProblemObjective,
    settings: SearchSettings,
    setting: Mapping[str, Any],
    stan: Stan | None,
    resize: Resize | None,
    iterations: int,
    evaluated: tuple[str, ...],
) -> Cost:
    """Return what a training of a setting that is so long costs."""
    problem: Trainable = objective.problem
    if resize is not None:
        # Of a training that is so long that all these iterations see small images.
        problem = resized(objective.problem, resize, math.ceil(iterations / resize.until), 0, iterations)
    with warnings.catch_warnings():
        # Said once, where the objective was prepared.
        warnings.simplefilter("ignore", NoEffectWarning)
        return run(
            problem,
            setting,
            None,
            0,
            iterations,
            splits=objective.splits,
            seed=settings.seed,
            stan=stan,
            evaluate=evaluated,
            device=settings.device,
            precision=objective.precision,
        ).cost
