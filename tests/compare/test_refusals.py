"""What cannot be compared is refused in words, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stantune.errors import StantuneError, UsageError
from stantune.images.solving.solver import Solver
from stantune.stan.config import Stan


def test_a_policy_that_cannot_be_scaled_is_refused_before_anything_is_trained(
    bench: Any, turns: list[tuple[float, int, int]]
) -> None:
    class Own:
        def factor(self, iteration: int) -> float:
            return 0.5

    own = replace(bench.problem, solver=Solver(lr=1e-4, policy=Own()))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'noise'.*Own has no method scaled\(factor\).*--equal-time"):
        bench.comparer(problem=own).compare(1, equal_time=True)
    assert not turns
    assert bench.comparer(problem=own, iterations=5).compare(1) is not None


def test_no_test_images_are_refused(bench: Any) -> None:
    with pytest.raises(UsageError, match="'noise' has no test images"):
        bench.comparer(splits=replace(bench.splits, test=bench.splits.test.take(0, 0)))


def test_a_setting_outside_the_space_is_refused(bench: Any) -> None:
    with pytest.raises(UsageError, match="lr"):
        bench.comparer(setting={"lr": 5.0})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"iterations": 41}, "iterations is 40 there and 41 here"),
        ({"setting": {"lr": 0.1}}, "(setting.lr is here alone)"),
        ({"stans": {"0.5": Stan(rate=0.5, period=4)}}, "stan.0.5.period is 3 there and 4 here"),
        ({"stans": {"0.5": Stan(rate=0.5, period=3), "1": Stan(rate=1)}}, "(stan.1 is here alone)"),
        ({"problem": {"batch_size": 9}}, "batch_size is 8 there and 9 here"),
        ({"problem": {"name": "other"}}, "problem is noise there and other here"),
    ],
)
def test_the_directory_of_another_comparison_is_refused(
    bench: Any, tmp_path: Path, more: Mapping[str, Any], said: str
) -> None:
    stans = {"0.5": bench.stans["0.5"]}
    bench.compared(seeds=1, stans=stans, directory=tmp_path)
    problem = replace(bench.problem, **more.get("problem", {}))
    with pytest.raises(UsageError) as caught:
        bench.comparer(**{"stans": stans, "directory": tmp_path, **more, "problem": problem}).compare(1)
    assert said in str(caught.value)


def test_other_threads_are_another_comparison(bench: Any, tmp_path: Path) -> None:
    bench.compared(seeds=1, iterations=5, directory=tmp_path)
    torch.set_num_threads(2)
    with pytest.raises(UsageError, match="threads is 1 there and 2 here"):
        bench.comparer(iterations=5, directory=tmp_path).compare(1)


def test_a_damaged_record_is_told(bench: Any, tmp_path: Path) -> None:
    bench.compared(seeds=1, iterations=5, directory=tmp_path)
    (tmp_path / "seed-0.json").write_text("{")
    with pytest.raises(StantuneError, match=r"seed-0\.json is damaged"):
        bench.comparer(iterations=5, directory=tmp_path).compare(1)
