"""Where the workers of a search of images train."""

from __future__ import annotations

from stantune.images.objective import device_of


def test_gpus_take_turns() -> None:
    assert [device_of("cuda", place, 2) for place in range(5)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert [device_of("cuda:1", place, 2) for place in range(2)] == ["cuda:1", "cuda:1"]
    assert device_of("cpu", 3, 2) == device_of("cpu", 3, 0) == "cpu"
