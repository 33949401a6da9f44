"""Worker processes, really killed, hanging, greedy, raising: what a search makes of it; none is left over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers

from stantune.errors import DataError, StantuneError, UsageError
from stantune.outcome import Cost
from stantune.protocols import Segment
from stantune.search.loop import search
from stantune.search.plan.values import Final, FinalResult, Job, Training
from stantune.search.session import HOPELESS
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.stopping import ENDING
from stantune.search.table.directory import SearchDirectory
from stantune.search.telling.progress import Progress
from stantune.search.telling.watching import Silent
from stantune.search.workers import workers as workers_module
from stantune.search.workers.executors import InProcess
from stantune.search.workers.workers import Limits, Workers

LEFT_ALONE = Path(__file__).parents[2] / "helpers" / "left_alone.py"
SETTINGS = SearchSettings(seed=0, max_resource=27, min_resource=3)
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


class Told(Silent):
    """Keeps what a watcher is told of failures, and which jobs ran side by side."""

    def __init__(self) -> None:
        self.failures: list[tuple[int | None, str, bool]] = []
        self.together: list[list[Training]] = []

    def job(self, job: Training, progress: Progress) -> None:
        self.together.append(list(progress.running))

    def failure(self, job: Training, cause: str, for_good: bool) -> None:
        self.failures.append((None if isinstance(job, Final) else job.number, cause, for_good))


def run(
    numbers: Numbers, workers: int = 2, limits: Limits | None = None, finalists: int = 1, **options: Any
) -> SearchState:
    """Run the search in the objective's place, in worker processes or in this one where `workers` is 0."""
    assert numbers.place is not None
    numbers.place.mkdir(exist_ok=True)
    settings = replace(SETTINGS, finalists=finalists)
    directory = SearchDirectory(numbers.place)
    with directory.locked():
        if not workers:
            return search(numbers, settings, directory, InProcess(numbers.order(0)), **options)
        with Workers(numbers.order, workers, limits) as executor:
            return search(numbers, settings, directory, executor, **options)


def table(state: SearchState) -> list[Any]:
    """The trial table, without costs and what went wrong on the way."""
    return [(row.number, row.bracket, row.params, dict(row.errors), row.diverged_at, row.failed) for row in state.rows]


def trained(place: Path) -> list[tuple[int, int]]:
    """Every iteration that was trained: trial and iteration."""
    return [(int(trial), int(at)) for _, trial, at in map(str.split, (place / "log").read_text().splitlines())]


def costless(final: FinalResult | None) -> FinalResult:
    """The same without its cost, which is another each time."""
    assert final is not None
    return replace(final, cost=Cost())


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the search without faults is."""
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(quiet: Path) -> SearchState:
    """The search in one process, without faults."""
    return run(Numbers(quiet), 0)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_same_result_for_any_number(undisturbed: SearchState, quiet: Path, tmp_path: Path, workers: int) -> None:
    told = Told()
    state = run(Numbers(tmp_path / "w", pause=0.002), workers, watcher=told)
    assert state.complete
    assert table(state) == table(undisturbed)
    assert costless(state.final) == costless(undisturbed.final)
    assert max(map(len, told.together)) == workers, "all are at work"
    if workers > 1:
        brackets = [{job.bracket for job in jobs if isinstance(job, Job)} for jobs in told.together]
        assert any(len(several) > 1 for several in brackets), "the next bracket fills what the first leaves idle"
    counts = Counter(trained(tmp_path / "w"))
    assert set(counts.values()) == {1}, "nothing is trained twice"
    assert set(counts) == set(trained(quiet))


def test_worker_killed_once(undisturbed: SearchState, tmp_path: Path) -> None:
    told = Told()
    state = run(Numbers(tmp_path / "w", {4: "once kill", -1: "once kill"}), watcher=told)
    assert state.complete
    assert table(state) == table(undisturbed)
    cause = "its worker process was killed by SIGKILL"
    assert told.failures == [(4, cause, False), (None, cause, False)]
    assert [tuple(failure) for failure in state.rows[4].failures] == [(3, cause)]
    assert sum(len(row.failures) for row in state.rows) == 1
    assert set(Counter(trained(tmp_path / "w")).values()) == {1}, "it went on from its checkpoint"


@pytest.mark.parametrize(
    ("fault", "cause", "limits"),
    [
        ("kill", "its worker process was killed by SIGKILL", None),
        ("exit", "its worker process ended with exit code 5", None),
        ("raise", "RuntimeError: these shapes do not fit (numbers_objective.py:", None),
        ("hang", "no iteration and no evaluation was done within 0.5 s, its time-out", Limits(seconds=0.5)),
        pytest.param("eat", "its process used more than 200 MB of memory", Limits(bytes=200_000_000), marks=linux),
    ],
)
@pytest.mark.parametrize("retries", [0, 2])
def test_trial_that_fails_for_good(
    undisturbed: SearchState,
    tmp_path: Path,
    fault: str,
    cause: str,
    limits: Limits | None,
    retries: int,
) -> None:
    told, place = Told(), tmp_path / "w"
    state = run(Numbers(place, {0: fault, 6: fault}), limits=limits, retries=retries, watcher=told)
    assert state.complete, "the search goes on without"
    for number in (0, 6):
        row = state.rows[number]
        assert row.failed is not None
        assert row.failed.startswith(cause)
        assert (row.errors, row.diverged_at) == ({}, None), "it did not diverge"
        assert [failure.stop for failure in row.failures] == [3] * (retries + 1)
        assert [for_good for which, _, for_good in told.failures if which == number] == [False] * retries + [True]
    others = [row for row in state.rows if row.number not in (0, 6)]
    assert all(row.failed is None and not row.failures for row in others)
    assert len(others) == len(undisturbed.rows) - 2
    again = run(Numbers(place), 0)
    assert table(again) == table(state), "what failed for good stays so"
    assert not (place / "checkpoints" / "trial-000000.pt").exists()


def test_retries_are_counted_across_runs(tmp_path: Path) -> None:
    place, failures = tmp_path / "w", 0

    class Impatient(Told):
        def failure(self, job: Training, cause: str, for_good: bool) -> None:
            super().failure(job, cause, for_good)
            raise KeyboardInterrupt

    for _ in range(3):
        told = Impatient()
        with pytest.raises(KeyboardInterrupt):
            run(Numbers(place, {0: "raise"}), 0, watcher=told)
        failures += len(told.failures)
    state = run(Numbers(place), 0)
    assert failures == 3
    assert len(state.rows[0].failures) == 3
    assert state.rows[0].failed is not None


def test_when_all_fail_it_is_not_the_settings(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path, dict.fromkeys(range(20), "raise"))
    with pytest.raises(StantuneError, match=rf"{HOPELESS} have failed for good.*these shapes do not fit.*`fresh`"):
        run(numbers, 0, retries=1)


def test_final_training_that_fails_is_tried_again_by_the_next_run(undisturbed: SearchState, tmp_path: Path) -> None:
    state = run(Numbers(tmp_path / "w", {-1: "raise"}))
    assert (state.complete, state.final) == (False, None)
    assert state.final_failure is not None
    assert state.final_failure.startswith("RuntimeError: these shapes do not fit")
    again = run(Numbers(tmp_path / "w"))
    assert (again.complete, again.final_failure) == (True, None)
    assert again.final is not None


def test_finalists_are_trained_side_by_side(tmp_path: Path) -> None:
    alone = run(Numbers(tmp_path / "alone"), 0, finalists=3)
    told, place = Told(), tmp_path / "w"
    numbers = Numbers(place, {-2: "once kill"}, pause=0.002)
    together = run(numbers, 3, finalists=3, watcher=told)
    assert max(sum(isinstance(job, Final) for job in jobs) for jobs in told.together) == 3
    assert told.failures == [(None, "its worker process was killed by SIGKILL", False)]
    assert len(together.finals) == 3
    for rank, final in together.finals.items():
        assert costless(final) == costless(alone.finals[rank])
    assert together.winner == alone.winner


def test_one_finalist_that_fails_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    place = tmp_path / "w"
    state = run(Numbers(place, {-1: "raise"}), finalists=3)
    assert (state.complete, state.winner, sorted(state.finals)) == (False, None, [1, 2])
    assert state.final_failure is not None
    (place / "log").unlink()
    again = run(Numbers(place), finalists=3)
    assert (again.complete, again.final_failure, sorted(again.finals)) == (True, None, [0, 1, 2])
    # Its first iteration is in the checkpoint of the tries before.
    assert trained(place) == [(-1, at) for at in range(2, 28)]


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_checkpoint_is_trained_again_from_the_first_iteration(
    undisturbed: SearchState, tmp_path: Path, workers: int
) -> None:
    place = tmp_path / "w"

    class Damaging(Told):
        def job(self, job: Training, progress: Progress) -> None:
            super().job(job, progress)
            if job.start == 9 and not self.failures:
                (place / "checkpoints" / f"trial-{job.number:06d}.pt").write_text("?")

    told = Damaging()
    state = run(Numbers(place), workers, watcher=told)
    assert state.complete
    assert table(state) == table(undisturbed)
    [(number, cause, for_good)] = told.failures
    assert (cause, for_good) == ("its checkpoint was cut short or altered", False)
    twice = [which for which, times in Counter(trained(place)).items() if times == 2]
    assert twice == [(number, at) for at in range(1, 10)]


def test_what_stops_every_training_stops_the_search_in_good_order(undisturbed: SearchState, tmp_path: Path) -> None:
    place = tmp_path / "w"
    with pytest.raises(StantuneError, match="the disk is full; make room"):
        run(Numbers(place, {5: "full"}, pause=0.02))
    state = run(Numbers(place))
    assert table(state) == table(undisturbed)
    assert not any(row.failures for row in state.rows), "it is no trial's fault"
    assert set(Counter(trained(place)).values()) == {1}, "the other worker kept what it had"


@pytest.mark.parametrize("patience", [0, 10, 60])
def test_stopped_in_good_order_and_gone_on_with(undisturbed: SearchState, tmp_path: Path, patience: int) -> None:
    place, told = tmp_path / "w", Told()
    log = place / "log"

    def stop_early() -> bool:
        return patience == 0 or (log.exists() and len(log.read_text().splitlines()) >= patience)

    state = run(Numbers(place, pause=0.005), 3, stop_early=stop_early, watcher=told)
    assert not state.complete
    assert told.failures == []
    assert table(run(Numbers(place), 2)) == table(undisturbed)
    assert set(Counter(trained(place)).values()) == {1}


def test_idle_worker_killed_costs_nothing(tmp_path: Path) -> None:
    segments = [
        Segment(number, {"lr": number}, 0, 2, 0, tmp_path / f"checkpoints/{number}", bracket=0) for number in range(2)
    ]

    def finish(executor: Workers) -> Any:
        return executor.finished(lambda: False, lambda segment, done: None)

    with Workers(Numbers(tmp_path).order, 1) as executor:
        executor.submit(segments[0])
        [first] = finish(executor)
        process = executor._places[0].process  # type: ignore[union-attr]
        process.kill()
        process.join()
        executor.submit(segments[1])
        [second] = finish(executor)
    assert (first.segment, second.segment) == tuple(segments)
    assert second.how.iterations == 2


@pytest.mark.parametrize(
    ("broken", "error", "said"),
    [
        ("no data", DataError, "there are no data in /nowhere; fetch them"),
        ("raise", StantuneError, "a worker process cannot begin .ValueError: no such thing"),
        ("killed", StantuneError, "3 worker processes in a row ended as they started .*SIGKILL.*fewer `workers`"),
    ],
)
def test_worker_that_cannot_begin(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.setattr(workers_module, "MOST_STILLBORN", 3)
    with pytest.raises(error, match=said):
        run(Numbers(tmp_path, broken=broken))


def test_end_at_once(tmp_path: Path) -> None:
    began = time.monotonic()

    def interrupt() -> bool:
        if (tmp_path / "log").exists():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(Numbers(tmp_path, {0: "hang", 1: "hang for good"}), stop_early=interrupt)
    assert time.monotonic() - began < 20


def processes(place: Path) -> Iterator[int]:
    """The workers that have trained anything so far and are still alive."""
    log = place / "log"
    for process in {int(line.split()[0]) for line in log.read_text().splitlines()} if log.exists() else ():
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            yield process


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@linux
@pytest.mark.parametrize("fault", ["", "hang for good"])
def test_no_worker_outlives_a_killed_search(undisturbed: SearchState, tmp_path: Path, fault: str) -> None:
    place = tmp_path / "w"
    place.mkdir()
    main = subprocess.Popen([sys.executable, str(LEFT_ALONE), str(place), fault])
    try:
        wait_for(lambda: len(list(processes(place))) == 2)
    finally:
        main.kill()
        main.wait()
    wait_for(lambda: not list(processes(place)), 5.0)
    state = run(Numbers(place))
    assert table(state) == table(undisturbed)
    assert not any(row.failures for row in state.rows), "that the search was killed is no trial's fault"


@linux
@pytest.mark.parametrize("number", ENDING)
def test_signals_to_workers_are_the_search_s_business(tmp_path: Path, number: int) -> None:
    sent = 0

    def stop_early() -> bool:
        nonlocal sent
        if not sent:
            for process in processes(tmp_path):
                os.kill(process, number)
                sent += 1
        return False

    state = run(Numbers(tmp_path, pause=0.01), stop_early=stop_early)
    assert sent
    assert state.complete
    assert not any(row.failures for row in state.rows)


# Stands between a program and the system's clock: the time of day jumps forth and back by a day at each look.
JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    static unsigned looks;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += looks++ % 2 ? 86400 : -86400;
    return code;
}
"""


@linux
def test_clock_that_jumps(undisturbed: SearchState, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    place, source, library = tmp_path / "w", tmp_path / "clock.c", tmp_path / "clock.so"
    place.mkdir()
    source.write_text(JUMPING_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    look = "import time; print(abs(time.time() - time.time()) > 86400)"
    looked = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    assert looked.stdout == "True\n", "the clock does jump"
    done = subprocess.run([sys.executable, str(LEFT_ALONE), str(place), ""], env=environment, check=False)
    assert done.returncode == 0
    state = run(Numbers(place), 0)
    assert table(state) == table(undisturbed)
    assert not any(row.failures for row in state.rows)
    assert set(Counter(trained(place)).values()) == {1}


def test_memory_limit_needs_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="`trial_memory` works on Linux alone"):
        Limits(bytes=1)
