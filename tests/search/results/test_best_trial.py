"""Which trial is best, and what it is worth: said alike by the result, its JSON, Optuna's study and whoever watches."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from stantune.objectives.function.run import Run
from stantune.parameters import Integer
from stantune.search.plan.values import Training
from stantune.search.results.result import SearchResult
from stantune.search.telling.progress import Progress
from stantune.search.telling.watching import Silent, Watcher
from stantune.space import Space
from stantune.tuning.tune import tune

# By setting: what it is worth after how many epochs. Three settings are begun with one epoch, the best of them goes on
# to three; two more are trained for three at once.
SPOILED = {0: {1: 0.0, 3: 100.0}, 1: {1: 30.0}, 2: {1: 40.0}, 3: {3: 60.0}, 4: {3: 70.0}}


class Last(Silent):
    """Remembers what the live view showed as the last training began."""

    value: float | None = None

    def job(self, job: Training, progress: Progress) -> None:
        self.value = progress.best


def searched(
    out: Path, values: Mapping[int, Mapping[int, float]], maximize: bool = False
) -> tuple[SearchResult, optuna.Study, float | None]:
    """Search settings with these values; return the result, Optuna's study, and what was shown in the end."""

    def train(run: Run) -> dict[str, float]:
        found = values[run.params["x"]][run.stop]
        if found == math.inf:
            raise RuntimeError("no such thing")
        return {"error": found, "epochs": run.stop}

    @contextmanager
    def watching() -> Iterator[Watcher]:
        yield last

    last = Last()
    result = tune(
        train,
        Space({"x": Integer(0, 4)}),
        max_resource=3,
        **({"maximize": "error"} if maximize else {"minimize": "error"}),
        enqueue=[{"x": x} for x in values],
        retries=0,
        out=out,
        watching=watching,
    )
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{out}/search.db")
    return result, study, last.value


def said_alike(out: Path, result: SearchResult, study: optuna.Study, shown: float | None) -> tuple[int, float, int]:
    """Return number, value and epochs of the best trial, of which all must say the same."""
    best, summary = result.best, json.loads((out / "result.json").read_text())
    assert best is not None
    assert best.value is not None
    assert best.metrics == {"error": best.value, "epochs": best.resource}
    assert summary == result.summary.model_dump(mode="json")
    assert (study.best_trial.number, study.best_value) == (best.number, best.value)
    assert study.best_trial.last_step == best.resource
    assert (summary["best"]["value"], summary["best"]["iterations"]) == (best.value, best.resource)
    assert summary["leaders"][0]["trial"] == summary["final"]["trial"] == best.number
    assert summary["best"]["metrics"] == summary["leaders"][0]["metrics"] == best.metrics
    assert shown == best.value
    return best.number, best.value, best.resource


def test_a_setting_that_was_good_and_is_spoiled_is_not_the_best(tmp_path: Path) -> None:
    result, study, shown = searched(tmp_path, SPOILED)
    assert said_alike(tmp_path, result, study, shown) == (3, 60.0, 3)
    leaders = [(leader.trial, leader.value, leader.iterations) for leader in result.summary.leaders]
    assert leaders == [(3, 60.0, 3), (1, 30.0, 1), (2, 40.0, 1), (4, 70.0, 3), (0, 100.0, 3)]
    # In Optuna's table each value is where it was measured, and a trial's is that of the most epochs.
    assert study.trials[0].intermediate_values == {1: 0.0, 3: 100.0}
    assert study.trials[0].value == 100.0
    assert result.trials()[0].curve == {1: 0.0, 3: 100.0}


def test_it_is_so_where_more_is_better(tmp_path: Path) -> None:
    turned = {x: {at: 100.0 - value for at, value in values.items()} for x, values in SPOILED.items()}
    result, study, shown = searched(tmp_path, turned, maximize=True)
    assert said_alike(tmp_path, result, study, shown) == (3, 40.0, 3)


@pytest.mark.parametrize(("later", "status"), [(math.nan, "diverged"), (math.inf, "failed")])
def test_a_setting_that_is_lost_later_is_not_the_best_either(tmp_path: Path, later: float, status: str) -> None:
    result, study, shown = searched(tmp_path, {**SPOILED, 0: {1: 0.0, 3: later}})
    assert said_alike(tmp_path, result, study, shown) == (3, 60.0, 3)
    lost = result.trials()[0]
    assert (lost.status, lost.value, lost.curve) == (status, None, {1: 0.0})
    assert 0 not in [leader.trial for leader in result.summary.leaders]


def test_before_any_is_trained_to_the_end_the_best_so_far_is_told_by_its_last_value(tmp_path: Path) -> None:
    result, _, shown = searched(tmp_path, {x: {1: 10.0 + x, 3: math.nan} for x in SPOILED})
    # Nobody came to the end.
    assert result.best is not None
    assert (result.best.number, result.best.value, result.best.resource) == (1, 11.0, 1)
    assert shown == 11.0
