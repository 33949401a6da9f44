"""Processes that a training starts: it can end them, and what ends the search in good order does not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from stantune.process.handlers import HereAlone
from stantune.search.stopping import stoppable

pytestmark = pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="no system that forks")

ENDS_ITS_OWN = """
import multiprocessing, subprocess, sys, time
import stantune as st


def train(run):
    for _ in run.steps():
        pass
    forks = multiprocessing.get_context("fork")
    child = forks.Process(target=time.sleep, args=(999,))
    child.start()
    child.terminate()
    child.join()
    program = subprocess.Popen(["sleep", "999"])
    program.terminate()
    with forks.Pool(1) as pool:
        pool.map(abs, range(4))
    return {"value": child.exitcode + program.wait()}


options = eval(sys.argv[1])
space = st.Space({"x": st.Float(0, 1)})
found = st.tune(train, space, minimize="value", max_resource=1, retries=0, out="out", **options)
print(found)
"""


@pytest.mark.parametrize("options", [{}, {"workers": 1, "trial_timeout": 100}, {"workers": 2}], ids=str)
def test_a_training_ends_what_it_has_started(tmp_path: Path, options: dict[str, int]) -> None:
    (tmp_path / "mine.py").write_text(ENDS_ITS_OWN)
    # A session of its own, of which nothing is left.
    search = subprocess.Popen(
        [sys.executable, "mine.py", repr(options)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = search.communicate(timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(search.pid, signal.SIGKILL)
        search.wait()
    assert "value -30 after" in said


@contextmanager
def nothing() -> Iterator[None]:
    """Have a handler as a worker has."""
    before = signal.signal(signal.SIGTERM, HereAlone(lambda number, frame: None))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ended_by(number: int, wait: float, seconds: float) -> int | None:
    """Fork a process that sleeps, send it a signal after a while, and return what ended it; None where nothing did."""
    if not (child := os.fork()):
        try:
            time.sleep(60)
        finally:
            os._exit(0)
    time.sleep(wait)
    os.kill(child, number)
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001)
    return os.WTERMSIG(ended[1])


@pytest.mark.parametrize("heeding", [stoppable, nothing])
def test_only_sigterm_ends_a_fork(heeding: Callable[[], AbstractContextManager[object]]) -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with heeding():
        # At once, too: what comes before Python is ready for it is not lost.
        assert [ended_by(signal.SIGTERM, 0, 20) for _ in range(50)] == [signal.SIGTERM] * 50
        assert isinstance(signal.getsignal(signal.SIGTERM), HereAlone), "this process goes on"
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    with stoppable():
        assert ended_by(signal.SIGINT, 0.2, 1) is None
