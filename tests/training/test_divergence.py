"""What diverges is noticed soon, through cuts too; a spike is no divergence, and neither is training at a high loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stantune.images.solving.losses
import stantune.training.train
from stantune import Float, Problem, Solver, Space
from stantune.images.problem.built_in import Splits, find
from stantune.outcome import Outcome
from stantune.training import checkpoint
from stantune.training.guard import MULTIPLE, PATIENCE
from stantune.training.train import run

ALL = 30


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("lenet", {"lr": 5, "momentum": 0.99}),
        ("lenet", {"lr": 0.7, "momentum": 0.99}),
        ("lenet", {"lr": 5.0, "momentum": 0.001, "conv1_l2": 5}),
        ("cq", {"lr": 0.5}),
        ("alexbn", {"lr": 1, "momentum": 5}),
        ("alexlrn", {"lr": 5}),
    ],
)
def test_what_diverges_is_noticed_within_twenty_iterations(
    name: str, setting: dict[str, float], monkeypatch: pytest.MonkeyPatch, small: Callable[..., Splits]
) -> None:
    problem = replace(find(name), batch_size=10)
    splits = small(problem)
    losses = recorded(monkeypatch)
    outcome = run(problem, setting, None, 0, 150, splits=splits)
    # A loss is bad that is no number, or above ten times that of a network which knows nothing of ten classes.
    bad = [not loss <= 10 * math.log(10) for loss in losses]
    fact = next(
        (i for i in range(len(bad)) if not math.isfinite(losses[i]) or all(bad[i : i + 20])),
        None,
    )
    assert fact is not None, "this setting does not diverge"
    assert outcome.diverged_at is not None
    assert fact <= outcome.diverged_at < fact + 20
    curve = outcome.losses
    assert outcome == Outcome(outcome.diverged_at, {}, outcome.diverged_at, False, outcome.cost, losses=curve)
    assert (curve.every, curve.means) == (1, tuple(pytest.approx(loss, rel=1e-5) for loss in losses[: curve.end]))
    assert curve.end == outcome.diverged_at
    assert len(losses) == outcome.diverged_at + 1  # it cost nothing more


REAL_LOSS = nn.functional.cross_entropy


def recorded(monkeypatch: pytest.MonkeyPatch, script: list[float] | None = None) -> list[float]:
    """Return a list that will hold every training loss, each of them replaced by the script's if there is one."""
    losses: list[float] = []

    def loss_of(scores: Tensor, labels: Tensor) -> Tensor:
        loss = REAL_LOSS(scores, labels)
        if script is not None:
            loss = 0 * loss + script[len(losses)]
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(stantune.images.solving.losses.F, "cross_entropy", loss_of)
    return losses


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


# At the small rate the loss begins at tens, since the pixels are from 0 to 255, and falls to 6 in a hundred
# iterations; at the large one it rises to 100 000 and falls to thousands: it is large wherever the network is wrong.
@pytest.mark.parametrize("lr", [1e-5, 0.01])
def test_pixels_as_they_are_can_be_trained_on(
    lr: float, monkeypatch: pytest.MonkeyPatch, small: Callable[..., Splits]
) -> None:
    problem = Problem("raw", linear, "mnist", Space({"lr": Float(1e-8, 1)}), Solver(lr=lr), iterations=400)
    losses = recorded(monkeypatch)
    outcome = run(problem, {}, None, 0, 400, splits=small(problem, images=5000, held_out=500))
    # More than twenty in a row that were once called a divergence.
    assert min(losses[:PATIENCE]) > MULTIPLE * math.log(10)
    assert outcome.diverged_at is None
    assert outcome.metrics["validation error"] < 30


HIGH = 1.01 * MULTIPLE * math.log(10)


@pytest.mark.parametrize("cuts", [(), (7,), (15,), (7, 20, 29)])
def test_the_patience_of_the_guard_goes_through_a_checkpoint(
    quick: Any, cuts: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [2.0] * 10 + [HIGH] * 30
    losses = recorded(monkeypatch, script)
    start = 0
    for stop in cuts:
        assert quick(tmp_path / "t.pt", start, stop).diverged_at is None
        start = stop
    assert quick(tmp_path / "t.pt", start, 40).diverged_at == 10 + PATIENCE - 1
    assert len(losses) == 10 + PATIENCE


def test_a_checkpoint_of_before_goes_on_by_chance_alone(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that holds nothing of what the training began with, as those of former versions."""
    path = tmp_path / "t.pt"
    quick(path, 0, 5)
    saved = torch.load(path, weights_only=True)
    del saved["state"]["guard"]
    checkpoint.save(path, saved["identity"], {**saved["state"], "above": 0})
    recorded(monkeypatch, [HIGH] * 40)
    assert quick(path, 5, 40).diverged_at == 5 + PATIENCE - 1


def test_a_spike_is_no_divergence(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, [HIGH] * (PATIENCE - 1) + [2.0] + [HIGH] * 10)
    assert quick(None, 0, ALL).diverged_at is None


def test_a_diverged_segment_diverges_again_from_its_checkpoint(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.pt"
    recorded(monkeypatch, [2.0] * 15 + [math.nan])
    quick(path, 0, 10)
    before = path.read_bytes()
    outcome = quick(path, 10, ALL)
    assert outcome.diverged_at == 15
    assert outcome.cost.exact == 5
    assert path.read_bytes() == before  # a state with spoilt weights is not kept
    recorded(monkeypatch, [2.0] * 5 + [math.nan])
    assert quick(path, 10, ALL) == outcome
