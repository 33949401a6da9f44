"""Trainings that fail: as the search is told to end, at the wrong place, or all that are first; in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers
from numbers_search import Told, table

from stantune.errors import StantuneError
from stantune.outcome import Cost, Outcome
from stantune.protocols import Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.session import HOPELESS
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.workers.executors import Ended, Failure, InProcess, Watch
from stantune.tuning.ask_and_tell import open_search

NUMBERS = Numbers(length=9)
SETTINGS = SearchSettings(0, 9, 1)
KILLED = Failure("its worker process was killed by SIGTERM")
HOW = Callable[[Segment], Outcome | Failure]


def sound(segment: Segment) -> Outcome | Failure:
    return Outcome(segment.stop, {"error": 99.0 - segment.trial}, None, False, Cost())


@dataclass
class Shuffled:
    """Trains nothing: of what it has been given one after the other ends, in an order of its own."""

    how: HOW = sound
    capacity: int = 1
    order: int = 0
    held: list[Segment] = field(default_factory=list)

    def submit(self, segment: Segment) -> None:
        self.held.append(segment)

    def finished(self, stop_early: Callable[[], bool], watch: Watch) -> Sequence[Ended]:
        del stop_early, watch
        self.order += 1
        segment = self.held.pop(random.Random(self.order).randrange(len(self.held)))
        return [Ended(segment, self.how(segment))]


def run(path: Path, executor: Any, **options: Any) -> SearchState:
    directory = SearchDirectory(path)
    with directory.locked():
        return search(NUMBERS, SETTINGS, directory, executor, **options)


class Short:
    """A trainer that ends its trainings before their end, or beyond it, and says nothing of that."""

    def __init__(self, by: int, metrics: dict[str, float], final: bool) -> None:
        self._by, self._metrics, self._final = by, metrics, final

    def train(self, segment: Segment, stop_early: Callable[[], bool], watch: Callable[[int], None]) -> Outcome:
        if segment.trial == 1 or (segment.final and self._final):
            return Outcome(segment.stop + self._by, self._metrics, None, False, Cost())
        return Outcome(segment.stop, {"error": 1.0 + segment.trial}, None, False, Cost())


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("metrics", [{"error": 0.5}, {"other": 0.5}, {}])
def test_an_outcome_at_another_place_than_the_segments_end_is_a_failure(
    tmp_path: Path, by: int, metrics: dict[str, float]
) -> None:
    state = run(tmp_path, InProcess(Short(by, metrics, True)))
    row, cause = state.rows[1], f"its trainer returned an Outcome at iteration {1 + by} of a segment that ends at 1"
    assert (row.errors, row.diverged_at, len(row.failures)) == ({}, None, 1), "it is not tried again"
    assert row.failed is not None
    assert row.failed.startswith(cause)
    assert state.finals == {}
    assert state.final_failure is not None
    assert state.final_failure.startswith(f"its trainer returned an Outcome at iteration {9 + by}")


def test_a_value_that_is_no_number_is_a_divergence_wherever_it_comes(tmp_path: Path) -> None:
    state = run(tmp_path, InProcess(Short(-1, {"error": float("nan")}, False)))
    assert (state.rows[1].diverged_at, state.rows[1].failed) == (0, None)
    assert state.complete


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_what_fails_as_the_search_is_told_to_end_was_interrupted(tmp_path: Path, final: bool, again: bool) -> None:
    """The signal reaches all processes of a job: children of a training die with it, at each preemption."""
    undisturbed = run(tmp_path / "undisturbed", Shuffled())
    told, ending = Told(), list[Segment]()

    def how(segment: Segment) -> Outcome | Failure:
        if segment.final != final or (not final and segment.trial != 3):
            return sound(segment)
        ending.append(segment)
        return KILLED._replace(again=again)

    for _ in range(4):
        ending.clear()
        state = run(tmp_path / "disturbed", Shuffled(how), stop_early=lambda: bool(ending), watcher=told)
        assert not state.complete
        assert state.final_failure is None
        assert not any(row.failures for row in state.rows)
    # It is told nevertheless: where it was not the signal, nobody would know why nothing moves.
    assert told.failures == [(None if final else 3, KILLED.cause, False)] * 4
    state = run(tmp_path / "disturbed", Shuffled())
    assert state.complete
    assert table(state) == table(undisturbed)
    assert state.winner == undisturbed.winner


def test_a_damaged_checkpoint_is_set_aside_also_when_the_search_ends(tmp_path: Path) -> None:
    def how(segment: Segment) -> Outcome | Failure:
        segment.checkpoint.parent.mkdir(exist_ok=True)
        segment.checkpoint.write_text("half")
        asked.append(segment)
        return Failure("its checkpoint was cut short or altered", damaged=True)

    asked: list[Segment] = []
    state = run(tmp_path, Shuffled(how), stop_early=lambda: bool(asked))
    assert len(state.rows[0].failures) == 1
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["trial-000000.pt.aside"]


def with_damage(at: int) -> list[Failure]:
    """Return failures that use up all tries, and at a place among them one that uses up none."""
    failures = [KILLED] * 3
    failures.insert(at, Failure("its checkpoint was cut short or altered", damaged=True))
    return failures


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("at", range(3))
def test_a_damaged_checkpoint_uses_up_no_try(tmp_path: Path, final: bool, at: int) -> None:
    left, told = with_damage(at), Told()

    def how(segment: Segment) -> Outcome | Failure:
        return left.pop(0) if left and segment.final == final and (final or segment.trial == 3) else sound(segment)

    run(tmp_path, Shuffled(how), watcher=told)
    assert [cause for _, cause, _ in told.failures] == [failure.cause for failure in with_damage(at)]
    assert [for_good for *_, for_good in told.failures] == [False, False, False, True]


@pytest.mark.parametrize("at", range(3))
def test_the_table_knows_of_damage_before_a_kill(tmp_path: Path, at: int) -> None:
    failures, told = with_damage(at), Told()
    for number, failure in enumerate(failures):
        calls = iter([failure])

        def how(segment: Segment, calls: Iterator[Failure] = calls) -> Outcome | Failure:
            # The second one is where the search is killed.
            return next(calls) if segment.trial == 3 else sound(segment)

        with pytest.raises(StopIteration) if number < 3 else nullcontext():
            state = run(tmp_path, Shuffled(how), watcher=told)
    assert [for_good for *_, for_good in told.failures] == [False, False, False, True]
    assert [failure.damaged for failure in state.rows[3].failures] == [failure.damaged for failure in failures]


def test_always_damaged_is_a_failure_in_the_end(tmp_path: Path) -> None:
    told = Told()
    run(tmp_path, Shuffled(lambda segment: with_damage(0)[0] if segment.trial == 3 else sound(segment)), watcher=told)
    assert [for_good for *_, for_good in told.failures] == [False, False, False, True]


def failing(numbers: Sequence[int]) -> HOW:
    return lambda segment: (
        Failure("no such file", again=False) if segment.trial in numbers and not segment.final else sound(segment)
    )


@pytest.mark.sampled(5)
@pytest.mark.parametrize("capacity", [1, 2, 6, 17])
@pytest.mark.parametrize("order", [0, 100, 200])
def test_the_first_trials_alone_decide_whether_there_is_hope(tmp_path: Path, capacity: int, order: int) -> None:
    one = range(HOPELESS)
    sentence = (
        f"none of the first {HOPELESS} trials could be trained: all have failed for good, .*no such file.*`fresh`"
    )
    with pytest.raises(StantuneError, match=sentence):
        run(tmp_path, Shuffled(failing(one), capacity, order))
    # Told once; whoever goes on finds the search that is left.
    state = run(tmp_path, Shuffled(failing(one), capacity, order + 50))
    assert state.complete
    assert [row.number for row in state.rows if row.failed is not None] == list(one)
    for sound_one in one:
        others = [number for number in range(9) if number != sound_one]
        state = run(tmp_path / f"but-{sound_one}", Shuffled(failing(others), capacity, order))
        assert state.complete, "one of the first was sound"


@pytest.mark.parametrize("capacity", [1, 3])
def test_where_all_fail_each_call_ends_soon(tmp_path: Path, capacity: int) -> None:
    for call in (1, 2, 3):
        with pytest.raises(StantuneError, match=f"none of the first {call * HOPELESS} trials"):
            run(tmp_path, Shuffled(failing(range(99)), capacity))


def test_by_ask_and_tell_as_well(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_resource": 9, "minimize": "error", "out": tmp_path, "retries": 0}
    with open_search(NUMBERS.space, **options) as opened:
        segments = [segment for _ in range(HOPELESS + 1) if (segment := opened.ask()) is not None]
        opened.tell(segments.pop(), 0.5)
        for segment in segments[1:]:
            opened.fail(segment, "no such file")
        with pytest.raises(StantuneError, match=f"none of the first {HOPELESS} trials"):
            opened.fail(segments[0], "no such file")
