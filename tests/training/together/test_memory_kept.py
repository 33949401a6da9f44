"""What memory a training keeps is counted: by hand where that can be done, and told where several begin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import stantune as st
from stantune.images.problem.built_in import find
from stantune.stan.config import Memo, Stan
from stantune.training.together.memory import bytes_kept

TINY = find(f"{Path(__file__).parents[2] / 'tiny_problem.py'}:problem")
LINEAR = replace(TINY, name="linear", network=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
WEIGHTS = 4 * (64 * 4 + 4)


@pytest.mark.parametrize(("momentum", "copies"), [(0.9, 3), (0.0, 2)])
def test_it_is_what_can_be_counted_by_hand(momentum: float, copies: int) -> None:
    """Weights, gradients and, with momentum, velocities; of a sample its input, its scores and its target."""
    problem = replace(LINEAR, solver=st.Solver(lr=1e-3, momentum=momentum))
    splits = problem.load(None)
    few, many = (bytes_kept(replace(problem, batch_size=size), {}, splits) for size in (10, 110))
    of_sample, rest = divmod(many - few, 100)
    assert rest == 0
    assert 4 * 64 + 8 + 4 * 4 <= of_sample <= 4 * 64 + 8 + 2 * 4 * 4
    # What does not grow with the batch, but for a number or two of the loss's.
    assert 0 <= few - 10 * of_sample - copies * WEIGHTS <= 16


def test_the_memo_counts_and_random_states_are_left_alone() -> None:
    splits = TINY.load(None)
    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index,union-attr]
    stan = Stan(rate=0.5, layers=("*",))
    plain, memo = (
        bytes_kept(TINY, {}, splits, stan=each) for each in (stan, replace(stan, memo=Memo(240, 24), period=None))
    )
    assert memo > plain
    assert np.random.get_state()[1].tolist() == before[0]  # type: ignore[index,union-attr]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_it_is_told_where_several_begin(tmp_path: Path) -> None:
    told: list[str] = []
    sizes = {"max_resource": 3, "min_resource": 3, "brackets": 1, "threads": 1, "device": "cpu"}
    st.tune(LINEAR, together=2, out=tmp_path / "two", say=told.append, **sizes)
    st.tune(LINEAR, out=tmp_path / "one", say=told.append, **sizes)
    assert [line.partition(" with")[0] for line in told if line.startswith("together")] == [
        "together: 2 trainings in a process, each of which keeps about 0.1 MB"
    ]
