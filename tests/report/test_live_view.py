"""What is shown while a search runs, on a terminal and elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from stantune.report.live import Lines, LiveView, training_progress, watching
from stantune.search.coordinator import Job, TrialRow
from stantune.search.hyperband import plan
from stantune.search.progress import Progress

PLAN = plan(27, 3, 3)
# All of bracket 2's first rung: trial 4 diverged, trials 0 to 2 are promoted.
ROWS = [
    TrialRow(number, 2, {"lr": 0.1}, {} if number == 4 else {3: 50.0 + number}, 2 if number == 4 else None)
    for number in range(9)
]


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, legacy_windows=False)


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_live_view_fits_and_tells_all() -> None:
    on = console(terminal=True)
    progress = Progress(PLAN, 27)
    progress.update(ROWS)
    with watching(on) as view:
        assert isinstance(view, LiveView)
        progress.begin(Job(0, 2, 3, 9), ROWS)
        progress.iteration(4)
        view.job(Job(0, 2, 3, 9), progress)
    text = shown(on)
    assert "s = 2" in text
    assert "0, iteration 4 of 9" in text
    assert "9 of 17; 3 running, 3 promoted, 5 dropped, 1 diverged" in text
    assert "50.00 %" in text
    assert text.endswith("\x1b[2K"), "it is wiped away at the end"


def test_lines_are_few() -> None:
    on = console(terminal=False)
    progress = Progress(PLAN, 27)
    with watching(on) as lines:
        assert isinstance(lines, Lines)
        for number in range(9):
            lines.job(Job(number, 2, 0, 3), progress)
            lines.iteration(progress)
        progress.update(ROWS)
        lines.job(Job(0, 2, 3, 9), progress)
        lines.job(None, progress)
    first, second, final = shown(on).splitlines()
    assert first == "bracket 2, rung of 3 iterations: trials 0 of 17; 0 running, 0 promoted, 0 dropped, 0 diverged"
    assert second.endswith("3 running, 3 promoted, 5 dropped, 1 diverged; best error 50.00 %")
    assert final.startswith("final training: ")


def test_progress_of_one_training() -> None:
    for terminal, words in ((True, "20 of 20 iterations"), (False, "iteration 20 of 20")):
        on = console(terminal)
        with training_progress(on, 20) as moved:
            for done in range(1, 21):
                moved(done)
        assert words in shown(on)
    assert len(shown(on).splitlines()) == 10
