"""What a function reports: in a final training the weights of the best report are kept, beside the last ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stantune.errors import StanWarning
from stantune.objectives.function.objective import FunctionObjective
from stantune.objectives.function.run import Run
from stantune.objectives.returned import ReturnError
from stantune.outcome import Outcome
from stantune.parameters import Float
from stantune.protocols import Metric, Place, Segment
from stantune.space import Space
from stantune.tuning.tune import tune

SPACE = Space({"x": Float(0, 1)})


def reporting(worth: Sequence[float], seen: list[int] | None = None) -> Callable[[Run], float]:
    """Return a function whose weights are the number of epochs, each worth something."""

    def train(run: Run) -> float:
        weights = torch.zeros(1)
        run.keep(weights=weights)
        for epoch in run.steps():
            if seen is not None:
                seen.append(epoch)
            weights += 1
            run.report({"loss": torch.tensor(worth[epoch]), "epoch": epoch})
        return worth[run.stop - 1]

    return train


def final(
    where: Path, function: Callable[[Run], object], stop: int = 5, stop_early: Callable[[], bool] = lambda: False
) -> Outcome:
    segment = Segment(0, {"x": 0.5}, 0, stop, 5, where / "final.pt", finalist=0, best=where / "best.pt")
    trainer = FunctionObjective(function, SPACE, Metric("loss"), name="train").trainer(Place(threads=1))
    return trainer.train(segment, stop_early, lambda done: None)


def weights(path: Path) -> tuple[int, float]:
    """Return how far a checkpoint is, and what is kept in it."""
    state: Any = torch.load(path, weights_only=True)["state"]
    return state["done"], state["kept"]["weights"].item()


def test_the_weights_of_the_best_report_are_kept(tmp_path: Path) -> None:
    outcome = final(tmp_path, reporting([5, 2, 4, 2, 3]))
    assert outcome.metrics == {"loss": 3.0}
    assert {at: measured["loss"] for at, measured in outcome.curve.items()} == {1: 5, 2: 2, 3: 4, 4: 2, 5: 3}
    assert outcome.curve[4] == {"loss": 2.0, "epoch": 3.0}
    # Of equal ones the last.
    assert weights(tmp_path / "best.pt") == (4, 4.0)
    assert weights(tmp_path / "final.pt") == (5, 5.0)


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_training_that_was_cut_keeps_the_same(tmp_path: Path, cut: int) -> None:
    seen: list[int] = []
    worth = [5, 2, 4, 1, 3]
    assert final(tmp_path, reporting(worth, seen), stop_early=lambda: len(seen) >= cut).interrupted
    outcome = final(tmp_path, reporting(worth, seen))
    assert seen == [0, 1, 2, 3, 4]
    assert outcome == final(tmp_path / "whole", reporting(worth))
    assert weights(tmp_path / "best.pt") == (4, 4.0)


def test_best_weights_that_are_gone_are_trained_again(tmp_path: Path) -> None:
    seen: list[int] = []
    first = final(tmp_path, reporting([5, 2, 4, 1, 3], seen))
    (tmp_path / "best.pt").unlink()
    assert final(tmp_path, reporting([5, 2, 4, 1, 3], seen)) == first
    assert seen == [*range(5), *range(5)]
    assert weights(tmp_path / "best.pt") == (4, 4.0)


def test_after_a_kill_the_best_weights_are_those_that_are_told_of(tmp_path: Path) -> None:
    """best.pt is newer than the checkpoint, and what is trained again differs, as on another machine."""
    seen: list[int] = []
    for worth, file in (([5, 2, 4, 1.5, 3], (4, 4.0)), ([5, 2, 4, 1, 3], (4, 4.0)), ([5, 2, 4, 3, 0], (5, 5.0))):
        where = tmp_path / str(worth)
        seen.clear()
        assert final(where, reporting([5, 2, 4, 1, 3], seen), stop_early=lambda: len(seen) >= 3).interrupted
        earlier = (where / "final.pt").read_bytes()
        final(where, reporting([5, 2, 4, 1, 3]))
        (where / "final.pt").write_bytes(earlier)
        assert weights(where / "best.pt") == (4, 4.0)
        outcome = final(where, reporting(worth))
        curve = {at: measured["loss"] for at, measured in outcome.curve.items()}
        assert curve == {1: 5, 2: 2, 3: 4, 4: 1, 5: worth[4]}
        assert (min(curve, key=lambda at: curve[at]), weights(where / "best.pt")) == (file[0], file)


def test_best_weights_of_another_point_are_trained_again(tmp_path: Path) -> None:
    seen: list[int] = []
    assert final(tmp_path, reporting([5, 2, 4, 1, 3], seen), stop_early=lambda: len(seen) >= 2).interrupted
    earlier = (tmp_path / "best.pt").read_bytes()
    first = final(tmp_path, reporting([5, 2, 4, 1, 3], seen))
    (tmp_path / "best.pt").write_bytes(earlier)
    assert final(tmp_path, reporting([5, 2, 4, 1, 3], seen)) == first
    assert seen == [*range(5), *range(5)]
    assert weights(tmp_path / "best.pt") == (4, 4.0)


def test_of_two_reports_of_one_epoch_the_better_one_counts(tmp_path: Path) -> None:
    def train(run: Run) -> float:
        kept = torch.zeros(1)
        run.keep(weights=kept)
        for epoch in run.steps():
            for part, loss in enumerate(([5, 3], [1, 4], [2, 2])[epoch]):
                kept.fill_(10 * epoch + part)
                run.report(loss)
        return 9

    assert final(tmp_path, train, 3).curve == {1: {"loss": 3.0}, 2: {"loss": 1.0}, 3: {"loss": 2.0}}
    assert weights(tmp_path / "best.pt") == (2, 10.0)


def test_weights_that_are_put_back_in_the_end_are_those_of_both_files(tmp_path: Path) -> None:
    worth = [5, 2, 4, 1, 3]

    def train(run: Run) -> float:
        kept, best = torch.zeros(1), {"weights": torch.zeros(1)}
        run.keep(weights=kept, best=best)
        for epoch in run.steps():
            kept += 1
            run.report(worth[epoch])
            if worth[epoch] == min(worth[: epoch + 1]):
                best["weights"] = kept.clone()
        kept.copy_(best["weights"])
        return worth[int(kept) - 1]

    first = final(tmp_path, train)
    assert first.metrics == {"loss": 1.0}
    for _ in range(2):
        # Of equal ones the last: what the end was worth.
        assert weights(tmp_path / "best.pt") == weights(tmp_path / "final.pt") == (5, 4.0)
        assert final(tmp_path, train) == first


@pytest.mark.parametrize(
    ("worth", "returned", "best"),
    [
        # It was reported, and is returned once more.
        ([5, 2, 4, 3, 1], 1, (5, 5.0)),
        # It is better than all that was reported, and of weights that are gone.
        ([5, 2, 4, 1, 3], 0, (4, 4.0)),
    ],
)
def test_weights_that_are_given_up_in_the_end_are_never_the_best(
    tmp_path: Path, worth: list[int], returned: int, best: tuple[int, float]
) -> None:
    def train(run: Run) -> float:
        kept = torch.zeros(1)
        run.keep(weights=kept)
        for epoch in run.steps():
            kept += 1
            run.report(worth[epoch])
        kept.untyped_storage().resize_(0)
        return returned

    for _ in range(2):
        with pytest.warns(StanWarning, match="final.pt holds what the last step left"):
            outcome = final(tmp_path, train)
        assert outcome.metrics == {"loss": returned}
        assert {at: measured["loss"] for at, measured in outcome.curve.items()} == dict(enumerate(worth, 1))
        assert weights(tmp_path / "best.pt") == best
        assert weights(tmp_path / "final.pt") == (5, 5.0)


def test_who_calls_reached_reports_of_what_was_reached(tmp_path: Path) -> None:
    def train(run: Run) -> float:
        kept = torch.zeros(1)
        run.keep(weights=kept)
        for epoch in range(run.go_on(), run.stop):
            kept += 1
            run.reached(epoch + 1)
            run.report(abs(epoch - 1))
        return 7

    assert final(tmp_path, train, 4).curve == {at: {"loss": float(abs(at - 2))} for at in (1, 2, 3, 4)}
    assert weights(tmp_path / "best.pt") == (2, 2.0)


def test_in_a_trial_nothing_comes_of_it(tmp_path: Path) -> None:
    segment = Segment(0, {"x": 0.5}, 0, 5, 5, tmp_path / "trial.pt", bracket=0)
    searched = FunctionObjective(reporting([5, 2, 4, 2, 3]), SPACE, Metric("loss"), name="train")
    outcome = searched.trainer(Place(threads=1)).train(segment, lambda: False, lambda done: None)
    assert (outcome.metrics, outcome.curve) == ({"loss": 3.0}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["trial.pt"]


def test_a_report_that_is_no_number_ends_the_training_as_lost(tmp_path: Path) -> None:
    outcome = final(tmp_path, reporting([5, 2, math.nan, 1, 1]))
    assert (outcome.diverged_at, outcome.metrics) == (2, {})
    assert list(outcome.curve) == [1, 2]
    assert weights(tmp_path / "best.pt") == (2, 2.0)


def test_a_report_of_something_else_is_told_so(tmp_path: Path) -> None:
    def train(run: Run) -> float:
        run.report({"accuracy": 0.5})
        return 1

    with pytest.raises(ReturnError) as caught:
        final(tmp_path, train)
    assert str(caught.value) == (
        "train reported 'accuracy', and not 'loss', by which trials are compared; report it too"
    )


def test_where_nothing_is_kept_there_are_no_weights(tmp_path: Path) -> None:
    def train(run: Run) -> float:
        for epoch in run.steps():
            run.report(epoch)
        return 7

    assert final(tmp_path, train).curve[1] == {"loss": 0.0}
    assert not list(tmp_path.iterdir())


def test_a_search_tells_of_the_best_report(tmp_path: Path) -> None:
    worth = [9.0, 3.0, 1.0, 4.0, 6.0, 6.0, 7.0, 7.0, 8.0]
    result = tune(reporting(worth), SPACE, max_resource=9, minimize="loss", out=tmp_path)
    assert result.best is not None
    assert result.final is not None
    # Of a trial counts what its last rung was worth.
    assert (result.best.value, result.best.resource) == (8.0, 9)
    best = result.final.best_evaluation
    assert best is not None
    assert (result.final.value, best.value, best.resource) == (8.0, 1.0, 3)
    assert result.final.curve == dict(enumerate(worth, 1))
    assert (result.final.weights, best.weights) == (tmp_path / "final.pt", tmp_path / "best.pt")
    assert weights(tmp_path / "best.pt") == (3, 3.0)
    told = result.summary.final
    assert told is not None
    assert told.best is not None
    assert told.best.model_dump() == {
        "iterations": 3,
        "value": 1.0,
        "metrics": {"loss": 1.0, "epoch": 2.0},
        "weights": "best.pt",
    }
