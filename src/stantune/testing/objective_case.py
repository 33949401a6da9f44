"""An objective that is checked, what it is trained with, and how the ends of its trainings are compared."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stantune.errors import DamagedCheckpointError
from stantune.outcome import Outcome
from stantune.protocols import Conditions, Objective, Place, Prepared, Segment, Trainer
from stantune.search.propose.sampling import sample


@dataclass(frozen=True)
class Case:
    """An objective that is checked, and with what.

    Attributes:
        objective: prepared.
        given: before that.
        setting: of the trainings.
        stop: their length.
        seed: theirs.
        threads: of each.
        device: where.
    """

    objective: Objective
    given: Objective
    setting: Mapping[str, Any]
    stop: int
    seed: int
    threads: int
    device: str

    def trainer(self) -> Trainer:
        """Return a new trainer, as a new process has."""
        return self.objective.trainer(Place(0, self.threads, self.device))

    def segment(self, where: Path, start: int, stop: int, seed: int | None = None, trial: int = 0) -> Segment:
        """Return a segment whose checkpoint lies in the folder."""
        checkpoint = where / "checkpoints" / f"trial-{trial:06d}.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        seed = self.seed if seed is None else seed
        # As a search has it, all segments of a trial know how long the longest training is.
        return Segment(trial, dict(self.setting), start, stop, seed, checkpoint, bracket=0, length=self.stop)

    def trained(
        self, trainer: Trainer, segment: Segment, stop_early: Callable[[list[int]], bool] = lambda told: False
    ) -> tuple[Outcome, list[int]]:
        """Return a segment's outcome, and what was told of it on the way; other random states before each time.

        `stop_early` is given what was told so far.
        """
        told: list[int] = []
        there = segment.checkpoint.exists()
        shake()
        try:
            outcome = trainer.train(segment, lambda: stop_early(told), told.append)
        except DamagedCheckpointError:
            raise
        except Exception as error:
            raise AssertionError(
                f"{self.name} raises {type(error).__name__} ({error}) in a segment from {segment.start} to "
                f"{segment.stop}{'' if there else ' that has no checkpoint'}"
            ) from error
        assert isinstance(outcome, Outcome), f"{self.name} ends a segment in a {type(outcome).__name__}, not an Outcome"
        return outcome, told

    def whole(self, where: Path, seed: int | None = None, trial: int = 0) -> Outcome:
        """Return what a training in one go comes to."""
        outcome, _ = self.trained(self.trainer(), self.segment(where, 0, self.stop, seed, trial))
        self.finished(outcome, "a training in one go")
        return outcome

    def finished(self, outcome: Outcome, what: str) -> None:
        """Check that an outcome is that of a whole training, with its metric."""
        metric = self.objective.metric.name
        assert not outcome.interrupted, f"{what} of {self.name} is said to be interrupted, and nobody asked for that"
        if outcome.diverged_at is not None:
            assert not outcome.metrics, f"{what} of {self.name} diverged and has metrics; one that diverged has none"
            return
        assert outcome.iterations == self.stop, (
            f"{what} of {self.name} ends at {outcome.iterations} {self.objective.unit}s, and was to end at {self.stop}"
        )
        assert metric in outcome.metrics, (
            f"{what} of {self.name} has the metrics {list(outcome.metrics)}, and not {metric!r}, which is compared"
        )
        for name, value in outcome.metrics.items():
            assert (type(name), type(value)) in ((str, float), (str, int)), (
                f"{what} of {self.name} has the metric {name!r} of {value!r}, a {type(value).__name__}; give Python's "
                "own numbers, as `.item()` does"
            )
            assert math.isfinite(value), (
                f"{what} of {self.name} has the metric {name!r} of {value}; leave it out, or, where it is what is "
                "compared, say that the training diverged"
            )

    def same(self, found: Outcome, expected: Outcome, what: str) -> None:
        """Check that two outcomes are equal in all but their cost."""
        assert what_counts(found) == what_counts(expected), (
            f"{what} of {self.name} comes to {what_counts(found)}, and a training in one go to {what_counts(expected)}"
        )

    @property
    def name(self) -> str:
        """Of the objective."""
        return self.given.name


def case_of(
    objective: Objective,
    setting: Mapping[str, Any] | None = None,
    *,
    stop: int = 4,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
) -> Case:
    """Return what the single checks take; see check_objective for the arguments.

    Raises:
        AssertionError: it is no objective, `stop` cannot be cut in two, or what it prepares is not what is asked for.
    """
    assert isinstance(objective, Objective), (
        f"{type(objective).__name__} lacks {', '.join(_missing(objective))}, which an objective has"
    )
    assert stop >= 2, f"stop={stop} cannot be cut in two; give 2 or more"
    if setting is None:
        setting = sample(objective.space, seed, 0)
    prepared = objective.prepared(Conditions(stop, seed, threads, device))
    assert isinstance(prepared, Prepared), f"prepared() of {objective.name} returns {prepared!r}, and no Prepared"
    several = type(prepared.threads) is int and prepared.threads >= 1
    assert several, f"prepared() of {objective.name} says {prepared.threads!r} threads; a number of 1 or more is needed"
    return Case(prepared.objective, objective, setting, stop, seed, prepared.threads, device)


def what_counts(outcome: Outcome) -> dict[str, Any]:
    """Return what must be equal of two outcomes."""
    where = outcome.iterations if outcome.diverged_at is None else outcome.diverged_at
    return {
        "at": where,
        "metrics": dict(outcome.metrics),
        "diverged": outcome.diverged_at is not None,
        "losses": outcome.losses.points,
    }


def shake() -> None:
    """Have the process's random states be others: no result may depend on what was there before."""
    random.seed()
    for name in ("numpy.random", "torch"):
        if name in sys.modules:
            sys.modules[name].seed()


def _missing(thing: object) -> list[str]:
    asked = ("name", "space", "metric", "unit", "length", "rate", "identity", "prepared", "trainer")
    return [name for name in asked if not hasattr(thing, name)]
