"""What is shown while a search runs, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import pytest
from rich.console import Console

from stantune.protocols import Metric
from stantune.report import live
from stantune.report.live import Lines, LiveView, training_progress, watching
from stantune.search.plan.hyperband import plan
from stantune.search.plan.values import Final, Job, TrialRow
from stantune.search.telling import progress as progress_module
from stantune.search.telling.progress import Progress

METRIC = Metric("validation error", unit="%")
PLAN = plan(27, 3, 3)
# All of bracket 2's first rung: trial 4 diverged, trials 0 to 2 are promoted.
ROWS = [
    TrialRow(number, 2, {"lr": 0.1}, {} if number == 4 else {3: 50.0 + number}, 2 if number == 4 else None)
    for number in range(9)
]


def console(terminal: bool, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, legacy_windows=False)


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_live_view_fits_and_tells_all() -> None:
    on = console(terminal=True)
    progress = Progress(PLAN, METRIC)
    progress.update(ROWS, 27)
    with watching(on) as view:
        assert isinstance(view, LiveView)
        progress.begin(Job(0, 2, 3, 9), ROWS)
        progress.iteration(Job(0, 2, 3, 9), 4)
        progress.begin(Job(1, 2, 3, 9), ROWS)
        view.job(Job(1, 2, 3, 9), progress)
        view.failure(Job(2, 2, 3, 9), "its worker process was killed by SIGKILL", False)
    text = shown(on)
    assert "trial 0" in text
    assert "iteration 4 of 9, bracket s = 2" in text
    assert "iteration 3 of 9, bracket s = 2" in text
    said = "trial 2, on its way to 9, failed (its worker process was killed by SIGKILL): tried again"
    assert said in re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "9 of 17; 2 training, 1 waiting 3 promoted, 5 dropped, 1 diverged" in " ".join(text.split())
    assert "50.00 %" in text
    assert text.endswith("\x1b[2K"), "it is wiped away at the end"


def test_drawing_takes_little_of_the_time_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn, counted = 100.0, [], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    standing = progress_module.status
    monkeypatch.setattr(progress_module, "status", lambda *given: counted.append(given) or standing(*given))
    progress = Progress(PLAN, METRIC)
    progress.update(ROWS, 27)
    with watching(console(terminal=True)) as view:
        assert isinstance(view, LiveView)

        def update(*_: object, **__: object) -> None:
            nonlocal now
            drawn.append(now)
            now += takes

        monkeypatch.setattr(view.live, "update", update)
        progress.begin(Job(0, 2, 3, 9), ROWS)
        takes = 2.0
        for _ in range(500):
            view.iteration(progress)
            now += 0.1
        takes = 0.01
        for _ in range(500):
            view.iteration(progress)
            now += 0.1
    slow = [at for at in drawn if at < 150]
    assert [round(b - a) for a, b in pairwise(slow)] == [22, 22]
    assert len(drawn) > 100, "the eye is served as soon as it is quick"
    assert len(counted) == 1, "the table is the same"
    progress.begin(Job(1, 2, 3, 9), [*ROWS, TrialRow(9, 1, {}, {9: 1.0})])
    assert (progress.best, progress.trials) == (1.0, 10)
    assert len(progress.status.trials) == 10


@pytest.mark.parametrize("width", [50, 30])
def test_a_narrow_terminal_cuts_nothing(width: int) -> None:
    on = console(True, width)
    progress = Progress(PLAN, METRIC)
    progress.update(ROWS, 27)
    with watching(on) as view:
        progress.begin(Job(0, 2, 3, 9), ROWS)
        view.job(Job(0, 2, 3, 9), progress)
    with training_progress(on, 60_000) as moved:
        moved(12_345)
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(on)).splitlines()]
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"iteration", "bracket", "training,", "waiting", "promoted,", "diverged", "validation", "50.00"} <= {*words}
    assert "12345 of 60000 iterations" in " ".join(words)
    assert "…" not in "".join(words)


def test_lines_are_few() -> None:
    on = console(terminal=False)
    progress = Progress(PLAN, METRIC)
    with watching(on) as lines:
        assert isinstance(lines, Lines)
        for number in range(9):
            lines.job(Job(number, 2, 0, 3), progress)
            lines.iteration(progress)
        progress.update(ROWS, 27)
        lines.job(Job(0, 2, 3, 9), progress)
        # Jobs of several rungs take turns where there are several workers: one line for each rung all the same.
        lines.job(Job(9, 1, 0, 9), progress)
        lines.job(Job(1, 2, 3, 9), progress)
        lines.failure(Job(1, 2, 3, 9), "RuntimeError: no", True)
        progress.begin(Final(0, 7, 27), ROWS)
        lines.job(Final(0, 7, 27), progress)
        lines.failure(Final(0, 7, 27), "RuntimeError: no", False)
    first, second, other, failed, final, again = shown(on).splitlines()
    assert other.startswith("bracket 1, rung of 9 iterations: ")
    assert failed == "trial 1, on its way to 9, failed (RuntimeError: no): given up"
    assert again == "the final training of trial 7 failed (RuntimeError: no): tried again"
    assert (
        first
        == "bracket 2, rung of 3 iterations: trials 0 of 17; 0 training, 0 waiting, 0 promoted, 0 dropped, 0 diverged"
    )
    assert second.endswith("0 training, 3 waiting, 3 promoted, 5 dropped, 1 diverged; best validation error 50.00 %")
    assert final.startswith("final training of trial 7: trials 9 of 17; 1 training, 3 waiting, 3 promoted, ")


def test_another_metric_and_unit() -> None:
    on = console(terminal=False)
    progress = Progress(PLAN, Metric("accuracy", "maximize"), "epoch")
    rows = [TrialRow(0, 2, {}, {3: -0.875}), TrialRow(1, 2, {}, {3: -0.5})]
    progress.update(rows, 27)
    Lines(on.print).job(Job(2, 2, 0, 3), progress)
    assert shown(on).startswith("bracket 2, rung of 3 epochs: ")
    assert shown(on).endswith("; best accuracy 0.875\n")


def test_progress_of_several_jobs() -> None:
    progress = Progress(PLAN, METRIC)
    progress.update(ROWS, 27)
    whole = progress.iterations_left
    first, second = Job(0, 2, 3, 9), Job(1, 2, 3, 9)
    progress.begin(first, ROWS)
    progress.begin(second, ROWS)
    assert (progress.running, progress.iterations_left) == ({first: 3, second: 3}, whole)
    # The first is gone on with from a checkpoint; neither tells of each iteration.
    progress.iteration(first, 6)
    progress.iteration(second, 4)
    progress.iteration(second, 8)
    assert (progress.running, progress.iterations_left) == ({first: 6, second: 8}, whole - 3 - 5)
    assert progress.iterations_per_second > 0
    # A job that ended early, because it diverged, leaves nothing to do; one that is tried again all that it had.
    progress.end(second)
    assert (progress.running, progress.iterations_left) == ({first: 6}, whole - 3 - 6)
    progress.retry(first)
    assert (progress.running, progress.iterations_left, progress.retried) == ({}, whole - 6, 1)


def test_progress_of_one_training() -> None:
    for terminal, words in ((True, "20 of 20 iterations"), (False, "iteration 20 of 20")):
        on = console(terminal)
        with training_progress(on, 20) as moved:
            for done in range(1, 21):
                moved(done)
        assert words in shown(on)
    assert len(shown(on).splitlines()) == 10
