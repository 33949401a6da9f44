"""One of two processes that train a model together, and would plan otherwise by themselves: run by test_start."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stantune import Stan
from stantune.errors import UsageError
from stantune.integrations.start import accelerate_at, first_of, state_of
from stantune.stan import surgery
from stantune.stan.config import LayerPlan
from stantune.stan.handle import StanHandle
from stantune.stan.planning.plan import Plan
from stantune.stan.planning.timing import ModelTimes

AUTO = Stan(rate="auto")


def main(rank: int, meeting: str) -> None:
    """Accelerate models with the other process and alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    planned: list[int] = []

    def plan_for(model: nn.Module, stan: Stan, example: Tensor, **others: object) -> Plan:
        planned.append(rank)
        if not example.any():
            raise UsageError("there is nothing in this example")
        layer = LayerPlan("0", (("blocks", "rows")[rank],))
        concrete = replace(stan, rate=0.25, tolerance=0.5, period=3 + rank, plan=(layer,))
        return Plan(concrete, ModelTimes((), 0.0, 0), None, {})

    def started(batch: Any, state: dict[str, Any], *processes: int) -> StanHandle:
        planned.clear()
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
        return accelerate_at(model, AUTO, batch, first_of, state, 0, *processes)

    surgery.plan_for = plan_for
    images = torch.ones(2, 3, 8, 8)
    whole = (images, 0)
    together = started(whole, {}, 2)
    assert planned == [0] * (1 - rank), "the first one alone"
    assert together.stan.planned == {"rate": 0.25, "period": 3, "plan": {"0": ["blocks"]}}
    assert [len(line.patterns) for line in together.report] == [1]
    # From a checkpoint nobody waits for anybody.
    assert started(whole, state_of(together), 2).stan == together.stan
    assert not planned
    # Of a model of its own each plans by itself.
    for processes in ((), (1,), (3,)):
        assert started(whole, {}, *processes).stan.period == 3 + rank
        assert planned == [rank]
    # Nor does the other one wait for ever where there is no plan, or where the first one cannot read what it has saved.
    unknown = {"planned": {"rate": 0.25, "period": 3, "plan": {"0": ["circles"]}}}
    for batch, state, words in (
        ((torch.zeros_like(images), 0), {}, "nothing in this example"),
        ({}, {}, "does not begin with a tensor"),
        (whole, unknown, "circles"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            started(batch, state if rank == 0 else {}, 2)
        assert ("by the first process for all, and that could not: UsageError: " in str(caught.value)) == (rank == 1)


if __name__ == "__main__":
    code = 1
    try:
        main(int(sys.argv[1]), sys.argv[2])
        code = 0
    except BaseException:
        traceback.print_exc()
    # Ended at once, as data_parallel.py is, and for the same reason.
    os._exit(code)
