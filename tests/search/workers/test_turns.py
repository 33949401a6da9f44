"""Trainings that take turns in one process: told apart, kept where all end, with room made where memory ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from stantune.errors import StantuneError
from stantune.outcome import Cost, Outcome
from stantune.protocols import Segment
from stantune.search.workers.executors import Ended, Failure
from stantune.search.workers.turns import InTurns
from stantune.testing import check_executor


@pytest.mark.parametrize("count", [1, 3])
def test_it_does_what_is_asked_of_an_executor(count: int) -> None:
    check_executor(lambda order: InTurns(order(0), count))


class Steps:
    """Does one step a turn and notes whose it was; `hungry` ones run out of memory beside `most` or more others."""

    def __init__(self, hungry: dict[int, int] | None = None, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.row: list[int] = []
        self.beside: dict[int, int] = {}
        self.running: set[int] = set()
        self.ended: list[str] = []
        self._hungry = hungry or {}
        self._error = error

    def train(self, segment: Segment, stop_early: Any, watch: Any) -> Outcome:
        raise AssertionError("it is to take turns")

    def turns(
        self, segment: Segment, stop_early: Callable[[], bool], watch: Callable[[int], None]
    ) -> Generator[None, None, Outcome]:
        self.running.add(segment.trial)
        try:
            for step in range(segment.start, segment.stop):
                self.row.append(segment.trial)
                others = len(self.running) - 1
                if others >= self._hungry.get(segment.trial, 99):
                    raise self._error("CUDA out of memory. Tried to allocate 2.00 GiB")
                self.beside[segment.trial] = max(others, self.beside.get(segment.trial, 0))
                if segment.params.get("fails") == step:
                    raise ValueError("no such layer")
                if segment.params.get("breaks") == step:
                    raise StantuneError("the disk is full; make room")
                watch(step + 1)
                if stop_early():
                    self.ended.append(f"{segment.trial} keeps {step + 1}")
                    return Outcome(step + 1, {}, None, True, Cost())
                yield
        finally:
            self.running.discard(segment.trial)
        return Outcome(segment.stop, {"loss": float(segment.trial)}, None, False, Cost(exact=1))


def segment(number: int, stop: int = 3, **params: Any) -> Segment:
    return Segment(number, params, 0, stop, number, Path("none.pt"), bracket=0)


def run(executor: InTurns, todo: list[Segment], stop: Callable[[], bool] = lambda: False) -> list[Ended]:
    """Do as a search's loop does."""
    left, running, over = list(todo), 0, list[Ended]()
    while left or running:
        while left and running < executor.capacity:
            executor.submit(left.pop(0))
            running += 1
        ended = executor.finished(stop, lambda segment, done: None)
        running -= len(ended)
        over += ended
    return over


def test_they_take_turns_and_one_that_ends_makes_room_for_the_next() -> None:
    steps = Steps()
    ended = run(InTurns(steps, 2), [segment(0, 2), segment(1, 4), segment(2, 2)])
    assert steps.row == [0, 1, 0, 1, 1, 2, 1, 2]
    assert [one.segment.trial for one in ended] == [0, 1, 2]
    assert all(one.how == Outcome(one.segment.stop, {"loss": one.segment.trial}, None, False, Cost()) for one in ended)


def test_one_that_fails_fails_alone() -> None:
    ended = run(InTurns(Steps(), 3), [segment(0), segment(1, fails=1), segment(2), segment(3)])
    failures = {one.segment.trial: one.how for one in ended if isinstance(one.how, Failure)}
    assert set(failures) == {1}
    assert "no such layer" in failures[1].cause
    assert not failures[1].memory
    assert len(ended) == 4


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_one_that_runs_out_of_memory_is_trained_again_with_fewer_beside_it(error: type[Exception]) -> None:
    steps, said = Steps({1: 1}, error), list[str]()
    todo = [segment(number, 4) for number in range(7)]
    ended = run(InTurns(steps, 3, said.append), todo)
    # It has not failed, and as soon as it is over the others are as many as before.
    assert sorted(one.segment.trial for one in ended) == list(range(7))
    assert not any(isinstance(one.how, Failure) for one in ended)
    assert steps.beside[1] == 0
    assert steps.beside[6] == 2
    assert said == [
        f"note: trial 1 ran out of memory beside {beside}, and is trained again with fewer beside it"
        for beside in ("2 others", "another one")
    ]


def test_one_that_needs_more_memory_than_there_is_has_failed() -> None:
    steps = Steps({1: 0})
    ended = run(InTurns(steps, 3), [segment(number) for number in range(4)])
    failures = {one.segment.trial: one.how for one in ended if isinstance(one.how, Failure)}
    assert set(failures) == {1}
    assert failures[1].memory
    assert "out of memory" in failures[1].cause


def test_it_is_remembered_how_many_a_trial_can_have_beside_it() -> None:
    steps, said = Steps({1: 2}), list[str]()
    executor = InTurns(steps, 3, said.append)
    run(executor, [segment(number) for number in range(3)])
    assert len(said) == 1
    run(executor, [segment(number) for number in range(3)])
    assert len(said) == 1
    assert steps.beside[1] == 1


def test_where_all_end_on_an_error_each_keeps_what_it_has() -> None:
    steps = Steps()
    with pytest.raises(StantuneError, match="the disk is full"), InTurns(steps, 3) as executor:
        run(executor, [segment(0, 9), segment(1, 9, breaks=2), segment(2, 9)])
    assert sorted(steps.ended) == ["0 keeps 4", "2 keeps 3"]


def test_ctrl_c_ends_all_at_once() -> None:
    steps = Steps()

    def interrupted() -> bool:
        if len(steps.row) > 5:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt), InTurns(steps, 3) as executor:
        run(executor, [segment(number, 9) for number in range(3)], interrupted)
    assert steps.ended == []
    assert not steps.running


def test_those_that_have_not_begun_are_not_begun_where_all_are_to_end() -> None:
    steps = Steps({0: 1})
    ended = run(InTurns(steps, 2), [segment(0, 9), segment(1, 9)], lambda: len(steps.row) >= 3)
    assert {one.segment.trial for one in ended} == {0, 1}
    assert all(isinstance(one.how, Outcome) and one.how.interrupted for one in ended)


def test_the_time_of_others_is_told() -> None:
    class Slow(Steps):
        def turns(self, segment: Segment, stop_early: Any, watch: Any) -> Generator[None, None, Outcome]:
            for _ in range(3):
                time.sleep(0.01 * segment.trial)
                yield
            return Outcome(segment.stop, {}, None, False, Cost())

    elsewhere = {one.segment.trial: one.elsewhere for one in run(InTurns(Slow(), 2), [segment(1), segment(5)])}
    assert elsewhere[1] >= 0.1  # three turns of the other one, or two and its share of the third
    assert 0.03 <= elsewhere[5] < 0.1


@pytest.mark.parametrize(("ends_in", "words"), [(None, "came to None"), ({"loss": 1.0}, "came to {'loss': 1.0}")])
def test_a_trainer_whose_turns_end_in_no_outcome_is_refused(ends_in: object, words: str) -> None:
    class Forgetful(Steps):
        def turns(self, segment: Segment, stop_early: Any, watch: Any) -> Generator[None, None, Any]:
            yield
            return ends_in

    executor = InTurns(Forgetful(), 2)
    executor.submit(segment(0))
    with pytest.raises(StantuneError, match=f"the trainer's `turns` {words}, and to no Outcome"):
        executor.finished(lambda: False, lambda segment, done: None)


def test_a_trainer_whose_turns_are_no_generator_is_refused() -> None:
    class Listing(Steps):
        def turns(self, segment: Segment, stop_early: Any, watch: Any) -> Any:
            return [1]

    executor = InTurns(Listing(), 2)
    executor.submit(segment(0))
    with pytest.raises(StantuneError, match=r"`turns` returned \[1\], and no generator"):
        executor.finished(lambda: False, lambda segment, done: None)
