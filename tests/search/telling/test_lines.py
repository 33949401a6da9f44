"""The lines that a search says where there is no terminal."""

from __future__ import annotations

import pytest

from stantune.protocols import Metric
from stantune.search.plan.hyperband import Bracket, Rung
from stantune.search.plan.values import Job, TrialRow
from stantune.search.telling import lines as module
from stantune.search.telling.lines import LINE_SECONDS, Lines
from stantune.search.telling.progress import Progress

PLAN = (Bracket(1, (Rung(10, 3), Rung(30, 1))),)
ROWS = [TrialRow(0, 1, {}), TrialRow(1, 1, {})]


def test_nothing_is_silent_for_longer_than_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said, warned = [1000.0], [], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress, lines = Progress(PLAN, Metric("error"), "epoch"), Lines(said.append, warned.append)
    jobs = [Job(0, 1, 0, 10), Job(1, 1, 0, 10)]
    for job in jobs:
        progress.begin(job, ROWS)
        lines.job(job, progress)
    assert len(said) == 1, "one for the rung"
    progress.iteration(jobs[0], 4)
    lines.iteration(progress)
    assert len(said) == 1
    for minute in range(1, 4):
        now[0] += LINE_SECONDS
        for _ in range(5):
            lines.iteration(progress)
        assert len(said) == 1 + minute
    assert said[-1].startswith("trial 0, epoch 4 of 10, and 1 more: trials 2 of 3; 2 training, 0 waiting")
    lines.failure(jobs[0], "it was killed", True)
    assert (len(said), warned) == (4, ["trial 0, on its way to 10, failed (it was killed): given up"])


def test_a_second_bracket_with_the_same_rungs_is_said_as_well() -> None:
    said: list[str] = []
    progress, lines = Progress((*PLAN, *PLAN), Metric("error"), "epoch"), Lines(said.append)
    for number in (0, 1, 3, 4):
        progress.begin(Job(number, 1, 0, 10), ROWS)
        lines.job(Job(number, 1, 0, 10), progress)
    assert [line.partition(",")[0] for line in said] == ["bracket 1", "bracket 1 (2)"]
