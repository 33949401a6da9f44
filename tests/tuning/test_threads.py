"""Searches in several threads of one process: each comes to what it comes to alone."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from another_thread import elsewhere
from torch import Tensor, nn

import stantune as st
from stantune.errors import StanWarning
from stantune.images.objective import ProblemObjective
from stantune.outcome import Cost, Outcome
from stantune.process import alone as module
from stantune.process.alone import NoTurnError, alone, found
from stantune.process.float32 import kept_float32
from stantune.process.handlers import HereAlone
from stantune.protocols import Conditions, Place, Segment
from stantune.search.stopping import Stop
from stantune.search.table.looking.look import look
from stantune.search.workers.executors import InProcess
from stantune.search.workers.turns import InTurns
from stantune.training.train import run
from tests.tiny_problem import problem as tiny

SPACE = st.Space({"x": st.Float(0, 1)})


class Noise(nn.Module):
    """Scales its input by numbers that each of the process's generators draws."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            time.sleep(0.0005)
        return input * (torch.rand(1) + random.random() + np.random.random())


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), Noise(), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


PROBLEM = replace(tiny, name="noisy", network=network)


def drawing(run: st.Run) -> float:
    """Train to a sum of numbers that each of the process's generators draws."""
    total = torch.zeros(1)
    run.keep(total=total)
    for _ in run.steps():
        for _ in range(3):
            total += torch.rand(1) + random.random() + np.random.random()
            time.sleep(0.0005)
    return float(total) / run.stop + run.params["x"]


def searched(out: Path, objective: object = drawing, seed: int = 0, **options: Any) -> Any:
    """Search, and return what is in the table."""
    own = {} if objective is PROBLEM else {"space": SPACE, "minimize": "loss"}
    st.tune(objective, max_resource=9, brackets=1, seed=seed, out=out, **{**own, **options})
    return [(row.params, row.metrics, row.losses) for row in look(out).rows]


def test_functions_draw_as_alone(tmp_path: Path) -> None:
    expected = [searched(tmp_path / f"one-{seed}", seed=seed) for seed in range(2)]
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(searched, tmp_path / f"two-{seed}", seed=seed) for seed in range(2)]
        assert [future.result(120) for future in found] == expected


def test_problems_that_take_turns_draw_as_alone_beside_functions(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [{"objective": PROBLEM, "together": 2}, {}, {"objective": PROBLEM, "seed": 1}]
    expected = [searched(tmp_path / f"one-{number}", **each) for number, each in enumerate(asked)]
    with ThreadPoolExecutor(3) as threads:
        found = [threads.submit(searched, tmp_path / f"two-{number}", **each) for number, each in enumerate(asked)]
        assert [future.result(120) for future in found] == expected


def test_a_search_within_a_training_leaves_its_random_numbers_alone(tmp_path: Path) -> None:
    def nests(run: st.Run) -> float:
        if run.params["x"] < 0.5 and nested:
            st.tune(drawing, SPACE, minimize="loss", max_resource=1, out=run.directory / "inner")
        return drawing(run)

    found = []
    for nested in (False, True):
        objective = st.FunctionObjective(nests, SPACE, st.Metric("loss"), name="nests")
        found.append(searched(tmp_path / f"{nested}", objective, space=None, minimize=None))
    assert found[0] == found[1]


def test_one_that_waits_hears_that_it_is_to_stop(tmp_path: Path) -> None:
    stop = Stop()
    with elsewhere(), ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(
            lambda: st.tune(drawing, SPACE, minimize="loss", max_resource=9, out=tmp_path, stop=stop)
        )
        time.sleep(0.5)
        assert not waiting.done()
        stop.interrupted = True
        found = waiting.result(60)
    assert not found.complete
    assert not any(trial.curve for trial in found.trials())


@pytest.mark.parametrize("error", [False, True])
def test_it_is_said_what_is_waited_for(monkeypatch: pytest.MonkeyPatch, error: bool) -> None:
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.1)
    told: list[str] = []
    with elsewhere() as end:

        def warn(sentence: str, kind: type[Warning], stacklevel: int) -> None:
            assert kind is StanWarning
            told.append(sentence)
            # It is waited for a little longer.
            threading.Timer(0.5, end).start()
            if error:
                raise kind(sentence)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", warn)
            with alone() as ours:
                assert ours
    assert len(told) == 1
    assert "in another thread of this process is waited for" in told[0]


def test_data_are_fetched_while_another_thread_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[ProblemObjective] = []
    monkeypatch.setattr(ProblemObjective, "fetch", lambda self, say: fetched.append(self))
    with elsewhere(), pytest.raises(NoTurnError, match="the search of noisy was to end before its turn came"):
        ProblemObjective(PROBLEM).prepared(Conditions(9, stop_early=Stop(0.5).asked))
    assert len(fetched) == 1


@pytest.fixture
def numbers_kept() -> Iterator[None]:
    with kept_float32():
        yield


@pytest.mark.usefixtures("numbers_kept")
def test_a_search_that_begins_leaves_what_another_thread_trains_with(tmp_path: Path) -> None:
    kept: list[str] = []

    def ends() -> None:
        kept.append(torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("high")

    torch.set_float32_matmul_precision("high")
    with elsewhere(lambda: torch.set_float32_matmul_precision("highest"), ends):
        searched(tmp_path, stop=Stop(0.5))
    assert kept == ["highest"]


def waits_for_threads(run: st.Run) -> float:
    """Search in a thread and wait for it, until a signal ends both."""

    def press() -> None:
        if isinstance(signal.getsignal(signal.SIGINT), HereAlone):
            os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(1, press)
    timer.start()
    try:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(searched, run.directory / "inner", *INNER[:1], **INNER[1]).result()
    finally:
        timer.cancel()
    return 1.0


INNER: list[Any] = []


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such signals")
@pytest.mark.parametrize("options", [{}, {"objective": PROBLEM}, {"objective": PROBLEM, "together": 2}])
def test_a_signal_ends_threads_that_wait_for_what_waits_for_them(options: dict[str, Any], tmp_path: Path) -> None:
    given = dict(options)
    INNER[:] = [given.pop("objective", drawing), given]
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, st.FunctionObjective(waits_for_threads, SPACE, st.Metric("loss")), space=None, minimize=None)
    assert time.monotonic() - begun < 30


def test_trainings_side_by_side_that_wait_hear_that_they_are_to_stop(tmp_path: Path) -> None:
    executor = InTurns(ProblemObjective(PROBLEM).trainer(Place(threads=1)), 1)
    executor.submit(Segment(0, {}, 0, 1, 0, tmp_path / "x.pt"))
    asked = iter([False, True])
    with elsewhere():
        [ended] = executor.finished(lambda: next(asked, True), lambda segment, done: None)
    assert isinstance(ended.how, Outcome)
    assert ended.how.interrupted


def test_one_run_that_waits_hears_that_it_is_to_stop() -> None:
    with elsewhere():
        outcome = run(PROBLEM, {}, None, 0, 1, splits=PROBLEM.load(), stop_early=lambda: True)
    assert outcome.interrupted


def test_what_a_training_sets_for_itself_is_nothing_to_another_thread_s_search(tmp_path: Path) -> None:
    before, threads = torch.get_default_dtype(), torch.get_num_threads()

    def begins() -> None:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(threads + 1)

    def ends() -> None:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)

    with elsewhere(begins, ends):
        settings = found()
    assert settings.settings == found().settings
    assert settings.threads == threads


class Apart:
    """Trains elsewhere."""

    apart = True

    def train(self, segment: Segment, stop_early: Any, watch: Any) -> Outcome:
        return Outcome(segment.stop, {"loss": 1.0}, None, False, Cost())


def test_what_trains_elsewhere_waits_for_nobody(tmp_path: Path) -> None:
    executor = InProcess(Apart())
    executor.submit(Segment(0, {}, 0, 1, 0, tmp_path / "x.pt"))
    with elsewhere():
        [ended] = executor.finished(lambda: False, lambda segment, done: None)
    assert isinstance(ended.how, Outcome)
    assert ended.how.metrics == {"loss": 1.0}


@pytest.mark.skipif(sys.platform != "linux", reason="it is copied by fork")
def test_a_copy_of_the_process_waits_for_no_thread_that_it_has_not() -> None:
    with elsewhere():
        copy = multiprocessing.get_context("fork").Process(target=take_turn)
        copy.start()
        copy.join(30)
        copy.kill()
        copy.join()
    assert copy.exitcode == 0


def take_turn() -> None:
    with alone():
        pass
