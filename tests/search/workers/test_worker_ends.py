"""Searches with workers: one result for any number of them, whatever interrupts them; and no worker is left over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from numbers_objective import LENGTH, Numbers
from numbers_search import Told, costless, linux, processes, run, table, trained

from stantune.errors import StantuneError
from stantune.outcome import Outcome
from stantune.protocols import Segment
from stantune.search.plan.values import Job
from stantune.search.state import SearchState
from stantune.search.stopping import ENDING
from stantune.search.workers.workers import Workers

LEFT_ALONE = Path(__file__).parents[2] / "helpers" / "search" / "left_alone.py"


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


def test_a_worker_that_trains_and_was_not_heard_yet_keeps_what_it_has(tmp_path: Path) -> None:
    kept, log = tmp_path / "kept", tmp_path / "log"
    with Workers(Numbers(tmp_path, pause=0.05).order, 1) as workers:
        workers.submit(Segment(0, {"lr": 0.5}, 0, LENGTH, 0, kept, bracket=0))
        wait_for(log.exists)
        # Asked before anybody listens.
        [over] = workers.finished(lambda: True, lambda segment, done: None)
    assert isinstance(over.how, Outcome)
    assert over.how.interrupted
    assert over.how.iterations == int(kept.read_text()) == len(log.read_text().splitlines()) > 0


def test_end_at_once(tmp_path: Path) -> None:
    began = time.monotonic()

    def interrupt() -> bool:
        if (tmp_path / "log").exists():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(Numbers(tmp_path, {0: "hang", 1: "hang for good"}), stop_early=interrupt)
    assert time.monotonic() - began < 20


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


@linux
def test_time_in_which_all_is_stopped_is_no_training_s(undisturbed: SearchState, tmp_path: Path) -> None:
    place, limit = tmp_path / "w", 3.0
    place.mkdir()
    # A group of its own, as a terminal stops one on Ctrl-Z.
    main = subprocess.Popen([sys.executable, str(LEFT_ALONE), str(place), "", str(limit)], process_group=0)
    try:
        wait_for(lambda: len(list(processes(place))) == 2)
        os.killpg(main.pid, signal.SIGSTOP)
        time.sleep(limit + 2)
        os.killpg(main.pid, signal.SIGCONT)
        assert main.wait(120) == 0
    finally:
        main.kill()
        main.wait()
    state = run(Numbers(place), 0)
    assert table(state) == table(undisturbed)
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
