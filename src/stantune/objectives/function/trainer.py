"""FunctionTrainer: calls a function for a segment, and makes an outcome of how it ended."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from stantune.errors import StanWarning
from stantune.objectives.function.course import Course, Diverged, Ended, Interrupted
from stantune.objectives.function.keeping import Keeper
from stantune.objectives.function.run import Run
from stantune.objectives.returned import metrics_of
from stantune.objectives.surroundings import as_it_was, seed_all
from stantune.outcome import Outcome
from stantune.protocols import Metric, Place, Segment, StopEarly
from stantune.stan.config import Stan


class FunctionTrainer:
    """Trains by calling a function; see protocols.Trainer."""

    def __init__(
        self,
        function: Callable[[Run], object],
        name: str,
        metric: Metric,
        identity: Mapping[str, Any],
        stan: Stan | None,
        place: Place,
    ) -> None:
        """Train in this process, at this place.

        Args:
            function: the user's.
            name: for messages.
            metric: what is compared.
            identity: all that its results depend on besides a segment.
            stan: what Run.accelerate does.
            place: where.
        """
        self._function, self._name, self._metric, self._stan = function, name, metric, stan
        self._identity = dict(identity)
        self._threads = place.threads or torch.get_num_threads()
        gpus = torch.cuda.device_count()
        self._device = f"cuda:{place.number % gpus}" if place.device == "cuda" and gpus else place.device
        self._said: set[str] = set()

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See protocols.Trainer."""
        stan = self._stan
        if stan is not None:
            # Every entry computed, by native kernels where the trials' are.
            exact = segment.final and not segment.continued
            stan = Stan(rate=1, seed=segment.seed, native=stan.native) if exact else replace(stan, seed=segment.seed)
        with as_it_was(self._device):
            torch.set_num_threads(self._threads)
            seed_all(segment.seed, self._device)
            keeper = Keeper(segment, self._identity_of(segment), self._metric, stan, self._device, self._say_once)
            try:
                return self._called(segment, keeper, stop_early, watch)
            finally:
                keeper.close()

    def _called(self, segment: Segment, keeper: Keeper, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        course = Course(segment, keeper, self._metric, self._name, stop_early, watch)
        returned = None
        try:
            returned = self._function(Run(segment, course, self._device, self._threads))
        except Ended:
            pass
        except (Exception, SystemExit):
            # How it ended is known, whatever has become of the exception that said so on its way out.
            if course.broken is None and course.ended is None:
                raise
        if course.broken is not None:
            raise course.broken
        course.close()
        if course.begun and not keeper.keeps and segment.start:
            self._say_once(
                f"{self._name} keeps nothing, so that each segment is trained from the beginning; call "
                "run.keep(model=model, optimizer=optimizer) before run.steps()"
            )
        if self._stan is not None and not keeper.accelerates and not segment.final:
            self._say_once(
                f"{self._name} did not call run.accelerate, so that `stan` changed nothing; call "
                "run.accelerate(model) before run.steps(), or leave `stan` away"
            )
        if course.done > course.start and not segment.final and keeper.stands:
            self._say_once(
                f"STAN stood still in {self._name}, as in its first iteration: it moves with the steps of a kept "
                "optimizer; call run.keep(optimizer=optimizer), or step() of what run.accelerate returns after each"
            )
        losses = course.losses.means.curve
        if isinstance(course.ended, Diverged):
            return Outcome(course.done, {}, course.done, False, course.cost, course.curve, losses=losses)
        if isinstance(course.ended, Interrupted):
            return Outcome(course.done if keeper.keeps else 0, {}, None, True, course.cost)
        metrics = metrics_of(returned, self._metric, self._name)
        if not math.isfinite(metrics[self._metric.name]):
            return Outcome(segment.stop, {}, segment.stop, False, course.cost, course.curve, losses=losses)
        if segment.final:
            course.returned(metrics)
        share = course.validation_share if course.asked_share else 1.0
        return Outcome(segment.stop, metrics, None, False, course.cost, course.curve, share, losses=losses)

    def _identity_of(self, segment: Segment) -> str:
        """Return all that a training's result depends on, as text."""
        # Not the code: whether changed code may go on is the search's to decide, and it decides before it trains.
        depends_on = {name: value for name, value in self._identity.items() if name != "code"}
        depends_on |= {"params": dict(segment.params), "seed": segment.seed, "rates": segment.rates}
        if segment.final and not segment.continued:
            depends_on["final"] = True
        return json.dumps(depends_on, sort_keys=True)

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, StanWarning, stacklevel=2)
