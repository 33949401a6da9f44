"""A function's training in one go, and cut at any moment: the same bits, in everything that the rest depends on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from states import equal, what_counts
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stantune.objectives.function import course
from stantune.objectives.function.objective import FunctionObjective
from stantune.objectives.function.run import Run
from stantune.outcome import Outcome
from stantune.parameters import Float, Integer
from stantune.protocols import Metric, Place, Segment
from stantune.search.workers.executors import Failure
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Workers
from stantune.space import Space

pytestmark = pytest.mark.usefixtures("one_thread")
STOP = 6
SPACE = Space({"lr": Float(1e-4, 1e-1, log=True), "width": Integer(4, 64)})
SETTING = {"lr": 0.01, "width": 8}


class CrashError(Exception):
    """What a test has a training end with."""


def train(run: Run) -> dict[str, float]:
    """Use all that has state: dropout, AdamW, a scheduler, a shuffling loader, random generators, a best value."""
    # Made anew in each segment, and the same in all of them.
    images, labels = torch.randn(40, 5), torch.randint(0, 3, (40,))
    held_out = torch.randperm(40)[:10]
    model = nn.Sequential(
        nn.Linear(5, run.params["width"]),
        nn.BatchNorm1d(run.params["width"]),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(run.params["width"], 3),
    )
    optimizer = torch.optim.AdamW(model.parameters(), run.params["lr"])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STOP * 5)
    best: list[float] = [float("inf")]
    own = np.random.default_rng(run.seed)
    run.keep(model=model, best=best, own=own)
    run.keep(optimizer=optimizer, scheduler=scheduler)
    loader = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
    for step in run.steps():
        for batch, wanted in loader:
            noise = own.normal() + np.random.normal() + random.random()
            loss = nn.functional.cross_entropy(model(batch + 0.01 * noise), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            run.loss(loss)
            crash(run, step)
        best[0] = min(best[0], loss.item())
    model.eval()
    with torch.no_grad():
        value = nn.functional.cross_entropy(model(images[held_out]), labels[held_out]).item()
    return {"loss": value, "best": best[0], "sum": sum(p.double().sum().item() for p in model.parameters())}


def crash(run: Run, step: int) -> None:
    """Do nothing; a test puts something else here."""


OBJECTIVE = FunctionObjective(train, SPACE, Metric("loss"))


def segment(where: Path, start: int, stop: int) -> Segment:
    return Segment(3, SETTING, start, stop, 77, where / "trial-000003.pt", bracket=0)


def trained(one: Segment, stop_early: Any = lambda: False) -> Outcome:
    # What comes before leaves its traces.
    random.seed()
    np.random.seed()
    torch.seed()
    return OBJECTIVE.trainer(Place(threads=1)).train(one, stop_early, lambda done: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    where = tmp_path_factory.mktemp("whole")
    outcome = trained(segment(where, 0, STOP))
    torch.set_num_threads(threads)
    return outcome, what_counts(where / "trial-000003.pt")


def test_it_trains(whole: tuple[Outcome, dict[str, Any]]) -> None:
    outcome, state = whole
    assert outcome.iterations == STOP
    assert outcome.metrics.keys() == {"loss", "best", "sum"}
    assert state["done"] == STOP
    assert outcome.cost.exact == STOP
    assert outcome.cost.exact_seconds > outcome.cost.evaluation_seconds > 0


@pytest.mark.parametrize("cuts", [(1,), (3,), (5,), (1, 2, 3, 4, 5)])
def test_segments_come_to_what_one_does(tmp_path: Path, whole: tuple[Outcome, Any], cuts: tuple[int, ...]) -> None:
    outcome = None
    for start, stop in zip((0, *cuts), (*cuts, STOP), strict=True):
        outcome = trained(segment(tmp_path, start, stop))
    assert outcome == whole[0]
    assert equal(what_counts(tmp_path / "trial-000003.pt"), whole[1])


def test_states_of_different_bits_are_told_apart(whole: tuple[Outcome, Any], tmp_path: Path) -> None:
    # The comparison that these tests stand on.
    trained(segment(tmp_path, 0, 5))
    assert not equal(what_counts(tmp_path / "trial-000003.pt"), whole[1])
    assert equal(whole[1], whole[1])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    crashes=st.lists(st.tuples(st.integers(0, STOP - 1), st.integers(1, 5), st.booleans()), max_size=4),
    asks=st.lists(st.integers(1, 4), max_size=3),
)
def test_cut_at_any_moment_it_comes_to_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    whole: tuple[Outcome, Any],
    crashes: list[tuple[int, int, bool]],
    asks: list[int],
) -> None:
    where = tmp_path_factory.mktemp("cut")
    one = segment(where, 0, STOP)
    with pytest.MonkeyPatch.context() as patch:
        for at, batches, saves in crashes:
            # Saved between any two steps, or only where a segment ends.
            patch.setattr(course, "SAVE_SECONDS", 0.0 if saves else 60.0)
            seen = []

            def fall(run: Run, step: int, at: int = at, batches: int = batches, seen: list[int] = seen) -> None:
                seen.append(step)
                if step >= at and len(seen) >= batches:
                    raise CrashError

            patch.setitem(train.__globals__, "crash", fall)
            with contextlib.suppress(CrashError):
                trained(one)
        patch.setitem(train.__globals__, "crash", lambda run, step: None)
        for times in asks:
            left = [times]

            def stop_early(left: list[int] = left) -> bool:
                left[0] -= 1
                return left[0] <= 0

            outcome = trained(one, stop_early)
            assert outcome.interrupted or outcome == whole[0]
        assert trained(one) == whole[0]
    assert equal(what_counts(where / "trial-000003.pt"), whole[1])


def test_a_killed_worker_process_costs_nothing_but_time(tmp_path: Path, whole: tuple[Outcome, Any]) -> None:
    def killed(run: Run) -> dict[str, float]:
        course.SAVE_SECONDS = 0.0

        def kill(run: Run, step: int) -> None:
            for at in (1, 4):
                mark = run.directory / f"killed-{at}"
                if step == at and random.Random(at).random() < 2 and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

        train.__globals__["crash"] = kill
        return train(run)

    one = segment(tmp_path, 0, STOP)
    ends = []
    with Workers(Order(FunctionObjective(killed, SPACE, Metric("loss"), name="train"), Place(threads=1)), 1) as workers:
        while not ends or isinstance(ends[-1], Failure):
            workers.submit(one)
            ((_, how),) = workers.finished(lambda: False, lambda segment, done: None)
            ends.append(how)
    assert [end.cause for end in ends[:-1]] == ["its worker process was killed by SIGKILL"] * 2
    assert ends[-1] == whole[0]
    assert equal(what_counts(one.checkpoint), whole[1])


def test_a_segment_done_again_is_only_evaluated(tmp_path: Path, whole: tuple[Outcome, Any]) -> None:
    one = segment(tmp_path, 0, STOP)
    first = trained(one)
    before = one.checkpoint.stat()
    second = trained(one)
    assert second == first == whole[0]
    assert one.checkpoint.stat().st_mtime_ns == before.st_mtime_ns
    # What it took is what it took, all parts together.
    assert second.cost.exact == STOP
    assert second.cost.exact_seconds == first.cost.exact_seconds


def test_a_second_segment_has_its_own_cost(tmp_path: Path) -> None:
    trained(segment(tmp_path, 0, 2))
    assert trained(segment(tmp_path, 2, STOP)).cost.exact == STOP - 2
