"""check_executor passes our executors, and says of broken ones what is wrong with them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pytest

from stantune.errors import StantuneError
from stantune.outcome import Cost, Outcome
from stantune.protocols import Segment
from stantune.search.workers.executors import Ended, Failure, InProcess, attempt
from stantune.search.workers.workers import Workers
from stantune.testing import check_executor, executors


def test_this_process_passes() -> None:
    check_executor(lambda order: InProcess(order(0)))


@pytest.mark.parametrize("count", [1, 3])
def test_worker_processes_pass(count: int) -> None:
    check_executor(lambda order: Workers(order, count))


# What is in a field that is left out; an outcome's cost has to be said, and may say nothing.
DEFAULTS = {
    kind: {field.name: field.default for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    for kind in (Segment, Outcome)
}
DEFAULTS[Outcome] |= {"cost": Cost(), "curve": {}}


def without(whole, field):
    """Return a segment or an outcome as it is where a field, or "all" that can be, was left out."""
    default = DEFAULTS[type(whole)]
    return dataclasses.replace(whole, **(default if field == "all" else {field: default[field]}))


class Batch(InProcess):
    """Takes three segments at a time; `wrong` is what is wrong with it."""

    capacity = 3

    def __init__(self, trainer, wrong="") -> None:
        super().__init__(trainer)
        self._wrong = wrong
        if wrong == "no capacity":
            self.capacity = 0

    def finished(self, stop_early: Callable[[], bool], watch):
        segments, self._segments = self._segments[::-1], []
        if self._wrong == "never watches":
            watch = lambda segment, done: None  # noqa: E731
        if self._wrong == "watches another":
            told = watch
            watch = lambda segment, done: told(dataclasses.replace(segment, trial=99), done)  # noqa: E731
        if self._wrong == "never stops":
            stop_early = lambda: False  # noqa: E731
        over = []
        what, _, field = self._wrong.partition(" ")
        for segment in segments:
            given = without(segment, field) if what == "withholds" else segment
            try:
                how = attempt(self._trainer, given, stop_early, lambda done, segment=segment: watch(segment, done))
            except StantuneError as error:
                if self._wrong != "swallows":
                    raise
                how = Failure(str(error))
            if isinstance(how, Failure) and self._wrong == "hides failures":
                how = Outcome(segment.stop, {}, None, False, Cost())
            if isinstance(how, Failure) and self._wrong == "tells no cause":
                how = Failure("it failed", how.damaged)
            if isinstance(how, Failure) and self._wrong == "tells no damage":
                how = Failure(how.cause)
            if isinstance(how, Failure) and self._wrong == "tries all again":
                how = Failure(how.cause, how.damaged)
            if isinstance(how, Outcome) and what == "drops":
                how = without(how, field)
            over.append(Ended(segment, how))
        if self._wrong == "loses one" and len(over) > 1:
            # Another one comes twice.
            over[0] = over[1]
        if self._wrong == "twice":
            over.append(over[0])
        if self._wrong == "mixes up" and len(over) > 1:
            over[0], over[1] = Ended(over[0].segment, over[1].how), Ended(over[1].segment, over[0].how)
        if self._wrong == "no Ended":
            return [how for _, how in over]
        return over


def test_one_that_takes_several_at_a_time_passes() -> None:
    check_executor(lambda order: Batch(order(0)))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("no capacity", "the capacity is 0; give a whole number of 1 or more"),
        ("loses one", r"of 12 submitted segments those of the trials \[.*\] came back; each is to come back once"),
        ("twice", "segments came back of"),
        ("mixes up", r"came back with \{'loss': .*\}, and has the loss"),
        ("no Ended", r"finished\(\) returned Outcome.*, and no Ended"),
        ("hides failures", "a training that raised came back as Outcome.*, not as a Failure"),
        ("tells no cause", "a training's exception came back as 'it failed' alone"),
        ("tells no damage", "damaged=False came back of a training whose checkpoint is damaged"),
        ("tries all again", "again=True came back of a training whose exception has `again = False`"),
        ("swallows", "a training raised StantuneError, and Failure.* came back; it is to be raised"),
        ("never watches", "nothing was told of a segment of 1.5 seconds on its way; pass on what trainings tell"),
        ("watches another", r"of trial 7, which counts to 5, \[\(99, 1\), .*\] was told"),
        ("never stops", "a segment that was asked to end came back as Outcome.*, and not as an interrupted one"),
    ],
)
def test_broken_ones_are_told_so(wrong: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if wrong == "never stops":
        # They train to their end, all three.
        seconds = time.sleep
        monkeypatch.setattr(time, "sleep", lambda asked: seconds(asked / 10))
    with pytest.raises(AssertionError, match=sentence):
        check_executor(lambda order: Batch(order(0), wrong))


@pytest.mark.parametrize("field", ["all", *DEFAULTS[Segment]])
def test_what_is_withheld_of_segments_is_found(field: str) -> None:
    said = r"came back with \{'loss': .*\}, and has the loss .*, which depends on all that its segment says"
    with pytest.raises(AssertionError, match=said):
        check_executor(lambda order: Batch(order(0), f"withholds {field}"))


@pytest.mark.parametrize("field", ["all", *DEFAULTS[Outcome]])
def test_what_is_dropped_of_outcomes_is_found(field: str) -> None:
    named = "cost" if field == "all" else field
    with pytest.raises(AssertionError, match=f"trial [0-9]+ came back with {named}=.*, and its training had"):
        check_executor(lambda order: Batch(order(0), f"drops {field}"))


def test_one_that_never_ends_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle(InProcess):
        def finished(self, stop_early, watch):
            stop_early()
            return []

    monkeypatch.setattr(executors, "SECONDS", 0.2)
    with pytest.raises(AssertionError, match=r"segments do not end within 0.4 s"):
        check_executor(lambda order: Idle(order(0)))
