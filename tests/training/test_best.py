"""The weights of a training's best evaluation are kept, and looking on the way changes nothing of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from states import equal, what_counts
from torch import Tensor, nn

import stantune.images.solving.losses
import stantune.training.train
from stantune.errors import CheckpointError, DamagedCheckpointError
from stantune.images.problem.built_in import Problem
from stantune.protocols import Metric
from stantune.training.best import Best

ALL = 30
BOTH = ("validation", "test")


@pytest.fixture
def best(tmp_path: Path) -> Best:
    return Best(tmp_path / "best.pt", (6, 18), Metric("validation error", unit="%"))


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """What evaluations come to, in their order; whatever is not said here is measured."""
    script: dict[str, list[float]] = {}
    real = Problem.evaluate

    def evaluate(problem: Problem, model: nn.Module, splits: Any, split: str, device: str) -> dict[str, float]:
        found = real(problem, model, splits, split, device)
        return {f"{split} error": script[split].pop(0)} if script.get(split) else found

    monkeypatch.setattr(Problem, "evaluate", evaluate)
    return script


@pytest.mark.parametrize("name", ["mlp", "lenet-stan", "alexbn"])
def test_looking_on_the_way_leaves_the_weights_what_they_are(
    name: str, tmp_path: Path, trainer: Any, cases: Mapping[str, Any]
) -> None:
    case = cases[name]
    train, last = trainer(case), case.stops[-1]
    best = Best(tmp_path / "best.pt", case.stops[:-1], Metric("validation error"))
    unseen = train(tmp_path / "unseen.pt", 0, last)
    seen = train(tmp_path / "seen.pt", 0, last, best=best)
    state = what_counts(tmp_path / "seen.pt")
    assert list(state.pop("curve")) == list(case.stops[:-1])
    assert state.pop("inputs")["shape"] == ((32, 32, 3) if case.name == "alexbn" else (28, 28, 1))
    assert equal(state, what_counts(tmp_path / "unseen.pt"))
    assert (seen.metrics, unseen.curve) == (unseen.metrics, {})


def test_what_is_measured_on_the_way_is_what_a_rung_would_measure(quick: Any, tmp_path: Path, best: Best) -> None:
    rungs, start = {}, 0
    for stop in (6, 18, ALL):
        rungs[stop] = dict(quick(tmp_path / "trial.pt", start, stop).metrics)
        start = stop
    assert quick(tmp_path / "final.pt", 0, ALL, best=best).curve == rungs


def test_the_best_weights_are_kept_beside_the_last_ones(
    quick: Any, tmp_path: Path, best: Best, errors: dict[str, list[float]]
) -> None:
    quick(tmp_path / "trial.pt", 0, 18)
    errors["validation"] = [50.0, 10.0, 30.0]
    errors["test"] = [31.0, 11.0]
    outcome = quick(tmp_path / "final.pt", 0, ALL, best=best, evaluate=BOTH)
    assert outcome.metrics == {"validation error": 30.0, "test error": 31.0}
    assert outcome.curve == {
        6: {"validation error": 50.0},
        18: {"validation error": 10.0, "test error": 11.0},
        ALL: {"validation error": 30.0, "test error": 31.0},
    }
    kept = what_counts(best.path)
    assert equal(kept["model"], what_counts(tmp_path / "trial.pt")["model"])
    assert kept["iteration"] == 18
    assert what_counts(tmp_path / "final.pt")["iteration"] == ALL


def test_of_equal_evaluations_the_last_is_the_best(
    quick: Any, tmp_path: Path, best: Best, errors: dict[str, list[float]]
) -> None:
    errors["validation"] = [10.0, 10.0, 10.0]
    quick(tmp_path / "final.pt", 0, ALL, best=best)
    assert equal(what_counts(best.path)["model"], what_counts(tmp_path / "final.pt")["model"])


def test_where_no_evaluation_has_a_value_no_weights_are_the_best(
    quick: Any, tmp_path: Path, best: Best, errors: dict[str, list[float]]
) -> None:
    errors["validation"] = [math.nan, math.inf, math.nan]
    quick(tmp_path / "final.pt", 0, ALL, best=best)
    assert not best.path.exists()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("cut", [1, 5, 6, 7, 17, 18, 19, 29])
def test_a_training_that_was_cut_ends_with_the_same_weights_and_curve(
    cut: int, quick: Any, tmp_path: Path, best: Best
) -> None:
    reference = quick(tmp_path / "whole.pt", 0, ALL, best=best)
    weights = what_counts(best.path)
    best.path.unlink()
    path, seen = tmp_path / "cut.pt", list[int]()
    first = quick(path, 0, ALL, best=best, watch=seen.append, stop_early=lambda: len(seen) >= cut)
    assert first.interrupted
    assert first.iterations == cut
    outcome = quick(path, 0, ALL, best=best, watch=seen.append)
    assert seen == list(range(1, ALL + 1))
    assert (outcome, what_counts(best.path).keys()) == (reference, weights.keys())
    assert equal(what_counts(best.path), weights)
    assert equal(what_counts(path), what_counts(tmp_path / "whole.pt"))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("call", range(1, 7))
def test_killed_at_any_write_it_ends_the_same(
    call: int, quick: Any, tmp_path: Path, best: Best, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = quick(tmp_path / "whole.pt", 0, ALL, best=best)
    weights = what_counts(best.path)
    best.path.unlink()
    real, calls = stantune.training.train.checkpoints.save, 0

    def save(path: Path, identity: str, state: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        real(path, identity, state)

    with monkeypatch.context() as patched:
        patched.setattr(stantune.training.train.checkpoints, "save", save)
        try:
            quick(tmp_path / "cut.pt", 0, ALL, best=best)
        except KeyboardInterrupt:
            pass
        else:
            # So many writes there are not.
            assert calls < call
    assert quick(tmp_path / "cut.pt", 0, ALL, best=best) == reference
    assert equal(what_counts(best.path), weights)


def test_best_weights_that_are_gone_are_trained_again(quick: Any, tmp_path: Path, best: Best) -> None:
    path, seen = tmp_path / "final.pt", list[int]()
    reference = quick(path, 0, ALL, best=best)
    weights = what_counts(best.path)
    best.path.unlink()
    assert quick(path, 0, ALL, best=best, watch=seen.append) == reference
    assert seen == list(range(1, ALL + 1))
    assert equal(what_counts(best.path), weights)


@pytest.mark.parametrize("again", [30.0, 5.0])
def test_after_a_kill_the_best_weights_are_those_that_are_told_of(
    again: float, quick: Any, tmp_path: Path, best: Best, errors: dict[str, list[float]]
) -> None:
    """They are newer than the checkpoint, and what is trained again differs, as on another machine."""
    path, seen = tmp_path / "final.pt", list[int]()
    errors["validation"] = [20.0]
    assert quick(path, 0, ALL, best=best, watch=seen.append, stop_early=lambda: len(seen) >= 10).interrupted
    earlier = path.read_bytes()
    errors["validation"] = [10.0, 30.0]
    quick(path, 0, ALL, best=best)
    path.write_bytes(earlier)
    # Of the end; at 18 the file has it.
    errors["validation"] = [again]
    errors["test"] = [99.0, 11.0]
    outcome = quick(path, 0, ALL, best=best, evaluate=BOTH)
    values = {at: measured["validation error"] for at, measured in outcome.curve.items()}
    assert values == {6: 20.0, 18: 10.0, ALL: again}
    assert what_counts(best.path)["iteration"] == best.at(outcome.curve)
    assert outcome.curve[18].get("test error") == (11.0 if again > 10 else None)


def test_best_weights_of_another_iteration_are_trained_again(
    quick: Any, tmp_path: Path, best: Best, errors: dict[str, list[float]]
) -> None:
    path, seen = tmp_path / "final.pt", list[int]()
    errors["validation"] = [20.0]
    assert quick(path, 0, ALL, best=best, watch=seen.append, stop_early=lambda: len(seen) >= 10).interrupted
    earlier = best.path.read_bytes()
    errors["validation"] = [10.0, 30.0]
    quick(path, 0, ALL, best=best)
    best.path.write_bytes(earlier)
    seen.clear()
    errors["validation"] = [20.0, 10.0, 30.0]
    outcome = quick(path, 0, ALL, best=best, watch=seen.append)
    assert (len(seen), what_counts(best.path)["iteration"], best.at(outcome.curve)) == (ALL, 18, 18)


def test_weights_that_are_no_longer_the_best_at_the_end_are_no_result(
    quick: Any, tmp_path: Path, best: Best, errors: dict[str, list[float]]
) -> None:
    path = tmp_path / "final.pt"
    errors["validation"] = [20.0, 10.0, 9.0]
    quick(path, 0, ALL, best=best)
    # Measured once more, the end is no longer the best, and the weights of what is are gone.
    errors["validation"] = [11.0]
    with pytest.raises(DamagedCheckpointError, match=r"best\.pt was deleted or exchanged"):
        quick(path, 0, ALL, best=best)


def test_best_weights_that_are_altered_or_anothers_are_refused(quick: Any, tmp_path: Path, best: Best) -> None:
    quick(tmp_path / "final.pt", 0, ALL, best=best)
    content = best.path.read_bytes()
    with pytest.raises(CheckpointError, match=r"best\.pt is another trial's"):
        quick(tmp_path / "other.pt", 0, ALL, best=best, seed=4)
    assert best.path.read_bytes() == content
    best.path.write_bytes(content[:-100])
    with pytest.raises(DamagedCheckpointError, match=r"best\.pt is cut short"):
        quick(tmp_path / "final.pt", 0, ALL, best=best)


def test_what_diverges_keeps_what_it_was_before(
    quick: Any, tmp_path: Path, best: Best, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = nn.functional.cross_entropy, 0

    def loss(*given: Any, **named: Any) -> Tensor:
        nonlocal calls
        found: Tensor = real(*given, **named)
        if found.requires_grad:
            calls += 1
        return found * (math.nan if calls > 20 else 1.0)

    monkeypatch.setattr(stantune.images.solving.losses.F, "cross_entropy", loss)
    outcome = quick(tmp_path / "final.pt", 0, ALL, best=best)
    assert (outcome.diverged_at, outcome.metrics, list(outcome.curve)) == (20, {}, [6, 18])
    assert what_counts(best.path)["iteration"] == best.at(outcome.curve)


def test_the_file_is_one_that_torch_reads(quick: Any, tmp_path: Path, best: Best) -> None:
    quick(tmp_path / "final.pt", 0, ALL, best=best)
    saved: Mapping[str, Any] = torch.load(best.path, weights_only=True)
    assert set(saved) == {"version", "identity", "state"}
    assert all(isinstance(weights, Tensor) for weights in saved["state"]["model"].values())


def test_evaluations_that_are_no_numbers_cost_no_training(
    quick: Any, tmp_path: Path, best: Best, errors: dict[str, list[float]]
) -> None:
    """None of them is the best, and there are no weights that were lost."""
    errors["validation"] = [math.inf, 7.0]
    asked = iter([False] * 10 + [True] * 99)
    cut = quick(tmp_path / "final.pt", 0, ALL, best=best, stop_early=lambda: next(asked))
    assert (cut.interrupted, best.path.exists()) == (True, False)
    assert 6 < cut.iterations < 18
    begun: list[int] = []
    whole = quick(tmp_path / "final.pt", 0, ALL, best=best, watch=begun.append)
    assert begun[0] == cut.iterations + 1
    assert (list(whole.curve), best.path.exists()) == ([6, 18, ALL], True)
