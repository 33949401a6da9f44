"""Worker processes in each of which several segments take turns: one result, and who is lost with whom."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from numbers_objective import Numbers
from numbers_search import SETTINGS, Told, costless, run, table, trained

from stantune.errors import DataError, StantuneError
from stantune.outcome import Outcome
from stantune.protocols import Segment, StopEarly
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.state import SearchState
from stantune.search.workers.executors import Ended, EndedBeside, Failure, InProcess, Watch
from stantune.search.workers.workers import Limits, Workers
from stantune.testing import check_executor

KILLED = "its worker process was killed by SIGKILL"


@pytest.mark.parametrize(("workers", "together"), [(1, 2), (2, 3)])
def test_they_do_what_is_asked_of_an_executor(workers: int, together: int) -> None:
    check_executor(lambda order: Workers(order, workers, together=together))


@pytest.mark.parametrize(("workers", "together"), [(1, 3), (2, 2), (3, 4)])
def test_same_result_for_any_numbers(
    undisturbed: SearchState, quiet: Path, tmp_path: Path, workers: int, together: int
) -> None:
    told, place = Told(), tmp_path / "w"
    state = run(Numbers(place, pause=0.002), workers, together=together, watcher=told)
    assert state.complete
    assert table(state) == table(undisturbed)
    assert costless(state.final) == costless(undisturbed.final)
    assert max(map(len, told.together)) == workers * together, "all are at work"
    counts = Counter(trained(place))
    assert set(counts.values()) == {1}, "nothing is trained twice"
    assert set(counts) == set(trained(quiet))
    assert len({line.split()[0] for line in (place / "log").read_text().splitlines()}) == workers


def test_they_take_turns_in_each_process(tmp_path: Path) -> None:
    run(Numbers(tmp_path, pause=0.002), 2, together=3)
    rows: dict[str, list[str]] = {}
    for process, trial, _ in map(str.split, (tmp_path / "log").read_text().splitlines()):
        rows.setdefault(process, []).append(trial)
    assert all(max(len(set(row[at : at + 3])) for at in range(len(row))) == 3 for row in rows.values())


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_kills_its_process_once_costs_nobody_a_try(
    undisturbed: SearchState, tmp_path: Path, workers: int
) -> None:
    told, said, place = Told(), list[str](), tmp_path / "w"
    state = run(Numbers(place, {4: "once kill"}, pause=0.002), workers, together=3, watcher=told, said=said)
    assert state.complete
    assert table(state) == table(undisturbed)
    assert told.failures == []
    assert set(Counter(trained(place)).values()) == {1}, "each went on from its checkpoint"
    [line] = said
    assert f"took turns in a process that is lost ({KILLED}); each is trained again from its checkpoint" in line
    assert "4" in line.partition(" took")[0].removeprefix("note: trials ").split(", ")


@pytest.mark.parametrize(
    ("fault", "cause", "limits"),
    [
        ("kill", KILLED, None),
        ("exit", "its worker process ended with exit code 5", None),
        ("raise", "RuntimeError: these shapes do not fit (numbers_objective.py:", None),
        ("hang", "no iteration and no evaluation was done within 0.5 s, its time-out", Limits(seconds=0.5)),
    ],
)
def test_one_that_fails_for_good_fails_alone(
    undisturbed: SearchState, tmp_path: Path, fault: str, cause: str, limits: Limits | None
) -> None:
    told, said = Told(), list[str]()
    faulty = Numbers(tmp_path / "w", {0: fault, 6: fault}, pause=0.002)
    state = run(faulty, together=3, limits=limits, retries=1, watcher=told, said=said)
    assert state.complete
    for number in (0, 6):
        row = state.rows[number]
        assert row.failed is not None
        assert row.failed.startswith(cause)
        assert [failure.stop for failure in row.failures] == [3, 3]
    others = [row for row in state.rows if row.number not in (0, 6)]
    assert not any(row.failed or row.failures for row in others), "what was beside it lost no try"
    assert len(others) == len(undisturbed.rows) - 2
    assert {which for which, _, _ in told.failures} == {0, 6}
    assert len(said) <= 2, "each of them took others along once, and had its second try alone"


def test_one_that_runs_out_of_memory_is_trained_again_with_fewer_beside_it(
    undisturbed: SearchState, tmp_path: Path
) -> None:
    told, said = Told(), list[str]()
    numbers = Numbers(tmp_path / "w", {4: "once memory"}, pause=0.002)
    state = run(numbers, together=3, watcher=told, said=said)
    assert table(state) == table(undisturbed)
    assert told.failures == []
    [line] = said
    assert line.startswith("note: trial 4 ran out of memory beside")


@pytest.mark.parametrize("patience", [0, 10, 60])
def test_stopped_in_good_order_and_gone_on_with(undisturbed: SearchState, tmp_path: Path, patience: int) -> None:
    place = tmp_path / "w"
    log = place / "log"

    def stop_early() -> bool:
        return patience == 0 or (log.exists() and len(log.read_text().splitlines()) >= patience)

    state = run(Numbers(place, pause=0.005), 2, together=3, stop_early=stop_early)
    assert not state.complete
    assert not any(row.failures for row in state.rows)
    again = run(Numbers(place), 1, together=2)
    assert table(again) == table(undisturbed)
    assert set(Counter(trained(place)).values()) == {1}


def test_what_stops_every_training_stops_the_search_in_good_order(undisturbed: SearchState, tmp_path: Path) -> None:
    place = tmp_path / "w"
    with pytest.raises(StantuneError, match="the disk is full; make room"):
        run(Numbers(place, {5: "full"}, pause=0.02), together=3)
    state = run(Numbers(place))
    assert table(state) == table(undisturbed)
    assert not any(row.failures for row in state.rows), "it is no trial's fault"
    assert set(Counter(trained(place)).values()) == {1}, "the others kept what they had"


def test_workers_that_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no data in /nowhere; fetch them"):
        run(Numbers(tmp_path, broken="no data"), together=3)


def segments(folder: Path, count: int, stop: int = 20) -> list[Segment]:
    return [
        Segment(number, {"lr": number}, 0, stop, 0, folder / f"checkpoints/{number}", bracket=0)
        for number in range(count)
    ]


def all_of(executor: Workers, count: int, stop_early: Callable[[], bool] = lambda: False) -> list[Ended]:
    over: list[Ended] = []
    while len(over) < count:
        over += executor.finished(stop_early, lambda segment, done: None)
    return over


def test_those_that_were_lost_together_are_tried_one_at_a_time_and_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    numbers = Numbers(tmp_path, {0: "kill"}, pause=0.01)
    with Workers(numbers.order, 2, together=2, say=said.append) as executor:
        given = segments(tmp_path, 4)
        for each in given:
            executor.submit(each)
        over = all_of(executor, 4)
    assert [(each.segment.trial, each.how.cause) for each in over if isinstance(each.how, Failure)] == [(0, KILLED)]
    assert said == [
        f"note: trials 0, 2 took turns in a process that is lost ({KILLED}); each is trained again from its "
        "checkpoint, with nothing beside it"
    ]
    rows = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    first = rows[0][0] if rows[0][1] in "02" else next(process for process, trial, _ in rows if trial in "02")
    later = [process for process, trial, _ in rows if trial == "2" and process != first]
    assert later, "it went on in another process"
    assert not {trial for process, trial, _ in rows if process in later} - {"2"}, "with nothing beside it"


def test_a_process_that_dies_while_all_end_costs_nobody_a_try(tmp_path: Path) -> None:
    numbers, log = Numbers(tmp_path, pause=0.05), tmp_path / "log"
    asked = False

    def stop_early() -> bool:
        nonlocal asked
        if not asked and log.exists() and len(log.read_text().splitlines()) >= 3:
            # Dead as it is told to stop, at the latest.
            os.kill(int(log.read_text().split()[0]), signal.SIGKILL)
            asked = True
        return asked

    with Workers(numbers.order, 1, together=3) as executor:
        for each in segments(tmp_path, 4):
            executor.submit(each)
        over = all_of(executor, 4, stop_early)
    assert all(isinstance(each.how, Outcome) and each.how.interrupted for each in over)


def test_idle_worker_killed_costs_nothing(tmp_path: Path) -> None:
    with Workers(Numbers(tmp_path).order, 1, together=2) as executor:
        given = segments(tmp_path, 3, 2)
        executor.submit(given[0])
        [first] = all_of(executor, 1)
        [worker] = executor._living()
        worker.process.kill()
        worker.process.join()
        executor.submit(given[1])
        executor.submit(given[2])
        later = all_of(executor, 2)
    assert first.segment is given[0]
    assert {each.segment.trial for each in later} == {1, 2}
    assert all(isinstance(each.how, Outcome) for each in later)


def test_one_that_comes_as_a_process_dies_is_not_lost_with_it(tmp_path: Path) -> None:
    with Workers(Numbers(tmp_path).order, 1, together=2) as executor:
        first, second = segments(tmp_path, 2, 2)
        executor.submit(first)
        [worker] = executor._living()
        end = time.monotonic() + 60
        while not (first.checkpoint.exists() and first.checkpoint.read_text() == "2"):
            assert time.monotonic() < end
            time.sleep(0.01)
        # For it to say so.
        time.sleep(0.2)
        worker.process.kill()
        worker.process.join()
        executor.submit(second)
        over = all_of(executor, 2)
    assert [each.segment for each in over] == [first, second]
    assert all(isinstance(each.how, Outcome) for each in over), "it had not even begun there"


@pytest.mark.parametrize("fault", ["", "once kill"])
def test_seconds_of_a_process_are_counted_once(tmp_path: Path, fault: str) -> None:
    began, own = time.monotonic(), 0.0
    # Its start takes seconds of all that wait for it, and where it is lost they wait for one another.
    with Workers(Numbers(tmp_path, {0: fault}, pause=0.02).order, 1, together=4) as executor:
        for each in segments(tmp_path, 4):
            executor.submit(each)
        over = 0
        while over < 4:
            for ended in executor.finished(lambda: False, lambda segment, done: None):
                own += time.monotonic() - began - ended.elsewhere
                over += 1
        lived = time.monotonic() - began
    assert 0.8 * lived <= own <= 1.2 * lived


def test_seconds_with_others_are_told_apart(tmp_path: Path) -> None:
    with Workers(Numbers(tmp_path, pause=0.02).order, 1, together=2) as executor:
        for each in segments(tmp_path, 2):
            executor.submit(each)
        over = all_of(executor, 2)
    # Each had 20 turns of 0.02 s, and as many were the other's.
    assert all(each.elsewhere >= 0.3 for each in over)


class LosesTheFirst:
    """Loses the first segment after 0.3 s that were others', and trains it and all others then."""

    capacity = 1

    def __init__(self, numbers: Numbers) -> None:
        self._trains, self._lost = InProcess(numbers.order(0)), False

    def submit(self, segment: Segment) -> None:
        self._trains.submit(segment)

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        if self._lost:
            return self._trains.finished(stop_early, watch)
        time.sleep(0.3)
        self._lost = True
        return [EndedBeside(self._trains._segments.pop(), Failure("it is lost"), 0.3)]


def test_seconds_of_others_are_no_part_of_what_a_failure_takes(tmp_path: Path) -> None:
    numbers, directory = Numbers(tmp_path), SearchDirectory(tmp_path)
    with directory.locked():
        state = search(numbers, SETTINGS, directory, LosesTheFirst(numbers))
    [failure] = state.rows[0].failures
    assert failure.cause == "it is lost"
    assert state.rows[0].costs[3].coordination_seconds < 0.3
