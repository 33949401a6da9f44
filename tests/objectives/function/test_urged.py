"""A second Ctrl-C that a library swallows: what it left half done is no result, and is not kept."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stantune.objectives.function import course
from stantune.objectives.function.run import Run
from stantune.parameters import Float
from stantune.search.results.result import SearchResult
from stantune.search.stopping import stoppable
from stantune.space import Space
from stantune.tuning.tune import tune

# How many epochs are trained before somebody presses Ctrl-C twice; one entry, none where nobody does.
PATIENCE: list[int] = []


def pressed() -> None:
    """Press Ctrl-C twice when it is time."""
    if PATIENCE:
        PATIENCE[0] -= 1
    if PATIENCE == [0]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def partial_fit(weights: torch.Tensor) -> bool:
    """Train an epoch as some libraries do, which return at Ctrl-C as if they had trained it; tell the truth."""
    weights += torch.rand(())
    try:
        pressed()
    except KeyboardInterrupt:
        return False
    weights += torch.rand(())
    return True


def without_steps(run: Run) -> float:
    weights = torch.zeros(())
    run.keep(weights=weights)
    for _ in range(run.start, run.stop):
        if not partial_fit(weights):
            break
    return float(weights) * run.params["x"]


def with_steps(run: Run) -> float:
    weights = torch.zeros(())
    run.keep(weights=weights)
    for _ in run.steps():
        partial_fit(weights)
        run.report(float(weights) * run.params["x"])
    return float(weights) * run.params["x"]


def leaving(run: Run) -> float:
    weights = torch.zeros(())
    run.keep(weights=weights)
    for _ in run.steps():
        if not partial_fit(weights):
            break
    return float(weights) * run.params["x"]


def evaluating(run: Run) -> float:
    weights = torch.zeros(())
    run.keep(weights=weights)
    for _ in run.steps():
        weights += torch.rand(())
    return run.params["x"] if partial_fit(torch.zeros(())) else -1.0


def found(train: Callable[[Run], float], out: Path) -> SearchResult:
    space = Space({"x": Float(0, 1)})
    with stoppable() as stop:
        # As a study does, which has one for all of its searches.
        return tune(train, space, max_resource=9, brackets=1, minimize="loss", out=out, threads=1, stop=stop)


@pytest.mark.parametrize(
    ("train", "saves"),
    [(without_steps, 60.0), (with_steps, 0.0), (with_steps, 60.0), (leaving, 0.0), (evaluating, 60.0)],
)
def test_what_is_swallowed_is_no_result(
    train: Callable[[Run], float], saves: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "SAVE_SECONDS", saves)
    expected = found(train, tmp_path / "whole")
    # In rungs, in the final training, and in its last epoch: there are 14 evaluations, and 30 epochs.
    for epochs in (2, 11, 14) if train is evaluating else (2, 14, 23, 30):
        out = tmp_path / str(epochs)
        monkeypatch.setattr(f"{__name__}.PATIENCE", [epochs])
        with pytest.raises(KeyboardInterrupt):
            found(train, out)
        PATIENCE.clear()
        result = found(train, out)
        assert result.trials() == expected.trials()
        assert result.final is not None
        assert expected.final is not None
        assert (result.final.metrics, result.final.curve) == (expected.final.metrics, expected.final.curve)
        for name in ("final.pt", "best.pt") if train is with_steps else ("final.pt",):
            kept = [torch.load(path / name, weights_only=True)["state"]["kept"] for path in (out, tmp_path / "whole")]
            assert kept[0] == kept[1]
