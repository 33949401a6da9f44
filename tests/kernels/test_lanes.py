"""Lanes where memory ends, tested without a device: who holds what, and which lanes are used again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.torch_version import TorchVersion

from stantune.kernels.cuda import lanes
from stantune.kernels.cuda.lanes import Lane, lane_on


class Numbers:
    """Stands for a tensor of a step."""


def test_a_second_try_has_the_memory_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Numbers]] = []
    held: list[bool] = []

    def recorded(lane: Lane, work: Callable[[], str]) -> tuple[str, str]:
        return "graph", work()

    def work() -> str:
        numbers = Numbers()
        made.append(weakref.ref(numbers))
        if len(made) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "result"

    monkeypatch.setattr(Lane, "_recorded", recorded)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(made[0]() is not None))
    assert Lane.__new__(Lane).recorded(work) == ("graph", "result")
    assert held == [False]


@pytest.mark.parametrize(
    ("version", "ended", "tries"), [("2.11.0+cu128", [(0, "pool")], 2), ("2.12.0", [], 1), ("2.13.0+cu130", [], 1)]
)
@pytest.mark.parametrize("has_ended", [True, False])
def test_a_recording_that_fails_is_over(
    version: str, ended: list[Any], tries: int, has_ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before PyTorch 2.12 allocator and generator do not notice by themselves."""
    done: list[Any] = []
    tried: list[Callable[[], Any]] = []

    def recorded(lane: Lane, work: Callable[[], Any]) -> tuple[str, Any]:
        tried.append(work)
        return "graph", work()

    def end(device: int, pool: str) -> None:
        done.append((device, pool))
        if has_ended:
            raise RuntimeError("not currently recording to mempool_id")

    def work() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(Lane, "_recorded", recorded)
    lane: Any = Lane.__new__(Lane)
    lane.device, lane._pool, lane.stream = 0, "pool", SimpleNamespace(device="cpu")
    with pytest.raises(RuntimeError, match="operation not permitted"):
        lane.recorded(work)
    assert done == ended
    assert len(tried) == tries


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    """The lanes that are used again of a device that is not there."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(lanes, "_FREE", kept := {0: []})
    monkeypatch.setattr(lanes, "Lane", lambda device: SimpleNamespace(device=device, stream=stream))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return kept[0]


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_lane_is_used_again(free: list[Lane], error: type[Exception] | None) -> None:
    def trained() -> Lane:
        with lane_on(0) as lane:
            if error is not None:
                raise error
        return lane

    for _ in range(2):
        try:
            trained()
        except ValueError:
            assert error is not None
        (lane,) = free
        with lane_on(0) as again:
            assert again is lane


def test_where_memory_ends_no_lane_keeps_any(free: list[Lane]) -> None:
    with lane_on(0) as one, lane_on(0):
        pass
    assert len(free) == 2
    with pytest.raises(torch.OutOfMemoryError), lane_on(0):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert free == []
    with lane_on(0) as other:
        assert other is not one
