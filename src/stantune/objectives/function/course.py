"""Course: how one call of a function goes: how far it is, what it took, when it is saved, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from stantune.errors import StantuneError, UsageError
from stantune.objectives.function.keeping import Held, Keeper
from stantune.objectives.function.losses import Losses
from stantune.objectives.returned import metrics_of
from stantune.outcome import Cost
from stantune.protocols import Metric, Segment, StopEarly, best_point, compared_value

if TYPE_CHECKING:
    from stantune.objectives.function.acceleration import Acceleration

# A process that is killed in a long segment loses no more than this, and the step that it was in.
SAVE_SECONDS = 60.0
# One that asks whether it is to end returns in the middle of a step, and loses what was done since the last save.
ASKED_SECONDS = 15.0
# It is not saved more often than this share of its time allows.
SAVE_SHARE = 0.1
# How often a step that gives losses shows that it is alive.
BEAT_SECONDS = 1.0
T = TypeVar("T")


class Ended(BaseException):
    """Ends a function at once. It is an ordinary end, and no Exception, so that no `except Exception` swallows it."""


class Diverged(Ended):
    """The training is lost."""


class Interrupted(Ended):
    """The search is to end; what was reached is kept, or can be trained again."""


class Course:
    """Follows one call of a function; a Run is what the function sees of it.

    Attributes:
        start: where it goes on.
        done: how far it is.
        begun: whether its steps have begun.
        ended: what ended it, None while nothing has; a function may swallow the exception, but it has ended.
        broken: what went wrong in it that would meet all trials, swallowed or not.
        within: where the step that is being done ends; None outside of steps.
        losses: those that it told.
        cost: what it took.
    """

    def __init__(
        self,
        segment: Segment,
        keeper: Keeper,
        metric: Metric,
        name: str,
        stop_early: StopEarly,
        watch: Callable[[int], None],
    ) -> None:
        """Begin with the call of a function of this name, whose trials are compared by `metric`; see Trainer."""
        self.start = self.done = keeper.done
        self.begun = False
        self.ended: Ended | None = None
        self.broken: StantuneError | None = None
        self.losses = Losses(keeper.losses)
        self.cost: Cost = keeper.cost
        # The step that is being done ends here; None outside of steps.
        self.within: int | None = None
        self.validation_share = segment.validation_share
        # Whether the function has looked at that.
        self.asked_share = False
        self._stop = segment.stop
        self._final = segment.final and not segment.continued
        self._metric, self._name = metric, name
        self._keeper = keeper
        self._stop_early = stop_early
        self._watch = watch
        # The function asks whether the search is to end; it was told that it is, and ends by itself.
        self._asks = self._stopping = False
        now = time.perf_counter()
        # When the present stretch of time began, the last save was, the present step began.
        self._mark = self._saved = self._stepped = now
        # Seconds that the last save took.
        self._wrote = 0.0
        self._beat = now + BEAT_SECONDS

    @property
    def directory(self) -> Path:
        """See Run.checkpoint_dir."""
        return self._noting(lambda: self._keeper.directory)

    @property
    def should_stop(self) -> bool:
        """See Run."""
        self._asks = True
        self._stopping = self._stopping or self._stop_early()
        return self._stopping

    def keep(self, things: Mapping[str, Any], unnamed: Sequence[object] = ()) -> None:
        """See Run."""
        if unnamed:
            # Noted: who swallows it would believe that something is kept.
            self.broken = UsageError(
                f"run.keep was given a {type(unnamed[0]).__name__} without a name, by which the next segment finds it; "
                "name each thing, as in run.keep(model=model, optimizer=optimizer)"
            )
            raise self.broken
        if self.begun:
            raise UsageError(
                f"{', '.join(things)} cannot be kept any more: the steps have begun, and things are put back before "
                "them; call run.keep before run.steps"
            )
        self._noting(lambda: self._keeper.add(things))

    def accelerate(self, model: nn.Module, example: Tensor | None, changes: Mapping[str, Any]) -> Acceleration | None:
        """See Run."""
        if self.begun:
            raise UsageError("a model cannot be accelerated once the steps have begun; call run.accelerate before them")
        return self._noting(lambda: self._keeper.accelerate(model, example, changes))

    def go_on(self) -> int:
        """See Run."""
        if not self.begun:
            self._noting(self._keeper.begin)
            self.begun = True
            self._saved = self._stepped = time.perf_counter()
        return self.done

    def reached(self, done: int) -> None:
        """See Run."""
        self._check()
        if not self.done < done <= self._stop:
            raise UsageError(f"{done} cannot be reached from {self.done} in a segment that ends at {self._stop}")
        reduced = self._noting(lambda: self._keeper.reach(done))
        now = time.perf_counter()
        if reduced:
            self.cost.reduced += done - self.done
            self.cost.reduced_seconds += now - self._mark
        else:
            self.cost.exact += done - self.done
            self.cost.exact_seconds += now - self._mark
        self._mark = self._stepped = now
        self.done = done
        # A function that is told to end may do so in the middle of its next step, when this cannot be saved any more.
        seconds = min(max(ASKED_SECONDS, self._wrote / SAVE_SHARE), SAVE_SECONDS) if self._asks else SAVE_SECONDS
        if done == self._stop or self._stopping or now - self._saved >= seconds:
            self._save()
        self._watch(done)
        if done < self._stop and not self._stopping and self._stop_early():
            self._save()
            self._end(Interrupted())

    @property
    def curve(self) -> Mapping[int, Mapping[str, float]]:
        """What was reported of a final training, by how far it was."""
        return self._keeper.curve

    def report(self, metrics: object) -> None:
        """See Run."""
        self._check()
        measured = metrics_of(metrics, self._metric, self._name, "reported")
        if compared_value(self._metric, measured) is None:
            self._end(Diverged())
        if self._final:
            self._measured(self.done if self.within is None else self.within, measured)

    def returned(self, metrics: Mapping[str, float]) -> None:
        """Take what a final training was worth at its end; where nothing was reported, that is all there is.

        Its file then holds what that was measured of, which the function may have changed after the last step. Where
        that is gone, the end is no point whose weights would be the best.
        """
        held = self._noting(self._keeper.held_in_the_end)
        if self.curve and (held is not None or not self._is_best(self._stop, metrics)):
            self._measured(self._stop, metrics, held)
        self._heed()
        if held is not None:
            self._noting(lambda: self._keeper.save_measured(held))

    def loss(self, loss: float) -> None:
        """See Run."""
        self._check()
        if self.losses.diverged(loss):
            self._end(Diverged())
        if time.perf_counter() >= self._beat:
            self._live()

    def close(self) -> None:
        """End it: the function has returned, or what `ended` it has come out of it."""
        if self.ended is None:
            self._noting(self._keeper.check)
            if self._stopping and self.done < self._stop:
                # Nobody knows how far things are: in the middle of a step, perhaps. What was saved last counts.
                self.ended = Interrupted()
        took = time.perf_counter() - self._mark
        if self.ended is not None:
            # The step in which it ended is not done, and its time is spent.
            self.cost.exact_seconds += took
        elif self.done == self._stop:
            self.cost.evaluation_seconds += took
        else:
            # It has no steps, or has left them: whoever returns has trained to the end.
            self.cost.exact += self._stop - self.done
            self.cost.exact_seconds += took
            self._noting(lambda: self._keeper.reach(self._stop))
            self.done = self._stop
            self._save(step=False)

    def _measured(self, at: int, metrics: Mapping[str, float], held: Held | None = None) -> None:
        """Note what was measured at a point of a final training, and keep its weights if they are the best so far.

        They are in `held`, or else what is kept now.
        """
        began = time.perf_counter()
        # What was measured there before, and was better, has its weights in the file.
        both = {0: metrics, 1: self.curve.get(at, {})}
        if best_point(self._metric, both) == 0:
            is_best = self._is_best(at, metrics)
            self._keeper.curve[at] = dict(metrics)
            if is_best:
                self._heed()
                self._noting(lambda: self._keeper.save_best(at, self.losses.state, self.cost, held))
        # Writing it is no training.
        self._mark += time.perf_counter() - began

    def _is_best(self, at: int, metrics: Mapping[str, float]) -> bool:
        """Tell whether what was measured at a point is the best of a final training so far."""
        return best_point(self._metric, {**self.curve, at: metrics}) == at

    def _live(self) -> None:
        now = time.perf_counter()
        self._beat = now + BEAT_SECONDS
        self._watch(self.done)
        # A long step has a save at its beginning, or near it; a short one is waited for.
        if self.begun and not self._stopping and now - self._stepped > SAVE_SECONDS and self._stop_early():
            self._end(Interrupted())

    def _check(self) -> None:
        if self.ended is not None:
            raise self.ended

    def _end(self, how: Ended) -> None:
        self.ended = how
        raise how

    def _save(self, step: bool = True) -> None:
        self._heed()
        began = time.perf_counter()
        self._noting(lambda: self._keeper.save(self.losses.state, self.cost, step))
        # Writing it is no training.
        self._mark = self._saved = time.perf_counter()
        self._wrote = self._saved - began

    def _heed(self) -> None:
        """Raise KeyboardInterrupt once more where the function has swallowed it: what it left half done is not kept."""
        self._stop_early()

    def _noting(self, do: Callable[[], T]) -> T:
        """Do something; what goes wrong in it is known afterwards, even where the function swallows it."""
        try:
            return do()
        except StantuneError as error:
            self.broken = error
            raise
