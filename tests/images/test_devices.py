"""Where the workers of a search of images train, and what is said of that."""

from __future__ import annotations

from typing import Any

import pytest

from stantune import Stan
from stantune.images.objective import ProblemObjective, device_of
from stantune.images.problem.built_in import find
from stantune.protocols import Conditions


def test_gpus_take_turns() -> None:
    assert [device_of("cuda", place, 2) for place in range(5)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert [device_of("cuda:1", place, 2) for place in range(2)] == ["cuda:1", "cuda:1"]
    assert device_of("cpu", 3, 2) == device_of("cpu", 3, 0) == "cpu"


@pytest.mark.parametrize(
    ("stan", "device", "begun", "told"),
    [
        (Stan(), "cuda:0", None, True),
        (Stan(), "cpu", None, False),
        (None, "cuda:0", None, False),
        (Stan(rate=1), "cuda:0", None, False),
        (Stan(), "cuda:0", {"threads": 1}, False),
    ],
)
def test_that_stan_is_a_loss_on_a_gpu_is_said_once(
    stan: Stan | None, device: str, begun: dict[str, Any] | None, told: bool
) -> None:
    lines: list[str] = []
    conditions = Conditions(27, device=device, threads=1, begun=begun, here=False, say=lines.append)
    ProblemObjective(find("lenet"), stan).prepared(conditions)
    assert any("`stan`=None trains them exactly" in line for line in lines) == told
