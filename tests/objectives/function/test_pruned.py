"""Code that was written for Optuna gives a trial up by raising TrialPruned: it is lost there, and not tried again."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from stantune.objectives.function.run import Run
from stantune.parameters import Integer
from stantune.space import Space
from stantune.tuning.tune import tune


def train(run: Run) -> float:
    values = [0.0]
    run.keep(values=values)
    for epoch in run.steps():
        if run.params["x"] < 3 and epoch == 1:
            raise optuna.TrialPruned
        values[0] += 1
    return float(run.params["x"])


@pytest.mark.parametrize("workers", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_trial_that_is_given_up_is_lost_there(tmp_path: Path, workers: int | None) -> None:
    result = tune(
        train,
        Space({"x": Integer(0, 4)}),
        max_resource=3,
        minimize="loss",
        enqueue=[{"x": x} for x in range(5)],
        workers=workers,
        out=tmp_path,
    )
    trials = [(trial.status, trial.resource, trial.value) for trial in result.trials()]
    # The best of the first three goes on from one epoch, and gives up in the next; two more have three at once.
    assert trials == [
        ("diverged", 1, None),
        ("dropped", 1, 1.0),
        ("dropped", 1, 2.0),
        ("finished", 3, 3.0),
        ("finished", 3, 4.0),
    ]
    assert (result.summary.counts.failed, result.summary.counts.retries) == (0, 0)
    assert result.best is not None
    assert result.best.number == 3
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/search.db")
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED


def test_all_that_are_given_up_leave_nothing_found(tmp_path: Path) -> None:
    result = tune(train, Space({"x": Integer(0, 2)}), max_resource=3, min_resource=3, minimize="loss", out=tmp_path)
    assert result.complete
    assert result.found_nothing
    assert result.final is None
    assert any("nothing was found, since every trial diverged" in note for note in result.summary.notes)
    assert "note: nothing was found" in str(result)
