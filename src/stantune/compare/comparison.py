"""A comparison of exact training with STAN's: what is trained, what is kept of it, and the numbers that it comes to."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter

from stantune.compare.plans import Kept, Planned, plan, plan_words
from stantune.compare.records import Records, identity_of, timed_on
from stantune.compare.turns import Training, train_in_turns, warm_up
from stantune.compare.under_way import UnderWay
from stantune.errors import NoEffectWarning, UsageError
from stantune.images.numbers_held_out import noted_of
from stantune.images.objective import made_of
from stantune.images.problem.built_in import Problem, Splits
from stantune.images.solving.schedules import policy_of
from stantune.protocols import Metric
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.training.precision import check_plan, computing_in, precision_on
from stantune.training.together.randomness import seeded
from stantune.training.train import run
from stantune.training.trial import cuda_index
from stantune.user_code.noted import as_noted

# The name of the arm that is none of STAN's.
EXACT = "exact"

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class EqualTime:
    """Exact trainings as long as STAN's took.

    Attributes:
        iterations: N / speed-up, rounded; the learning rate's course is scaled to that length.
        trainings: one per seed.
    """

    iterations: int
    trainings: tuple[Training, ...]


@dataclass(frozen=True)
class Arm:
    """One way of training under STAN.

    Attributes:
        name: unique in its comparison.
        asked: STAN's settings as they were given.
        stan: what was trained with: a plan in place of "auto".
        predicted_speedup: of the whole training; None where nothing predicts it.
        trainings: one per seed.
        equal_time: None unless it was asked for, and where the speed-up is unknown because every seed diverged.
    """

    name: str
    asked: Stan
    stan: Stan
    predicted_speedup: float | None
    trainings: tuple[Training, ...]
    equal_time: EqualTime | None


@dataclass(frozen=True)
class Comparison:
    """Trainings of one problem, exact and under STAN.

    Attributes:
        iterations: N, of each training.
        exact: one per seed.
        arms: STAN's, in the order in which they were given.
        metric: what is measured on the test images.
    """

    iterations: int
    exact: tuple[Training, ...]
    arms: tuple[Arm, ...]
    metric: Metric


class Spread(NamedTuple):
    """Mean and sample standard deviation; None where there are too few values (none, or only one)."""

    mean: float | None
    deviation: float | None


@contextmanager
def _unseen(title: str, iterations: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


class _InterruptedError(Exception):
    """Somebody asked for the end."""


_TRAINING = TypeAdapter(Training)
_TRAININGS = TypeAdapter(dict[str, Training])
_PLANS = TypeAdapter(dict[str, Kept])
_PLANS_RECORD = "plans"


@dataclass(frozen=True)
class Comparer:
    """What is compared, where and how; `compare` does it.

    The trainings of one seed start from the same weights, see the same data in the same order and take turns of a few
    iterations, so that whatever else the machine does slows all of them down alike. Each ends in the same bits as
    alone: as `run` with the seed derive("train", seed).

    Attributes:
        problem: what to train.
        setting: values of the problem's parameters; what is left out keeps the network's and the solver's own value.
        stans: STAN's settings by a name, which is part of a file's name.
        iterations: N, of each training, at least 1.
        splits: the problem's data, from `problem.load()`; test images among them.
        device: where to train.
        directory: where what is finished is kept, so that the same call goes on from it: the trainings of a seed,
            which belong together, in one record, and until they are finished in a file each; each training of equal
            time in one. None keeps nothing.
        stop_early: asked after each iteration; when true, `compare` returns None.
        progress: called with a title and a number of iterations before each piece of work; the context that it
            returns is told the iterations done.
        say: called with a line on what was planned, on memory that is held, on STAN that changes nothing, or on records
            of another machine.
        precision: in what numbers all train: see training.precision; None for what PyTorch is set to.

    Raises:
        UsageError: a setting outside the problem's space, no test images, or numbers that cannot be had.
    """

    problem: Problem
    setting: Mapping[str, Any]
    stans: Mapping[str, Stan]
    iterations: int
    splits: Splits
    device: str = "cpu"
    directory: Path | None = None
    stop_early: Callable[[], bool] = lambda: False
    progress: Progress = _unseen
    say: Callable[[str], None] = lambda line: None
    precision: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_on(self.precision, self.device))
        for stan in self.stans.values():
            check_plan(self.precision, stan)
        object.__setattr__(self, "setting", self.problem.space.check(self.setting))
        object.__setattr__(self, "problem", self.problem.lasting(self.iterations))
        if not len(self.splits.test):
            raise UsageError(
                f"problem {self.problem.name!r} has no test images to compare errors on; give its data set some"
            )

    def compare(self, seeds: int, equal_time: bool = False) -> Comparison | None:
        """Train exactly and with each of `stans`, for each seed 0 … `seeds` - 1; return None where interrupted.

        With `equal_time` also exactly, for as many iterations as fit into the time of each of `stans`.

        Raises:
            UsageError: the learning-rate policy cannot be scaled, or the directory holds another comparison.
            StantuneError: the directory cannot be used, or a record is damaged.
        """
        if equal_time:
            scaled(self.problem, Fraction(1))
        before = identity_of(self.directory, _PLANS_RECORD)
        records = Records(self.directory, as_noted(self._identity(), before), timed_on(self.device), self.say)
        try:
            with records.locked(), computing_in(self.precision, self.device), warnings.catch_warnings():
                # `say` says it once.
                warnings.simplefilter("ignore", NoEffectWarning)
                return self._compare(records, seeds, equal_time)
        except _InterruptedError:
            return None

    def _compare(self, records: Records, seeds: int, equal_time: bool) -> Comparison:
        planned = self._planned(records)
        stans = {EXACT: None} | {name: planned[name].stan for name in self.stans}
        table = [records.load(f"seed-{seed}", _TRAININGS) for seed in range(seeds)]
        for seed, kept in enumerate(table):
            if kept is not None and (under_way := self._under_way(records, seed, stans)) is not None:
                # A kill came in between.
                under_way.discard()
        if None in table:
            said = warm_up(self.problem, self.setting, list(stans.values()), self.splits, self.device, self.precision)
            for name, words in zip(stans, said, strict=True):
                if words:
                    self.say(f"{name}: {words}")
        trained = [kept or self._train_seed(records, seed, stans) for seed, kept in enumerate(table)]
        columns = {name: tuple(trainings[name] for trainings in trained) for name in stans}
        exact = columns.pop(EXACT)
        arms = [
            Arm(name, self.stans[name], planned[name].stan, planned[name].speedup, trainings, None)
            for name, trainings in columns.items()
        ]
        if equal_time:
            arms = [replace(arm, equal_time=self._equal_time(records, exact, arm)) for arm in arms]
        return Comparison(self.iterations, exact, tuple(arms), self.problem.metric_on("test"))

    def _identity(self) -> dict[str, Any]:
        """Return what the records depend on; threads and device too, since times do."""
        return {
            "problem": self.problem.name,
            "setting": dict(self.setting),
            "iterations": self.iterations,
            "batch_size": self.problem.batch_size,
            "images": len(self.splits.train),
            "test_images": len(self.splits.test),
            **self.problem.identity,
            **made_of(self.problem),
            **noted_of(self.splits),
            "device": self.device,
            "threads": torch.get_num_threads(),
            **({} if self.precision is None else {"precision": self.precision}),
            "stan": {name: stan.identity for name, stan in self.stans.items()},
        }

    def _planned(self, records: Records) -> dict[str, Planned]:
        """Return the plans; those that were made before, since another timing would make others."""
        kept = records.load(_PLANS_RECORD, _PLANS)
        if kept is None or not all(kept[name].settles(asked) for name, asked in self.stans.items()):
            # What is timed draws as often as the clock lets it, and nothing of that is the caller's.
            with seeded(derive("timed"), cuda_index(self.device)):
                planned = plan(
                    self.problem,
                    self.setting,
                    self.stans,
                    self.iterations,
                    self.splits,
                    self.device,
                    # What is predicted is float32's.
                    predict=self.precision in (None, "fp32"),
                )
            records.save(_PLANS_RECORD, {name: Kept.of(one) for name, one in planned.items()}, _PLANS)
        else:
            planned = {name: kept[name].planned(asked) for name, asked in self.stans.items()}
        for name, asked in self.stans.items():
            if asked.rate == "auto":
                self.say(f"{name}: {plan_words(planned[name].stan)}")
        return planned

    def _under_way(self, records: Records, seed: int, stans: Mapping[str, Stan | None]) -> UnderWay | None:
        if self.directory is None:
            return None
        what = {name: {**records.identity, "training": name, "plan": _settled(stan)} for name, stan in stans.items()}
        return UnderWay.of(self.directory, seed, what)

    def _train_seed(self, records: Records, seed: int, stans: Mapping[str, Stan | None]) -> dict[str, Training]:
        under_way = self._under_way(records, seed, stans)
        with self.progress(f"seed {seed}: {', '.join(stans)}", self.iterations * len(stans)) as watch:
            trainings = train_in_turns(
                self.problem,
                self.setting,
                list(stans.values()),
                self.iterations,
                splits=self.splits,
                seed=seed,
                device=self.device,
                precision=self.precision,
                stop_early=self.stop_early,
                watch=watch,
                under_way=under_way,
            )
        if trainings is None:
            raise _InterruptedError
        trained = dict(zip(stans, trainings, strict=True))
        records.save(f"seed-{seed}", trained, _TRAININGS)
        if under_way is not None:
            under_way.discard()
        return trained

    def _equal_time(self, records: Records, exact: Sequence[Training], arm: Arm) -> EqualTime | None:
        times_faster = speedup(exact, arm.trainings)
        if times_faster is None:
            return None
        length = max(1, round(self.iterations / times_faster))
        problem = scaled(self.problem, Fraction(length, self.iterations))
        trainings = []
        for seed in range(len(exact)):
            # Not by the arm: with more seeds its speed-up, and with it the length, becomes another.
            name = f"exact-{length}-of-{self.iterations}-seed-{seed}"
            training = records.load(name, _TRAINING)
            if training is None:
                with self.progress(f"seed {seed}: exact, as long as {arm.name}", length) as watch:
                    training = self._train_alone(problem, length, seed, watch)
                records.save(name, training, _TRAINING)
            trainings.append(training)
        return EqualTime(length, tuple(trainings))

    def _train_alone(self, problem: Problem, length: int, seed: int, watch: Callable[[int], None]) -> Training:
        outcome = run(
            problem,
            self.setting,
            None,
            0,
            length,
            splits=self.splits,
            seed=derive("train", seed),
            evaluate=("test",),
            device=self.device,
            stop_early=self.stop_early,
            watch=watch,
            precision=self.precision,
        )
        if outcome.interrupted:
            raise _InterruptedError
        error = outcome.metrics.get(self.problem.metric_on("test").name)
        return Training(outcome.iterations, outcome.cost.exact_seconds, 1.0, error, outcome.diverged_at)


def _settled(stan: Stan | None) -> dict[str, Any] | None:
    """Return what was decided of STAN's settings before anything was trained; another plan trains otherwise."""
    return None if stan is None else {"plan": stan.planned, "budget": None if stan.memo is None else stan.memo.budget}


def threads_of_records(directory: Path | None) -> int | None:
    """Return the number of threads of the comparison that the directory holds, None where it holds none."""
    identity = identity_of(directory, _PLANS_RECORD)
    return None if identity is None else identity.get("threads")


def scaled(problem: Problem, factor: Fraction) -> Problem:
    """Return the problem with its learning rate's course in a training `factor` times as long.

    Raises UsageError where the policy, which may be the user's own, cannot be scaled.
    """
    policy = policy_of(problem.solver.policy)
    if not hasattr(policy, "scaled"):
        raise UsageError(
            f"problem {problem.name!r}: its learning-rate policy {type(policy).__name__} has no method scaled(factor); "
            "give it one, or leave out --equal-time"
        )
    solver = replace(problem.solver, policy=policy.scaled(factor))
    return replace(problem, solver=solver).lasting(max(1, round((problem.course or problem.iterations) * factor)))


def seconds_per_iteration(trainings: Sequence[Training]) -> float | None:
    """Return the mean over all iterations of `trainings`; None where there were none."""
    iterations = sum(training.iterations for training in trainings)
    return sum(training.seconds for training in trainings) / iterations if iterations else None


def speedup(exact: Sequence[Training], other: Sequence[Training]) -> float | None:
    """Return how many times faster the whole trainings of `other` were; of the seeds that neither lost."""
    whole = _both_whole(exact, other)
    seconds = sum(mine.seconds for _, mine in whole)
    return sum(theirs.seconds for theirs, _ in whole) / seconds if seconds > 0 else None


def speedup_deviation(exact: Sequence[Training], other: Sequence[Training]) -> float | None:
    """Return the sample standard deviation of the seeds' own speed-ups, None for fewer than two."""
    return spread([theirs.seconds / mine.seconds for theirs, mine in _both_whole(exact, other)]).deviation


def error_difference(exact: Sequence[Training], other: Sequence[Training], metric: Metric) -> Spread:
    """Return by how much `other` is worse than exact training, paired by seed; below 0 it is better."""
    return spread(
        [
            metric.loss(mine.test_error) - metric.loss(theirs.test_error)
            for theirs, mine in zip(exact, other, strict=True)
            if theirs.test_error is not None and mine.test_error is not None
        ]
    )


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation."""
    if not values:
        return Spread(None, None)
    mean, most = statistics.fmean(values), max(map(abs, values))
    # What rounding leaves of numbers that cancel is no difference.
    mean = 0.0 if abs(mean) < 1e-12 * most else mean
    return Spread(mean, statistics.stdev(values) if len(values) > 1 else None)


def _both_whole(exact: Sequence[Training], other: Sequence[Training]) -> list[tuple[Training, Training]]:
    return [
        (theirs, mine)
        for theirs, mine in zip(exact, other, strict=True)
        if theirs.diverged_at is None and mine.diverged_at is None
    ]
