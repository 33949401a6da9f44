"""Metrics beside a table's own columns: by what names, and none is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from stantune.objectives.function.run import Run
from stantune.parameters import Float
from stantune.search.results.columns import metric_columns
from stantune.space import Space
from stantune.tuning.tune import tune


def test_a_metric_s_column_is_its_name_where_no_other_has_it() -> None:
    assert metric_columns(["error", "loss", "error"], ["trial"]) == {"error": "error", "loss": "loss"}
    assert metric_columns(["trial", "metric_trial", "loss"], ["trial", "metric_metric_trial"]) == {
        "trial": "metric_metric_metric_trial",
        "metric_trial": "metric_trial",
        "loss": "loss",
    }


def train(run: Run) -> dict[str, float]:
    for _ in run.steps():
        pass
    return {"status": run.params["x"], "trial": 7.0, "params_x": 8.0, "other": 9.0}


def test_a_result_s_table_loses_no_metric(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    result = tune(train, Space({"x": Float(0, 1)}), max_resource=1, minimize="status", brackets=1, out=tmp_path)
    first, trial = result.table().to_dict("records")[0], result.trials()[0]
    assert first == {
        **{"trial": 0, "status": trial.status, "resource": 1, "params_x": trial.params["x"]},
        **{"metric_status": trial.value, "metric_trial": 7.0, "metric_params_x": 8.0, "other": 9.0},
    }
