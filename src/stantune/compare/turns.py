"""Trainings in turns: from the same weights, on the same data, on one machine that slows all of them down alike."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from stantune.compare.under_way import UnderWay
from stantune.errors import NoEffectWarning
from stantune.images.problem.built_in import Problem, Splits
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.training.together.randomness import OwnRandom, seeded
from stantune.training.train import SAVE_SECONDS
from stantune.training.trial import Trial, cuda_index

# Iterations of one training before the next one's turn: a second or two of a small network on one core. Long enough
# that a turn's first iteration, which finds the other trainings' data in the caches, does not count; short enough that
# a machine that slows down for a minute slows down all of them.
TURN = 25
# Iterations of each training that are thrown away beforehand: a process's first ones set up threads and memory.
WARM_UP = 4


@dataclass(frozen=True)
class Training:
    """What one training came to.

    Attributes:
        iterations: trained; fewer than asked for where it diverged.
        seconds: of its iterations, without evaluation.
        kept: mean share of the entries that its reduced iterations computed; 1 for exact training.
        test_error: what the problem measures on its test images, an error in percent as a rule; None where it diverged.
        diverged_at: the iteration whose loss told, None where it did not diverge.
    """

    iterations: int
    seconds: float
    kept: float
    test_error: float | None
    diverged_at: int | None


def train_in_turns(
    problem: Problem,
    setting: Mapping[str, Any],
    stans: Sequence[Stan | None],
    iterations: int,
    *,
    splits: Splits,
    seed: int,
    device: str = "cpu",
    precision: str | None = None,
    stop_early: Callable[[], bool] = lambda: False,
    watch: Callable[[int], None] = lambda done: None,
    under_way: UnderWay | None = None,
) -> list[Training] | None:
    """Train with each of `stans` (None: exactly) from the same weights, in turns; None where it was interrupted.

    In each round the next one goes first. Each has random states of its own, as in `run` with the seed
    derive("train", seed), and ends in the same bits as there. `watch` is told the iterations done by all of them.
    `under_way` keeps each training when it is finished, all where they are interrupted, and else from time to time; it
    is gone on from there.
    """
    own_seed = derive("train", seed)
    own = [OwnRandom("random", own_seed) for _ in stans]
    trials: list[Trial] = []
    diverged_at: dict[int, int] = {}
    for place, stan in enumerate(stans):
        with own[place].here():
            trial = Trial(problem, setting, splits, seed=own_seed, stan=stan, device=device, precision=precision)
            if under_way is not None and (at := under_way.restore(place, trial)) is not None:
                diverged_at[place] = at
        trials.append(trial)

    def keep(places: Iterable[int]) -> None:
        if under_way is not None:
            for place in places:
                with own[place].here():
                    under_way.keep(place, trials[place], diverged_at.get(place))

    done, saved = sum(trial.iteration for trial in trials), time.monotonic()
    for turn, start in enumerate(range(0, iterations, TURN)):
        stop = min(start + TURN, iterations)
        for place in range(len(trials)):
            which = (place + turn + seed) % len(trials)
            trial = trials[which]
            before = trial.iteration
            if which in diverged_at or before >= stop:
                continue
            with own[which].here():
                diverged, interrupted = trial.train(stop, stop_early, lambda iteration: None)
            if interrupted:
                keep(range(len(trials)))
                return None
            if diverged:
                diverged_at[which] = trial.iteration
            if diverged or stop == iterations:
                keep([which])
            for _ in range(trial.iteration - before):
                done += 1
                watch(done)
        if time.monotonic() - saved >= SAVE_SECONDS:
            keep(range(len(trials)))
            saved = time.monotonic()
    return [
        Training(
            iterations=trial.iteration,
            seconds=trial.cost.exact_seconds + trial.cost.reduced_seconds,
            kept=1.0 if trial.handle is None else trial.handle.kept,
            test_error=None if which in diverged_at else test_error(problem, trial.model, splits, own_seed, device),
            diverged_at=diverged_at.get(which),
        )
        for which, trial in enumerate(trials)
    ]


def test_error(problem: Problem, model: nn.Module, splits: Splits, seed: int, device: str) -> float:
    """Return what the problem measures on its test images; `seed` is the training's, as in `run`."""
    with seeded(derive("evaluate", seed), cuda_index(device)):
        return problem.evaluate(model, splits, "test", device)[problem.metric_on("test").name]


def warm_up(
    problem: Problem,
    setting: Mapping[str, Any],
    stans: Sequence[Stan | None],
    splits: Splits,
    device: str = "cpu",
    precision: str | None = None,
) -> list[str]:
    """Train a few iterations with each of `stans` (None: exactly) and throw them away; return what STAN says of each.

    That is why it changes nothing, or what memory it holds; "" where there is nothing to say. The process's random
    states are afterwards what they were.
    """
    said = []
    for stan in stans:
        now = None if stan is None else replace(stan, pretrain=0, tail=0)
        with seeded(derive("warm-up"), cuda_index(device)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", NoEffectWarning)
                trial = Trial(
                    problem, setting, splits, seed=derive("warm-up"), stan=now, device=device, precision=precision
                )
            trial.train(WARM_UP, lambda: False, lambda iteration: None)
        words = [str(warning.message) for warning in caught if issubclass(warning.category, NoEffectWarning)]
        if trial.handle is not None and trial.handle.memory_bytes:
            words.append(f"it holds {trial.handle.memory_bytes / 1e6:.1f} MB of memory")
        said.append("; ".join(words))
    return said
