"""The weights of a final training's best evaluation: announced, there, and trained again where they are not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stantune.images.problem.problem import Problem
from stantune.search.results.contract import SearchSummary

Stantune = Callable[..., Any]
AsWhole = Callable[[dict[str, Any]], None]


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the network be good at what it is up to iteration 20, and wrong in everything afterwards."""
    real = Problem.evaluate

    def evaluate(problem: Problem, model: nn.Module, splits: Any, split: str, device: str) -> dict[str, float]:
        done = int(model.get_buffer("0.iteration"))
        return {f"{split} error": 100.0} if done > 20 else real(problem, model, splits, split, device)

    monkeypatch.setattr(Problem, "evaluate", evaluate)


def test_each_finalist_has_its_best_weights(
    stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path, spoiled: None
) -> None:
    ended = stantune("search", *tiny, "--finalists", 2, "--out", tmp_path, "--json", "-")
    result = SearchSummary.model_validate_json(ended.out)
    assert [final.value for final in result.finalists] == [100.0, 100.0]
    for final, name in zip(result.finalists, ("best.pt", "best-2.pt"), strict=True):
        best = final.best
        assert best is not None
        assert (best.weights, best.iterations <= 20, best.value < 100) == (name, True, True)
        # What was measured in the end is measured of these weights, too.
        assert best.metrics.keys() == final.metrics.keys() == {"validation error", "test error"}
        state = torch.load(tmp_path / name, weights_only=True)["state"]
        assert (state["iteration"], int(state["model"]["0.iteration"])) == (best.iterations, best.iterations)
    best = result.final and result.final.best
    assert best is not None
    assert (
        f"  its best evaluation, after {best.iterations} iterations: validation error {best.value:.2f} %, test error "
        f"{best.metrics['test error']:.2f} %; weights in {tmp_path / 'best.pt'}"
    ) in ended.err.splitlines()


def test_nothing_more_is_said_where_the_end_is_the_best(whole: Any, stantune: Stantune) -> None:
    final = SearchSummary.model_validate(whole.run.json).final
    assert final is not None
    assert final.best is not None
    assert (final.best.iterations, final.best.value, final.best.weights) == (final.iterations, final.value, "best.pt")
    assert "its best evaluation" not in whole.run.err


@pytest.mark.parametrize("name", ["best.pt", "final.pt"])
@pytest.mark.parametrize("harm", ["gone", "altered"])
def test_weights_that_are_gone_or_altered_after_the_end_are_trained_again(
    name: str, harm: str, whole: Any, stantune: Stantune, tiny: tuple[str, ...], as_whole: AsWhole, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.directory, copy)
    content = (copy / name).read_bytes()
    if harm == "gone":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content[:-200] + bytes(200))
    again = stantune("search", *tiny, "--out", copy, "--json", "-")
    as_whole(again.json)
    assert sum(line.startswith("final training of trial") for line in again.err.splitlines()) == 1
    weights = [torch.load(place / name, weights_only=True)["state"]["model"] for place in (copy, whole.directory)]
    assert all(torch.equal(weights[0][part], weights[1][part]) for part in weights[1])
    # What was altered may be somebody else's.
    assert (copy / f"{name}.aside").exists() == (harm == "altered")


def test_fresh_deletes_them_with_the_rest(
    whole: Any, stantune: Stantune, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.directory, copy)
    (copy / "best_model.pt").write_bytes(b"mine")
    (copy / "best.pt.aside").write_bytes(b"damaged")
    assert stantune("search", *tiny, "--out", copy, "--fresh", "--yes", "--budget", 0).code == 0
    assert {path.name for path in copy.iterdir() if path.suffix in (".pt", ".aside")} == {"best_model.pt"}
