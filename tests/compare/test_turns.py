"""Trainings that take turns end as they would alone, whatever becomes of the others."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stantune.compare.comparison import Spread, error_difference, speedup
from stantune.compare.turns import TURN, WARM_UP, train_in_turns
from stantune.errors import StantuneError, UsageError
from stantune.images.data import Dataset
from stantune.images.problem.built_in import Splits, find
from stantune.images.solving.solver import Inv, Solver
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.training.train import run
from stantune.training.trial import Trial


@pytest.mark.usefixtures("errors_are_digests")
def test_trainings_in_turns_end_in_the_same_bits_as_alone(bench: Any) -> None:
    comparison = bench.compared(seeds=3)
    arms = [(None, comparison.exact), *((bench.stans[arm.name], arm.trainings) for arm in comparison.arms)]
    seen = set()
    for stan, trainings in arms:
        for seed, training in enumerate(trainings):
            assert training.test_error == bench.alone(seed, stan)
            assert (training.iterations, training.diverged_at) == (40, None)
            seen.add(training.test_error)
    assert len(seen) == 9, "the digests tell trainings apart"


@pytest.mark.usefixtures("errors_are_digests")
def test_the_callers_random_state_is_not_touched_and_not_used(bench: Any) -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(bench.errors(bench.compared(seeds=1).arms[0].trainings))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def _states() -> tuple[Any, ...]:
    _, keys, place, *_ = np.random.get_state()
    return random.getstate(), keys.tolist(), place


def _same_as_alone(bench: Any, comparison: Any) -> bool:
    arms = [(None, comparison.exact), *((bench.stans[arm.name], arm.trainings) for arm in comparison.arms)]
    found = [(bench.alone(seed, stan), one.test_error) for stan, several in arms for seed, one in enumerate(several)]
    return len(found) == 6 and all(alone == in_turns for alone, in_turns in found)


@pytest.mark.usefixtures("errors_are_digests")
def test_networks_that_draw_from_python_and_numpy_end_as_alone_too(drawing: Any) -> None:
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        before = _states()
        found.append(drawing.compared())
        assert _states() == before
    assert drawing.errors(found[0].exact) == drawing.errors(found[1].exact)
    assert _same_as_alone(drawing, found[0])


def test_what_evaluations_draw_is_the_seed_s_alone(drawing: Any) -> None:
    torch.manual_seed(7)
    assert _same_as_alone(drawing, drawing.compared())


def test_real_digits(bench: Any, mnist: Dataset) -> None:
    lenet = replace(find("lenet"), batch_size=16)
    train = mnist.train.take(0, 600)
    splits = Splits(train, mnist.train.take(600, 601), mnist.test.take(0, 300), lenet.normalise.fit(train), 10)
    setting = {"lr": 0.02}
    half = bench.stans["0.5"]
    comparison = bench.compared(
        seeds=1, problem=lenet, setting=setting, iterations=30, splits=splits, stans={"0.5": half}, equal_time=True
    )
    as_there = {"splits": splits, "seed": derive("train", 0), "evaluate": ("test",)}
    for stan, training in ((None, comparison.exact[0]), (half, comparison.arms[0].trainings[0])):
        alone = run(lenet, setting, None, 0, 30, stan=stan, **as_there)
        assert training.test_error == alone.metrics["test error"]
        assert 0 < alone.metrics["test error"] < 80
        assert training.seconds > 0
    assert (comparison.exact[0].kept, comparison.arms[0].trainings[0].kept) == (1.0, 0.5)
    equal = comparison.arms[0].equal_time
    assert equal is not None
    times = comparison.exact[0].seconds / comparison.arms[0].trainings[0].seconds
    assert equal.iterations == round(30 / times)
    # Inv's course is the same in fewer iterations.
    shorter = replace(lenet, solver=replace(lenet.solver, policy=Inv(1e-4 * 30 / equal.iterations, 0.75)))
    alone = run(shorter, setting, None, 0, equal.iterations, **as_there)
    assert equal.trainings[0].test_error == alone.metrics["test error"]
    assert equal.trainings[0].seconds > 0


def test_turns_are_short_and_the_first_in_a_round_changes(bench: Any, turns: list[tuple[float, int, int]]) -> None:
    stans = [None, *bench.stans.values()]
    for seed in (0, 1):
        turns.clear()
        assert train_in_turns(bench.problem, {}, stans, 2 * TURN + 5, splits=bench.splits, seed=seed)
        rounds = [turns[:3], turns[3:6], turns[6:]]
        first = [1.0, 0.5, 0.25]
        for number, (start, stop) in enumerate([(0, TURN), (TURN, 2 * TURN), (2 * TURN, 2 * TURN + 5)]):
            offset = (number + seed) % 3
            assert rounds[number] == [(rate, start, stop) for rate in first[offset:] + first[:offset]]


def test_a_warm_up_comes_first_and_is_thrown_away(bench: Any, recorded: Any) -> None:
    bench.compared(seeds=2)
    turns = recorded.turns
    assert turns[:3] == [(1.0, 0, WARM_UP), (0.5, 0, WARM_UP), (0.25, 0, WARM_UP)]
    assert recorded.reduced[:3] == [0, 3, 4], "reduced iterations are warmed up too, whatever p_t is"
    assert turns[3][1:] == (0, TURN)
    assert [stop for _, start, stop in turns if start == 0].count(WARM_UP) == 3, "once, not for each seed"


def test_watch_is_told_each_iteration(bench: Any) -> None:
    seen: list[int] = []
    stans = [None, bench.stans["0.5"]]
    train_in_turns(bench.problem, {}, stans, TURN + 4, splits=bench.splits, seed=0, watch=seen.append)
    assert seen == list(range(1, 2 * (TURN + 4) + 1))


def test_a_diverged_arm_is_told_and_the_others_go_on(
    bench: Any, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: Trial, stop: int, *rest: Any) -> tuple[bool, bool]:
        """Diverge in iteration 30 at rate 1/4."""
        lost = self.handle is not None and self.handle.stan.rate == 0.25
        _, interrupted = train_well(self, min(stop, 30) if lost else stop, *rest)
        return lost and self.iteration == 30, interrupted

    train_well = recorded.train
    monkeypatch.setattr(recorded, "train", train)
    comparison = bench.compared(iterations=60, equal_time=True)
    good, lost = comparison.arms
    assert [(training.diverged_at, training.test_error, training.iterations) for training in lost.trainings] == [
        (30, None, 30)
    ] * 2
    assert None not in bench.errors(good.trainings) + bench.errors(comparison.exact)
    its = [turn for turn in recorded.turns if turn[0] == 0.25 and turn[2] != WARM_UP]
    assert its == [(0.25, 0, 25), (0.25, 25, 30)] * 2, "it costs nothing more"
    assert speedup(comparison.exact, lost.trainings) is None
    assert lost.equal_time is None
    assert good.equal_time is not None
    assert error_difference(comparison.exact, lost.trainings, comparison.metric) == Spread(None, None)


def test_a_hopeless_setting_is_a_result_too(bench: Any) -> None:
    hopeless = replace(bench.problem, solver=Solver(lr=1e20))
    comparison = bench.compared(problem=hopeless, equal_time=True)
    for trainings in (comparison.exact, *(arm.trainings for arm in comparison.arms)):
        assert bench.errors(trainings) == [None, None]
    assert [(arm.equal_time, arm.predicted_speedup) for arm in comparison.arms] == [(None, None)] * 2
    with pytest.raises(StantuneError, match="'noise' diverges"):
        bench.comparer(problem=hopeless, stans={"auto": Stan(rate="auto")}).compare(1)


@pytest.mark.usefixtures("no_kernels")
def test_stan_that_changes_nothing_is_told_once(bench: Any, recwarn: pytest.WarningsRecorder) -> None:
    lines: list[str] = []
    comparison = bench.compared(seeds=2, iterations=5, stans={"1": Stan(rate=1)}, say=lines.append)
    assert [line.split(" (")[0] for line in lines] == ["1: STAN changes nothing in this model"]
    assert not recwarn.list
    assert bench.errors(comparison.exact) == bench.errors(comparison.arms[0].trainings)


@pytest.mark.usefixtures("errors_are_digests")
def test_in_bfloat16_they_end_as_alone_in_it_and_nothing_is_predicted(bench: Any, tmp_path: Path) -> None:
    stans = {"0.5": bench.stans["0.5"]}
    compared = bench.compared(1, equal_time=True, stans=stans, precision="bf16", directory=tmp_path)
    (arm,) = compared.arms
    assert bench.errors(compared.exact) == [bench.alone(0, None, "bf16")] != [bench.alone(0, None)]
    assert bench.errors(arm.trainings) == [bench.alone(0, arm.stan, "bf16")]
    assert arm.predicted_speedup is None
    with pytest.raises(UsageError, match="precision is there alone"):
        bench.compared(1, stans=stans, directory=tmp_path)
    # What float32 is on a CPU.
    assert bench.errors(bench.compared(1, stans=stans, precision="fp32").exact) == [bench.alone(0, None)]
