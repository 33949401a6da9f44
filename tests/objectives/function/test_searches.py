"""Whole searches of functions: one result however many workers, however often it is cut; and the example."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from stantune.errors import StanWarning
from stantune.objectives.choose import find_objective
from stantune.objectives.function.run import Run
from stantune.parameters import Float, Integer
from stantune.search.results.result import SearchResult
from stantune.search.stopping import Stop
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.testing import check_objective
from stantune.tuning.tune import tune

pytest.importorskip("sklearn")
EXAMPLE = Path(__file__).parents[3] / "examples" / "table.py"
SPACE = Space({"lr": Float(1e-3, 100, log=True), "width": Integer(2, 8)})


def train(run: Run) -> dict[str, float]:
    """Fit a plane; high learning rates diverge."""
    x = torch.randn(64, 5)
    y = x.sum(1, keepdim=True)
    model = nn.Sequential(nn.Linear(5, run.params["width"]), nn.ReLU(), nn.Linear(run.params["width"], 1))
    optimizer = torch.optim.SGD(model.parameters(), run.params["lr"])
    run.keep(model=model, optimizer=optimizer)
    for _ in run.steps():
        for rows in torch.randperm(64).split(16):
            loss = ((model(x[rows]) - y[rows]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.loss(loss)
    with torch.no_grad():
        return {"loss": ((model(x) - y) ** 2).mean().item(), "width": run.params["width"]}


def found(out: Path, workers: int = 1, stop: Stop | None = None) -> SearchResult:
    return tune(train, SPACE, max_resource=9, minimize="loss", out=out, workers=workers, threads=1, stop=stop)


def what_counts(result: SearchResult) -> object:
    """Return what must not depend on how a search was run."""
    summary = result.summary.model_dump(exclude={"seconds", "saved"})
    return summary


def test_one_seed_has_one_result(tmp_path: Path) -> None:
    expected = found(tmp_path / "one")
    assert expected.summary.complete
    assert expected.summary.counts.diverged > 3
    assert expected.summary.counts.failed == 0
    assert expected.summary.final is not None
    assert torch.load(tmp_path / "one" / "final.pt", weights_only=True)["state"]["kept"].keys() == {
        "model",
        "optimizer",
    }
    assert what_counts(found(tmp_path / "two", workers=2)) == what_counts(expected)
    asked = [0]

    class Now(Stop):
        def asked(self) -> bool:
            asked[0] += 1
            return asked[0] % 40 == 0

    for _ in range(100):
        result = found(tmp_path / "cut", stop=Now(None))
        if result.summary.complete:
            break
    assert what_counts(result) == what_counts(expected)
    assert asked[0] > 40


def test_rates_are_for_what_is_accelerated(tmp_path: Path) -> None:
    def convolved(run: Run) -> float:
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 1))
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        run.keep(model=model, optimizer=optimizer)
        stan = run.accelerate(model)
        for _ in run.steps():
            model(torch.randn(2, 1, 8, 8)).sum().backward()
            optimizer.step()
        return float(stan.handle.rate)

    result = tune(
        convolved,
        Space({"x": Float(0, 1)}),
        max_resource=9,
        minimize="rate",
        out=tmp_path,
        stan=Stan(),
        rates="auto",
        threads=1,
    )
    assert result.summary.final is not None
    assert result.summary.final.value == 1.0
    assert result.summary.accelerate == "stan"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_warning_is_shown_once_for_all_workers(tmp_path: Path, workers: int) -> None:
    def forgets(run: Run) -> float:
        (tmp_path / f"process {os.getpid()}").touch()
        for _ in run.steps():
            time.sleep(0.02)
        return float(run.params["x"])

    options = {"max_resource": 9, "minimize": "x", "stan": Stan(), "threads": 1, "out": tmp_path / "out"}
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        tune(forgets, Space({"x": Float(0, 1)}), workers=workers, **options)
    assert len(list(tmp_path.glob("process *"))) == workers
    said = sorted(str(each.message) for each in shown if each.category is StanWarning)
    assert [sentence.split(",")[0] for sentence in said] == [
        "forgets did not call run.accelerate",
        "forgets keeps nothing",
    ]


def test_the_example_is_an_objective_that_does_all_that_is_asked() -> None:
    setting = {"lr": 0.01, "weight_decay": 0.01, "batch": 64, "width": 16, "layers": 2, "dropout": 0.2}
    check_objective(find_objective(str(EXAMPLE)), setting)


def test_the_examples_search_finds_good_settings(tmp_path: Path) -> None:
    begun = time.monotonic()
    result = tune(find_objective(str(EXAMPLE)), max_resource=9, workers=2, out=tmp_path, seed=0)
    assert time.monotonic() - begun < 120
    final = result.summary.final
    assert final is not None
    assert final.value is not None
    assert final.value > 0.9
    assert final.metrics["test f1"] > 0.85
    assert result.summary.metric.direction == "maximize"
