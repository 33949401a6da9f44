"""The number of threads: chosen by pure arithmetic from times that are taken in turns."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corners import CORNERS
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stantune.images.problem.built_in import find
from stantune.kernels.library import kernels
from stantune.stan.layers import conv2d
from stantune.stan.layers.norm import StanBatchNorm2d
from stantune.training import threads
from stantune.training.threads import Measured, fastest, measure_threads, numbers_up_to, time_by_threads
from stantune.training.train import run

TINY_FILE = Path(__file__).parents[1] / "tiny_problem.py"

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_fastest_is_taken_and_fewer_where_they_are_about_as_fast() -> None:
    assert fastest({1: 0.052, 2: 0.031}) == 2
    assert fastest({1: 0.031, 2: 0.052}) == 1
    assert fastest({1: 0.0104, 2: 0.0100}) == 1
    assert fastest({1: 0.0106, 2: 0.0100}) == 2
    # Each against the fastest, not against the one before it.
    assert fastest({1: 0.0108, 2: 0.0104, 4: 0.0100}) == 2
    assert fastest({4: 0.01, 2: 0.01, 1: 0.02}) == 2


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-6, 1e3), min_size=1))
def test_what_is_chosen_is_nearly_as_fast_as_any_and_no_fewer_are(seconds: dict[int, float]) -> None:
    chosen = fastest(seconds)
    best = min(seconds.values())
    assert seconds[chosen] <= 1.05 * best
    assert all(took > 1.05 * best for count, took in seconds.items() if count < chosen)


@given(st.integers(1, 300), st.integers(1, 300))
def test_numbers_to_try(cores: int, usual: int) -> None:
    tried = numbers_up_to(cores, usual)
    assert tried[0] == 1
    assert tried[-1] == cores
    assert list(tried) == sorted(set(tried))
    assert (usual in tried) == (usual <= cores or usual in (1, cores))
    others = set(tried) - {usual, cores}
    assert others == {2**exponent for exponent in range(10) if 2**exponent <= cores} - {usual, cores}


class _Machine:
    """A clock that only steps move on, by what they take with so many threads; the first after a change takes more."""

    def __init__(self, takes: dict[int, float]) -> None:
        self.now = 100.0
        self.takes = takes
        self.steps: list[int] = []

    def step(self) -> None:
        count = torch.get_num_threads()
        woken = not self.steps or self.steps[-1] != count
        self.now += self.takes[count] + woken * 0.5 * self.takes[count]
        self.steps.append(count)

    def measured(self) -> dict[int, float]:
        return time_by_threads(self.step, tuple(self.takes), clock=lambda: self.now)


def test_times_are_taken_in_turns_and_without_the_first_step() -> None:
    machine = _Machine({1: 0.002, 2: 0.001, 3: 0.004})
    assert machine.measured() == pytest.approx({1: 0.002, 2: 0.001, 3: 0.004})
    assert machine.steps == [1, 1, 2, 2, 3, 3] * threads.MOST_ROUNDS
    assert torch.get_num_threads() == 1, "as before"


def test_steps_that_make_programs_do_not_count() -> None:
    made = {1: 30.0, 2: 60.0}
    now = 0.0

    def step() -> None:
        nonlocal now
        now += made.pop(torch.get_num_threads(), 0.5)

    assert time_by_threads(step, (1, 2), warm=True, clock=lambda: now) == {1: 0.5, 2: 0.5}
    # Of 3 s for timing nothing is lost: 2 s a round.
    assert now == 90 + 2 * 2


def test_no_round_begins_that_does_not_fit() -> None:
    # 0.475 s a round, in 3 s.
    machine = _Machine({1: 0.11, 2: 0.08})
    machine.measured()
    assert len(machine.steps) == 4 * 6
    slow = _Machine({1: 10.0, 2: 6.0})
    assert slow.measured() == pytest.approx({1: 10.0, 2: 6.0})
    assert len(slow.steps) == 4 * threads.FEWEST_ROUNDS


def test_one_disturbed_round_does_not_count() -> None:
    takes = iter([0.001, 9.0, *[0.001] * 100])
    now = 0.0

    def step() -> None:
        nonlocal now
        now += next(takes)

    assert time_by_threads(step, (1,), clock=lambda: now) == {1: pytest.approx(0.001)}


def test_the_number_of_threads_is_put_back_after_an_error() -> None:
    def step() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        time_by_threads(step, (2,))
    assert torch.get_num_threads() == 1


@pytest.fixture
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "SECONDS", 0.1)


@pytest.mark.usefixtures("_two_cores")
@pytest.mark.parametrize("name", ["problem", "hopeless"])
def test_a_real_problem_even_one_that_diverges(name: str) -> None:
    problem = find(f"{TINY_FILE}:{name}")
    random = torch.get_rng_state()
    measured = measure_threads(problem, {}, problem.load())
    assert list(measured.seconds) == [1, 2]
    assert all(0 < took < 5 for took in measured.seconds.values())
    assert measured.threads == fastest(measured.seconds)
    assert torch.equal(torch.get_rng_state(), random), "whoever measures trains the same afterwards"


@pytest.mark.usefixtures("_two_cores")
@pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
@pytest.mark.parametrize("natives", [(True,), (False,), (False, True)])
def test_what_is_timed_is_what_will_be_trained(natives: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    problem = find(f"{TINY_FILE}:problem")
    counted = {"native": 0, "steps": 0}
    convolve = conv2d.convolve  # type: ignore[attr-defined]

    def native(*given: Any) -> object:
        counted["native"] += 1
        return convolve(*given)

    def timed(step: Callable[[], None], counts: tuple[int, ...], warm: bool) -> dict[int, float]:
        counted["steps"] += 1
        step()
        return dict.fromkeys(counts, 6.0)

    monkeypatch.setattr(conv2d, "convolve", native)
    # So small a layer is PyTorch's otherwise.
    monkeypatch.setattr(conv2d, "_is_for_native", lambda *given: True)
    monkeypatch.setattr("stantune.stan.layers.fusion.may_pay", lambda *given: True)
    monkeypatch.setattr(threads, "time_by_threads", timed)
    measured = measure_threads(problem, {}, problem.load(), natives=natives)
    assert counted == {"native": natives.count(True), "steps": 1}
    assert set(measured.seconds.values()) == {6.0 / len(natives)}, "of one iteration"


def _once(step: Callable[[], None], counts: tuple[int, ...], warm: bool) -> dict[int, float]:
    step()
    return dict.fromkeys(counts, 6.0)


@pytest.mark.usefixtures("_two_cores")
@pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
def test_batch_norms_are_timed_natively_where_no_convolution_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))

    natively = []
    followed = StanBatchNorm2d.followed

    def native(*given: Any) -> Any:
        natively.append(given[0])
        return followed(*given)

    monkeypatch.setattr(StanBatchNorm2d, "followed", native)
    # So small a layer is PyTorch's otherwise.
    monkeypatch.setattr("stantune.stan.layers.norm.norm_pays", lambda *given: True)
    monkeypatch.setattr(threads, "time_by_threads", _once)
    problem = replace(find(f"{TINY_FILE}:problem"), network=network)
    for natives, count in (((False,), 0), ((True,), 1), ((False, True), 2)):
        measure_threads(problem, {}, problem.load(), natives=natives)
        assert len(natively) == count


@pytest.mark.usefixtures("_two_cores")
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_what_is_timed_is_in_the_numbers_of_the_training(
    precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Looking(nn.Module):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            seen.append(input.dtype)
            return input

    monkeypatch.setattr(threads, "time_by_threads", _once)
    problem = replace(
        find(f"{TINY_FILE}:problem"),
        network=lambda: nn.Sequential(nn.Conv2d(1, 4, 3), Looking(), nn.Flatten(), nn.Linear(144, 4)),
    )
    measure_threads(problem, {}, problem.load(), natives=(False,), precision=precision)
    # Before that a pass looks at the network itself.
    assert seen[-1] == (torch.float32 if precision is None else torch.bfloat16)


def test_words() -> None:
    assert Measured(2, {1: 0.052, 2: 0.0312}).words == (
        "threads: 2 (an iteration takes 31.2 ms; 52 ms with 1); --threads 2 gives the same result again"
    )
    assert Measured(1, {1: 0.99963, 2: 0.96, 4: 2.5}).words == (
        "threads: 1 (an iteration takes 1000 ms; 960 ms with 2, 2500 ms with 4, fewer are taken where the difference "
        "is small); --threads 1 gives the same result again"
    )
    assert "(an iteration takes 0.4 ms; there is one core for it)" in Measured(1, {1: 0.0004}).words


def test_what_is_timed_leaves_the_training_its_random_numbers(tmp_path: Path) -> None:
    """However often the clock lets it draw: from Python's, NumPy's and torch's."""

    def drawn(images: Any, ids: Any, generator: Any) -> Any:
        return images + random.random() + np.random.rand() + torch.rand(1)

    problem = replace(CORNERS, augment=drawn)
    splits = problem.load(None)

    def losses(times: int) -> Any:
        def timing(before: int | None) -> None:
            for _ in range(times):
                random.random(), np.random.rand(), torch.rand(1)

        return run(problem, {}, None, 0, 5, splits=splits, seed=1, use_threads=timing).losses

    assert losses(0) == losses(1) == losses(7)
