"""Ctrl-C where several searches of a process are to hear it: in threads, and within a training of another one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from another_thread import elsewhere

import stantune as st
from stantune.process.handlers import HereAlone
from stantune.search.directory.directory import SearchDirectory
from stantune.search.stopping import Stop, stoppable, stoppable_beside
from stantune.search.table.looking.look import look
from tests.tiny_problem import problem as tiny

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no such signals")
SPACE = st.Space({"x": st.Float(0, 1)})
# Of a training that nobody ends.
STEPS = 400


def slow(run: st.Run) -> float:
    for _ in run.steps():
        time.sleep(0.01)
    return run.params["x"]


def searched(objective: Callable[[st.Run], float], out: Path, **options: Any) -> st.SearchResult:
    return st.tune(
        objective, SPACE, minimize="loss", **{"max_resource": STEPS, "final": "none", "threads": 1, **options}, out=out
    )


def press_once(comes: Callable[[], bool]) -> None:
    """Press Ctrl-C when something has come, and a search of the main thread heeds it."""
    end = time.monotonic() + 60
    while not comes() and time.monotonic() < end:
        time.sleep(0.05)
    if isinstance(signal.getsignal(signal.SIGINT), HereAlone):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_thread_s_search_ends_though_the_main_thread_s_has_ended_first(tmp_path: Path) -> None:
    """The one that the signal reaches waits for its turn, and gives that up at once."""
    begun, over = threading.Event(), threading.Event()

    def noting(run: st.Run) -> float:
        begun.set()
        for _ in run.steps():
            over.wait(0.01)
        return 1.0

    def waits() -> bool:
        with contextlib.suppress(st.StantuneError):
            # It has asked for its first trial, and for its turn.
            return bool(look(tmp_path / "main").rows)
        return False

    presses = threading.Thread(target=press_once, args=(waits,))
    with ThreadPoolExecutor(1) as threads:
        beside = threads.submit(searched, noting, tmp_path / "beside")
        try:
            assert begun.wait(60)
            presses.start()
            with pytest.raises(KeyboardInterrupt):
                searched(slow, tmp_path / "main")
            with pytest.raises(KeyboardInterrupt):
                beside.result(60)
        finally:
            over.set()
            if presses.ident is not None:
                presses.join()
    assert look(tmp_path / "beside").state == "interrupted"


def test_a_thread_hears_what_was_heard_and_how_often() -> None:
    with stoppable() as stop, stoppable_beside() as first:
        assert not first.asked()
        signal.raise_signal(signal.SIGINT)
        with stoppable_beside() as second:
            assert first.asked()
            assert second.asked()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            for each in (stop, first, second):
                with pytest.raises(KeyboardInterrupt):
                    each.asked()
    with stoppable_beside() as later:
        assert not later.asked()


def test_a_thread_hears_of_a_signal_though_what_it_ended_is_over() -> None:
    with stoppable_beside() as beside:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
        assert beside.asked()
        with stoppable() as stop:
            assert not stop.asked(), "it is another search"


def within(inner: Path, swallows: bool) -> Callable[[st.Run], float]:
    """Return a function that searches, and may take what there is where that is interrupted."""
    space, steps = SPACE, STEPS

    def nests(run: st.Run) -> float:
        (inner.parent / "begun").touch()

        def waits(within: st.Run) -> float:
            for _ in within.steps():
                time.sleep(0.01)
            return float(within.params["x"])

        try:
            st.tune(waits, space, minimize="loss", max_resource=steps, final="none", threads=1, out=inner)
        except KeyboardInterrupt:
            if not swallows:
                raise
        return -1.0

    return nests


@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_within_a_training_ends_with_it(swallows: bool, workers: int, tmp_path: Path) -> None:
    out, inner = tmp_path / "outer", tmp_path / "inner"
    handlers = signal.getsignal(signal.SIGINT)

    presses = threading.Thread(target=press_once, args=((tmp_path / "begun").exists,))
    presses.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            searched(within(inner, swallows), out, max_resource=1, workers=workers)
    finally:
        presses.join()
    assert signal.getsignal(signal.SIGINT) is handlers
    seen = look(out)
    assert not any(row.errors or row.failures or row.failed for row in seen.rows), "it is not what was half done"
    assert (out / "result.json").is_file(), "it ended in good order"
    assert look(inner).state == "interrupted"


def test_a_worker_s_search_leaves_signals_to_the_search_around_it(tmp_path: Path) -> None:
    def tells(run: st.Run) -> dict[str, float]:
        heard = []

        def asks(within: st.Run) -> float:
            import signal

            heard.append(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
            return 1.0

        space = st.Space({"x": st.Float(0, 1)})
        st.tune(asks, space, minimize="loss", max_resource=1, final="none", out=run.directory / "inner")
        return {"loss": 1.0, "ignored": float(all(heard))}

    found = searched(tells, tmp_path, max_resource=1, workers=2)  # type: ignore[arg-type]
    assert {trial.metrics["ignored"] for trial in found.trials()} == {1.0}


def test_one_that_is_asked_twice_ends_at_once_within_a_training(tmp_path: Path) -> None:
    def nests(run: st.Run) -> float:
        def swallows(within: st.Run) -> float:
            signal.raise_signal(signal.SIGINT)
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            return -1.0

        with contextlib.suppress(KeyboardInterrupt):
            searched(swallows, tmp_path / "inner", max_resource=1)
        return -1.0

    with pytest.raises(KeyboardInterrupt):
        searched(nests, tmp_path / "outer", max_resource=1)
    for name in ("inner", "outer"):
        assert not any(row.errors for row in look(tmp_path / name).rows)
        assert not (tmp_path / name / "result.json").exists()


@pytest.mark.parametrize("ending", [{"budget": 0.3}, {"stop": Stop(0)}])
@pytest.mark.parametrize("begun", [False, True])
def test_a_budget_that_is_spent_before_its_turn_gives_a_result(
    ending: dict[str, Any], begun: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_resource": 9, "brackets": 1, "device": "cpu", "threads": 1, "out": tmp_path / "out"}
    before = st.tune(tiny, **options) if begun else None
    with elsewhere():
        found = st.tune(tiny, **options, **ending)
    assert found.complete == found.state.complete == begun
    assert found.trials() == ([] if before is None else before.trials())
    assert found.unwritten is not None
    assert found.unwritten in str(found)
    assert st.tune(tiny, **options).complete


@pytest.mark.parametrize("ending", [{"budget": 0.2, "stop": Stop()}, {"budget": "1h", "stop": Stop(0)}])
def test_a_budget_counts_beside_a_stop(ending: dict[str, Any], tmp_path: Path) -> None:
    found = searched(slow, tmp_path, max_resource=27, brackets=1, **ending)
    assert (found.complete, found.interrupted) == (False, True)
    assert look(tmp_path).state == "interrupted"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_within_that_was_to_end_alone_may_be_left_by_its_training(workers: int, tmp_path: Path) -> None:
    def nests(run: st.Run) -> float:
        inner = run.directory / "inner"

        def stops(within: st.Run) -> float:
            SearchDirectory(inner).ask_to_stop()
            for _ in within.steps():
                time.sleep(0.01)
            return -1.0

        space = st.Space({"x": st.Float(0, 1)})
        with contextlib.suppress(KeyboardInterrupt):
            st.tune(stops, space, minimize="loss", max_resource=10_000, final="none", threads=1, out=inner)
            return -2.0
        return 1.0

    found = searched(nests, tmp_path, max_resource=1, workers=workers)
    assert found.complete
    assert {trial.metrics["loss"] for trial in found.trials()} == {1.0}


def test_what_another_search_came_to_is_not_that_of_one_that_was_to_end_before_its_turn(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_resource": 9, "brackets": 1, "device": "cpu", "threads": 1, "out": tmp_path / "out"}
    st.tune(lambda run: 1.0, SPACE, minimize="loss", **options)
    with elsewhere():
        found = st.tune(tiny, **options, budget=0.3)
    assert (found.complete, found.trials()) == (False, [])
