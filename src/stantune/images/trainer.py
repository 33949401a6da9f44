"""Trains the segments of a problem's search: each as its trial's seed, its rung and the objective say."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from stantune.images.no_effect import said_already
from stantune.images.resizing import resized
from stantune.outcome import Outcome
from stantune.protocols import Segment, StopEarly
from stantune.stan.config import Stan
from stantune.training.best import Best
from stantune.training.together.turns import PACE, begun_within, drained
from stantune.training.train import turns
from stantune.training.trainable import Trainable

if TYPE_CHECKING:
    from stantune.images.objective import ProblemObjective


class ProblemTrainer:
    """Trains a problem's settings; see protocols.Trainer."""

    def __init__(self, objective: ProblemObjective, device: str) -> None:
        """Train on `device`."""
        self._objective = objective
        self._device = device

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See protocols.Trainer. A final training is exact, from scratch, to the maximum, or has been trained."""
        return drained(self._turns(segment, stop_early, watch, None))

    def turns(
        self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]
    ) -> Generator[None, None, Outcome]:
        """See protocols.TakesTurns."""
        return self._turns(segment, stop_early, watch, PACE)

    def _turns(
        self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None], pace: int | None
    ) -> Generator[None, None, Outcome]:
        stan = self._objective.stan
        if stan is not None:
            if segment.final and not segment.continued:
                # Every entry computed, by native kernels where the trials' are.
                stan = Stan(rate=1, native=stan.native)
            else:
                stan = replace(stan, seed=segment.seed, rate=segment.rates or stan.rate)
        problem: Trainable = self._objective.problem
        resize, length = self._objective.resize, segment.length
        if segment.final and not segment.continued:
            if length is not None:
                # Which may be longer than what the trials' schedules are for.
                problem = self._objective.problem.lasting(length)
        elif resize is not None:
            whole = length or self._objective.length
            problem = resized(self._objective.problem, resize, whole, segment.start, segment.stop)
        splits, share = self._objective.compared_by(segment.validation_share)
        best = None if segment.best is None else Best(segment.best, segment.points, self._objective.metric)
        course = turns(
            problem,
            segment.params,
            segment.checkpoint,
            segment.start,
            segment.stop,
            pace=pace,
            splits=splits,
            seed=segment.seed,
            stan=stan,
            evaluate=("validation", "test") if segment.final and len(splits.test) else ("validation",),
            best=best,
            device=self._device,
            stop_early=stop_early,
            watch=watch,
            precision=self._objective.precision,
            compile=self._objective.compile,
            to_use=segment.final,
        )
        # Not around all turns: Python would forget between them which warnings it has shown.
        outcome = yield from begun_within(course, said_already)
        return replace(outcome, validation_share=share)
