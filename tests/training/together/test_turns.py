"""Blocks of iterations and turns: what a training comes to depends on neither, and the process's randomness on none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from states import equal, what_counts

import stantune.training.train
from stantune.images.problem.built_in import Splits, find
from stantune.training.guard import MULTIPLE, PATIENCE
from stantune.training.together.randomness import OwnRandom, seeded
from stantune.training.together.turns import drained, within
from stantune.training.trial import Trial
from tests.training.test_divergence import recorded

HIGH = 1.01 * MULTIPLE * math.log(10)


def of_blocks(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(stantune.training.train, "Trial", partial(Trial, block=length))


@pytest.mark.parametrize("block", [2, 7, 100])
@pytest.mark.parametrize(
    "script",
    [[2.0] * 40, [2.0] * 13 + [math.nan] + [2.0] * 40, [HIGH] + [2.0] * 10 + [20 * HIGH] * 50],
    ids=["whole", "not a number", "high"],
)
def test_blocks_of_losses_change_nothing(
    block: int, script: list[float], quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(monkeypatch, script)
    alone, checkpoint = quick(tmp_path / "alone.pt", 0, 32), tmp_path / "blocks.pt"
    losses = recorded(monkeypatch, script)
    of_blocks(monkeypatch, block)
    outcome = quick(checkpoint, 0, 32)
    assert outcome == alone
    assert outcome.losses == alone.losses
    assert outcome.cost.exact == alone.cost.exact == outcome.iterations
    if alone.diverged_at is None:
        assert equal(what_counts(checkpoint), what_counts(tmp_path / "alone.pt"))
    else:
        # No more is lost than the rest of a block, and what is spoilt is not kept.
        assert alone.diverged_at < len(losses) <= min(alone.diverged_at + block, 32)
        assert not checkpoint.exists()
    assert alone.diverged_at in (None, 13, 11 + PATIENCE - 1)


@pytest.mark.parametrize("pace", [1, 7])
def test_turns_of_others_change_nothing(
    pace: int, cases: Mapping[str, Any], small: Callable[..., Splits], tmp_path: Path
) -> None:
    """STAN's settings too, with every kind of iteration."""
    case = cases["lenet-rates"]
    problem = find(case.name)
    splits = small(problem)

    def course(name: str, seed: int, pace: int | None) -> Any:
        return stantune.training.train.turns(
            problem, case.setting, tmp_path / name, 0, 24, pace=pace, splits=splits, seed=seed, stan=case.stan
        )

    alone = [drained(course(f"alone-{seed}", seed, None)) for seed in (1, 2)]
    both = [course(f"turns-{seed}", seed, pace) for seed in (1, 2)]
    outcomes, turns = dict[int, Any](), 0
    while len(outcomes) < 2:
        for number, each in enumerate(both):
            try:
                next(each)
                turns += 1
            except StopIteration as end:
                outcomes.setdefault(number, end.value or outcomes.get(number))
    assert turns >= 2 * (24 // pace) - 2
    assert [outcomes[0], outcomes[1]] == alone
    assert alone[0].metrics != alone[1].metrics
    for seed in (1, 2):
        assert equal(what_counts(tmp_path / f"turns-{seed}"), what_counts(tmp_path / f"alone-{seed}"))


def test_a_training_that_is_closed_between_turns_goes_on_from_its_checkpoint(
    cases: Mapping[str, Any], small: Callable[..., Splits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = find("mlp")
    splits = small(problem)
    monkeypatch.setattr(stantune.training.train, "SAVE_SECONDS", 0.0)

    def course(name: str, pace: int | None) -> Any:
        return stantune.training.train.turns(
            problem, {"hidden": 100, "dropout": 0.5}, tmp_path / name, 0, 12, pace=pace, splits=splits
        )

    before = torch.get_rng_state()
    cut = course("cut", 2)
    for _ in range(3):
        next(cut)
    cut.close()
    assert torch.equal(torch.get_rng_state(), before)
    assert what_counts(tmp_path / "cut")["iteration"] in (5, 6)
    assert drained(course("cut", 3)) == drained(course("whole", None))
    assert equal(what_counts(tmp_path / "cut"), what_counts(tmp_path / "whole"))


def drawn() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn())]


def test_own_random_states_are_nobody_elses() -> None:
    random.seed(1)
    np.random.seed(1)
    one, other = OwnRandom("random", 1), OwnRandom("random", 2)
    with one.here():
        first = drawn() + drawn()
    with other.here():
        assert drawn() + drawn() != first
    again = OwnRandom("random", 1)
    with again.here():
        begun = drawn()
        kept = OwnRandom.state()
    with other.here():
        OwnRandom.restore(kept)
        assert begun + drawn() == first
    here = drawn()
    random.seed(1)
    np.random.seed(1)
    assert drawn() == here


def test_what_is_seeded_is_put_back() -> None:
    def all_drawn() -> list[float]:
        return [*drawn(), float(torch.rand(()))]

    for seed in (1, 1, 2**62):
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        with seeded(seed):
            within_it = all_drawn()
        after = all_drawn()
        if seed == 1:
            expected = within_it
        else:
            assert within_it != expected
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    assert all_drawn() == after


def test_each_turn_has_its_context() -> None:
    said: list[str] = []

    @contextmanager
    def context() -> Any:
        said.append("in")
        try:
            yield
        finally:
            said.append("out")

    def course() -> Any:
        try:
            said.append("one")
            yield
            said.append("two")
            yield
        finally:
            said.append("closed")
        return 3

    assert drained(within(course(), context)) == 3
    assert said == ["in", "one", "out", "in", "two", "out", "in", "closed", "out"]
    said.clear()
    cut = within(course(), context)
    next(cut)
    cut.close()
    assert said == ["in", "one", "out", "closed"]
