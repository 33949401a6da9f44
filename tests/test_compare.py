"""Comparing: trainings that take turns end as they would alone, and their numbers are what they say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stantune.compare
import stantune.planning
import stantune.train
import stantune.turns
from stantune.compare import (
    Comparer,
    Comparison,
    Spread,
    error_difference,
    scaled,
    seconds_per_iteration,
    speedup,
    speedup_deviation,
    spread,
)
from stantune.data import Dataset, Split
from stantune.errors import StantuneError, UsageError
from stantune.outcome import Cost
from stantune.problems import Problem, Splits, find
from stantune.seeds import derive
from stantune.solver import Fixed, Inv, MultiStep, Solver
from stantune.space import Float, Space
from stantune.stan.config import LayerPlan, Memo, Stan
from stantune.stan.timing import LayerTimes, ModelTimes, PatternTimes
from stantune.train import run
from stantune.trial import Trial
from stantune.turns import TURN, WARM_UP, Training, train_in_turns

pytestmark = pytest.mark.usefixtures("one_thread")

STANS = {"0.5": Stan(rate=0.5, period=3), "0.25": Stan(rate=0.25, period=None, pretrain=7)}


def noise(root: Path | None) -> Dataset:
    """Return 80 training and 40 test images of noise, 8x8, in 3 classes."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(256, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
        return Split(pixels, torch.randint(3, (count,), generator=generator), torch.arange(count))

    return Dataset("noise", split(80), split(40), 3)


def network() -> nn.Module:
    """A convolution, and dropout: its draws must not depend on whose turn it was before."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 3), nn.Dropout(0.1)
    )


PROBLEM = Problem(
    "noise",
    network,
    noise,
    Space({"lr": Float(1e-6, 1.0, log=True)}),
    Solver(lr=1e-4, momentum=0.9, policy=MultiStep((30,), 0.5)),
    iterations=40,
    batch_size=8,
    validation=20,
)


@pytest.fixture(autouse=True)
def _plans_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stantune.planning, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return PROBLEM.load()


def digest(model: nn.Module) -> float:
    """Return a number that tells any two sets of weights apart."""
    state = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return float(int.from_bytes(hashlib.sha256(state).digest()[:6], "big"))


@pytest.fixture
def errors_are_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the error of a model the digest of its weights, bit for bit."""
    for module in (stantune.turns, stantune.train):
        monkeypatch.setattr(module, "error_percent", lambda model, *rest: digest(model))


def comparer(splits: Splits, **more: Any) -> Comparer:
    given = {"problem": PROBLEM, "setting": {}, "stans": STANS, "iterations": 40, "splits": splits, **more}
    return Comparer(**given)


def compared(splits: Splits, seeds: int = 2, equal_time: bool = False, **more: Any) -> Comparison:
    comparison = comparer(splits, **more).compare(seeds, equal_time)
    assert comparison is not None
    return comparison


def errors(trainings: tuple[Training, ...]) -> list[float | None]:
    return [training.test_error for training in trainings]


class Timed(Trial):
    """A trial on a clock of its own: an exact training takes 3 s an iteration, STAN's rate · 4 s."""

    def train(self, *arguments: Any) -> tuple[bool, bool]:
        ended = super().train(*arguments)
        each = 3.0 if self.handle is None else 4.0 * float(self.handle.stan.rate)
        self.cost = Cost(self.iteration, each * self.iteration)
        return ended


class Recorded(Trial):
    """A trial that writes down its turns: rate (1 for exact), first and last iteration; and its reduced iterations."""

    turns: list[tuple[float, int, int]] = []  # noqa: RUF012  (emptied by the fixture)
    reduced: list[int] = []  # noqa: RUF012

    def train(self, *arguments: Any) -> tuple[bool, bool]:
        start = self.iteration
        ended = super().train(*arguments)
        self.turns.append((1.0 if self.handle is None else float(self.handle.stan.rate), start, self.iteration))
        self.reduced.append(self.cost.reduced)
        return ended


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int, int]]:
    """What Recorded wrote."""
    Recorded.turns.clear()
    Recorded.reduced.clear()
    monkeypatch.setattr(stantune.turns, "Trial", Recorded)
    return Recorded.turns


@pytest.mark.usefixtures("errors_are_digests")
def test_trainings_in_turns_end_in_the_same_bits_as_alone(splits: Splits) -> None:
    comparison = compared(splits, seeds=3)
    arms = {"exact": (None, comparison.exact)} | {arm.name: (STANS[arm.name], arm.trainings) for arm in comparison.arms}
    seen = set()
    for stan, trainings in arms.values():
        for seed, training in enumerate(trainings):
            outcome = run(
                PROBLEM, {}, None, 0, 40, splits=splits, seed=derive("train", seed), stan=stan, evaluate=("test",)
            )
            assert training.test_error == outcome.errors["test"]
            assert (training.iterations, training.diverged_at) == (40, None)
            seen.add(training.test_error)
    assert len(seen) == 9, "the digests tell trainings apart"


@pytest.mark.usefixtures("errors_are_digests")
def test_the_callers_random_state_is_not_touched_and_not_used(splits: Splits) -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(errors(compared(splits, seeds=1).arms[0].trainings))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def test_real_digits(mnist: Dataset) -> None:
    lenet = replace(find("lenet"), batch_size=16)
    train = mnist.train.take(0, 600)
    splits = Splits(train, mnist.train.take(600, 601), mnist.test.take(0, 300), lenet.normalise.fit(train), 10)
    setting = {"lr": 0.02}
    comparison = compared(
        splits, seeds=1, problem=lenet, setting=setting, iterations=30, stans={"0.5": STANS["0.5"]}, equal_time=True
    )
    for stan, training in ((None, comparison.exact[0]), (STANS["0.5"], comparison.arms[0].trainings[0])):
        alone = run(lenet, setting, None, 0, 30, splits=splits, seed=derive("train", 0), stan=stan, evaluate=("test",))
        assert training.test_error == alone.errors["test"]
        assert 0 < alone.errors["test"] < 80
        assert training.seconds > 0
    assert (comparison.exact[0].kept, comparison.arms[0].trainings[0].kept) == (1.0, 0.5)
    equal = comparison.arms[0].equal_time
    assert equal is not None
    times = comparison.exact[0].seconds / comparison.arms[0].trainings[0].seconds
    assert equal.iterations == round(30 / times)
    # Inv's course is the same in fewer iterations.
    shorter = replace(lenet, solver=replace(lenet.solver, policy=Inv(1e-4 * 30 / equal.iterations, 0.75)))
    alone = run(shorter, setting, None, 0, equal.iterations, splits=splits, seed=derive("train", 0), evaluate=("test",))
    assert equal.trainings[0].test_error == alone.errors["test"]
    assert equal.trainings[0].seconds > 0


def test_turns_are_short_and_the_first_in_a_round_changes(splits: Splits, turns: list[tuple[float, int, int]]) -> None:
    for seed in (0, 1):
        turns.clear()
        assert train_in_turns(PROBLEM, {}, [None, *STANS.values()], 2 * TURN + 5, splits=splits, seed=seed)
        rounds = [turns[:3], turns[3:6], turns[6:]]
        first = [1.0, 0.5, 0.25]
        for number, (start, stop) in enumerate([(0, TURN), (TURN, 2 * TURN), (2 * TURN, 2 * TURN + 5)]):
            offset = (number + seed) % 3
            assert rounds[number] == [(rate, start, stop) for rate in first[offset:] + first[:offset]]


def test_a_warm_up_comes_first_and_is_thrown_away(splits: Splits, turns: list[tuple[float, int, int]]) -> None:
    compared(splits, seeds=2)
    assert turns[:3] == [(1.0, 0, WARM_UP), (0.5, 0, WARM_UP), (0.25, 0, WARM_UP)]
    assert Recorded.reduced[:3] == [0, 3, 4], "reduced iterations are warmed up too, whatever p_t is"
    assert turns[3][1:] == (0, TURN)
    assert [stop for _, start, stop in turns if start == 0].count(WARM_UP) == 3, "once, not for each seed"


def test_watch_is_told_each_iteration(splits: Splits) -> None:
    seen: list[int] = []
    train_in_turns(PROBLEM, {}, [None, STANS["0.5"]], TURN + 4, splits=splits, seed=0, watch=seen.append)
    assert seen == list(range(1, 2 * (TURN + 4) + 1))


class Lost(Recorded):
    """A trial whose training at rate 1/4 diverges in iteration 30."""

    def train(self, stop: int, *rest: Any) -> tuple[bool, bool]:
        lost = self.handle is not None and self.handle.stan.rate == 0.25
        _, interrupted = super().train(min(stop, 30) if lost else stop, *rest)
        return lost and self.iteration == 30, interrupted


def test_a_diverged_arm_is_told_and_the_others_go_on(
    splits: Splits, turns: list[tuple[float, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stantune.turns, "Trial", Lost)
    comparison = compared(splits, iterations=60, equal_time=True)
    good, lost = comparison.arms
    assert [(training.diverged_at, training.test_error, training.iterations) for training in lost.trainings] == [
        (30, None, 30)
    ] * 2
    assert None not in errors(good.trainings) + errors(comparison.exact)
    its = [turn for turn in turns if turn[0] == 0.25 and turn[2] != WARM_UP]
    assert its == [(0.25, 0, 25), (0.25, 25, 30)] * 2, "it costs nothing more"
    assert speedup(comparison.exact, lost.trainings) is None
    assert lost.equal_time is None
    assert good.equal_time is not None
    assert error_difference(comparison.exact, lost.trainings) == Spread(None, None)


def test_a_hopeless_setting_is_a_result_too(splits: Splits) -> None:
    hopeless = replace(PROBLEM, solver=Solver(lr=1e20))
    comparison = compared(splits, problem=hopeless, equal_time=True)
    for trainings in (comparison.exact, *(arm.trainings for arm in comparison.arms)):
        assert errors(trainings) == [None, None]
    assert [(arm.equal_time, arm.predicted_speedup) for arm in comparison.arms] == [(None, None)] * 2
    with pytest.raises(StantuneError, match="'noise' diverges"):
        comparer(splits, problem=hopeless, stans={"auto": Stan(rate="auto")}).compare(1)


def test_equal_time_fits_into_stans_time(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stantune.turns, "Trial", Timed)
    trained: list[tuple[int, Any, int]] = []

    def train(problem: Problem, setting: Any, checkpoint: None, start: int, stop: int, **rest: Any) -> Any:
        trained.append((stop, problem.solver.policy, rest["seed"]))
        return run(problem, setting, checkpoint, start, stop, **rest)

    monkeypatch.setattr(stantune.compare, "run", train)
    comparison = compared(splits, equal_time=True)
    half, quarter = comparison.arms
    assert half.equal_time is not None
    assert quarter.equal_time is not None
    # 3 s and 2 s an iteration, 3 s and 1 s: two thirds and one third of 40 iterations fit. Of the milestone at 30 there
    # remain 30 · 27/40 and 30 · 13/40, which are reached in iterations 21 and 10.
    assert (speedup(comparison.exact, half.trainings), half.equal_time.iterations) == (1.5, 27)
    assert (speedup(comparison.exact, quarter.trainings), quarter.equal_time.iterations) == (3.0, 13)
    seeds = [derive("train", seed) for seed in (0, 1)]
    assert trained == [
        *((27, MultiStep((21,), 0.5), seed) for seed in seeds),
        *((13, MultiStep((10,), 0.5), seed) for seed in seeds),
    ]
    assert [training.iterations for training in quarter.equal_time.trainings] == [13, 13]
    assert compared(splits, seeds=1).arms[0].equal_time is None, "only where it is asked for"


def test_scaling_a_problem_changes_its_policy_alone() -> None:
    problem = scaled(PROBLEM, Fraction(1, 2))
    assert problem == replace(PROBLEM, solver=replace(PROBLEM.solver, policy=MultiStep((15,), 0.5)))
    assert scaled(replace(PROBLEM, solver=Solver(lr=1.0)), Fraction(2)).solver.policy == Fixed()


def test_a_policy_that_cannot_be_scaled_is_refused_before_anything_is_trained(
    splits: Splits, turns: list[tuple[float, int, int]]
) -> None:
    class Own:
        def factor(self, iteration: int) -> float:
            return 0.5

    own = replace(PROBLEM, solver=Solver(lr=1e-4, policy=Own()))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'noise'.*Own has no method scaled\(factor\).*--equal-time"):
        comparer(splits, problem=own).compare(1, equal_time=True)
    assert not turns
    assert comparer(splits, problem=own, iterations=5).compare(1) is not None


def test_no_test_images_are_refused(splits: Splits) -> None:
    with pytest.raises(UsageError, match="'noise' has no test images"):
        comparer(replace(splits, test=splits.test.take(0, 0)))


def test_a_setting_outside_the_space_is_refused(splits: Splits) -> None:
    with pytest.raises(UsageError, match="lr"):
        comparer(splits, setting={"lr": 5.0})


class Stop:
    """Asks for the end after so many questions."""

    def __init__(self, after: float) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.usefixtures("errors_are_digests")
def test_what_is_finished_is_not_trained_again(
    splits: Splits, turns: list[tuple[float, int, int]], tmp_path: Path
) -> None:
    stans = {"0.5": STANS["0.5"]}
    whole = compared(splits, stans=stans, directory=tmp_path / "whole")
    turns.clear()

    def go(after: float) -> Comparison | None:
        return comparer(splits, stans=stans, directory=tmp_path / "cut", stop_early=Stop(after)).compare(2)

    # 39 questions or fewer for each training, none in the warm-up: the end comes in the second seed.
    assert go(100) is None
    assert sorted(file.name for file in (tmp_path / "cut").glob("*.json")) == ["plans.json", "seed-0.json"]
    first = json.loads((tmp_path / "cut" / "seed-0.json").read_text())
    turns.clear()
    cut = go(math.inf)
    assert cut is not None
    assert [stop for _, start, stop in turns if start == 0].count(TURN) == 2, "one seed, two trainings"
    assert errors(cut.exact) == errors(whole.exact)
    assert errors(cut.arms[0].trainings) == errors(whole.arms[0].trainings)
    assert cut.exact[0].seconds == first["content"]["exact"]["seconds"]
    turns.clear()
    assert go(math.inf) == cut
    assert not turns, "all is there"
    # More seeds are no other comparison.
    more = comparer(splits, stans=stans, directory=tmp_path / "cut").compare(3)
    assert more is not None
    assert more.exact[:2] == cut.exact
    assert [stop for _, start, stop in turns if start == 0].count(TURN) == 2


def test_the_order_of_the_arms_is_no_other_comparison(splits: Splits, tmp_path: Path) -> None:
    both = compared(splits, seeds=1, directory=tmp_path)
    turned = compared(splits, seeds=1, directory=tmp_path, stans=dict(reversed(STANS.items())))
    assert [arm.name for arm in turned.arms] == ["0.25", "0.5"]
    assert turned == replace(both, arms=both.arms[::-1])


def test_equal_time_goes_on_too(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stantune.turns, "Trial", Timed)
    stans = {"0.5": STANS["0.5"]}
    before = compared(splits, stans=stans, directory=tmp_path)
    assert comparer(splits, stans=stans, directory=tmp_path, stop_early=Stop(40)).compare(2, True) is None
    kept = {"plans.json", "seed-0.json", "seed-1.json", "exact-27-of-40-seed-0.json"}
    assert {file.name for file in tmp_path.glob("*.json")} == kept
    titles: list[tuple[str, int]] = []

    @contextmanager
    def progress(title: str, iterations: int) -> Iterator[Callable[[int], None]]:
        titles.append((title, iterations))
        yield lambda done: None

    after = compared(splits, stans=stans, directory=tmp_path, equal_time=True, progress=progress)
    assert titles == [("seed 1: exact, as long as 0.5", 27)]
    assert after.exact == before.exact
    assert after.arms[0].equal_time is not None
    assert len(after.arms[0].equal_time.trainings) == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"iterations": 41}, "iterations is 40 there and 41 here"),
        ({"setting": {"lr": 0.1}}, "(setting.lr is here alone)"),
        ({"stans": {"0.5": Stan(rate=0.5, period=4)}}, "stan.0.5.period is 3 there and 4 here"),
        ({"stans": STANS}, "(stan.0.25 is here alone)"),
        ({"problem": replace(PROBLEM, batch_size=9)}, "batch_size is 8 there and 9 here"),
        ({"problem": replace(PROBLEM, name="other")}, "problem is noise there and other here"),
    ],
)
def test_the_directory_of_another_comparison_is_refused(
    splits: Splits, tmp_path: Path, more: Mapping[str, Any], said: str
) -> None:
    stans = {"0.5": STANS["0.5"]}
    compared(splits, seeds=1, stans=stans, directory=tmp_path)
    with pytest.raises(UsageError) as caught:
        comparer(splits, **{"stans": stans, "directory": tmp_path, **more}).compare(1)
    assert said in str(caught.value)


def test_other_threads_are_another_comparison(splits: Splits, tmp_path: Path) -> None:
    compared(splits, seeds=1, iterations=5, directory=tmp_path)
    torch.set_num_threads(2)
    with pytest.raises(UsageError, match="threads is 1 there and 2 here"):
        comparer(splits, iterations=5, directory=tmp_path).compare(1)


TIMES = ModelTimes(
    (
        LayerTimes(
            "0",
            t_f=0.002,
            t_b=0.004,
            t_e=0.003,
            patterns=tuple(
                PatternTimes(name, saved / 3, saved * 2 / 3, error)
                for name, saved, error in (("rows", 0.003, 0.2), ("columns", 0.003, 0.3), ("blocks", 0.0045, 0.4))
            ),
        ),
    ),
    step_seconds=0.009,
    rounds=1,
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Replace the measurement by TIMES; what it was asked for is returned."""
    asked: list[tuple[str, ...]] = []

    def times_of(problem: Problem, setting: Any, layers: tuple[str, ...], splits: Splits, device: str) -> ModelTimes:
        assert (problem, setting, device) == (PROBLEM, {}, "cpu")
        asked.append(layers)
        return TIMES

    monkeypatch.setattr(stantune.compare, "times_of", times_of)
    return asked


def test_the_speedup_is_predicted_for_the_whole_training(splits: Splits, measured: list[tuple[str, ...]]) -> None:
    half, quarter = compared(splits, seeds=1).arms
    # Z = 3: of 40 iterations 30 are reduced and take 6 ms, 10 take 9 ms.
    assert half.predicted_speedup == pytest.approx(40 * 9 / (30 * 6 + 10 * 9))
    # p_t = 7: 33 iterations take 4.5 ms.
    assert quarter.predicted_speedup == pytest.approx(40 * 9 / (33 * 4.5 + 7 * 9))
    assert (half.stan, quarter.stan) == tuple(STANS.values())
    assert measured == [("*",)], "once for all"


@pytest.mark.parametrize(("rate", "fits"), [(0.5, True), ("auto", False)])
def test_times_that_contradict_each_other_spoil_a_plan_alone(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, rate: Any, fits: bool
) -> None:
    monkeypatch.setattr(stantune.compare, "times_of", lambda *_, **__: TIMES._replace(step_seconds=0.001))
    stans = {"x": Stan(rate=rate)}
    if fits:
        assert compared(splits, seeds=1, iterations=5, stans=stans).arms[0].predicted_speedup is None
    else:
        with pytest.raises(UsageError, match=r"step_seconds=0\.001"):
            comparer(splits, iterations=5, stans=stans).compare(1)


def test_auto_is_planned_once(splits: Splits, measured: list[tuple[str, ...]], tmp_path: Path) -> None:
    stans = {"auto": Stan(rate="auto", pretrain=2)}
    lines: list[str] = []
    arm = compared(splits, seeds=1, stans=stans, directory=tmp_path, say=lines.append).arms[0]
    assert arm.asked.rate == "auto"
    assert arm.stan.plan == (LayerPlan("0", ("rows", "columns", "blocks")),)
    assert (arm.stan.rate, arm.stan.pretrain) == (0.25, 2)
    assert lines == [f"auto: 0 rows or columns or blocks; Z = {arm.stan.period}"]
    assert arm.predicted_speedup is not None
    again = compared(splits, seeds=2, stans=stans, directory=tmp_path).arms[0]
    assert (again.stan, again.predicted_speedup, len(measured)) == (arm.stan, arm.predicted_speedup, 1)
    assert again.trainings[:1] == arm.trainings
    alone = run(PROBLEM, {}, None, 0, 40, splits=splits, seed=derive("train", 1), stan=again.stan, evaluate=("test",))
    assert again.trainings[1].test_error == alone.errors["test"]


@pytest.mark.usefixtures("measured", "errors_are_digests")
def test_memo_in_turns(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1_000_000])
    monkeypatch.setattr(stantune.compare, "free_memory", lambda: next(free))
    memo = Memo(samples=60, epoch=7)
    stans = {
        "0.5": Stan(memo=memo, period=2),
        "0.25": Stan(rate=0.25, memo=memo, period=2),
        "own": Stan(memo=replace(memo, budget=123_456), period=2),
        "none": STANS["0.5"],
    }
    lines: list[str] = []
    arms = compared(splits, seeds=1, stans=stans, directory=tmp_path, say=lines.append).arms
    # 4 channels of 64 entries in bfloat16, for 60 samples: 30.7 kB, and what tells samples apart.
    assert lines == [f"{name}: it holds 0.0 MB of memory" for name in ("0.5", "0.25", "own")]
    for arm in arms:
        alone = run(PROBLEM, {}, None, 0, 40, splits=splits, seed=derive("train", 0), stan=arm.stan, evaluate=("test",))
        assert arm.trainings[0].test_error == alone.errors["test"]
        assert arm.trainings[0].kept == arm.asked.rate
        assert (arm.predicted_speedup is None) == (arm.asked.memo is not None)
    # All are in memory at once: two share what one alone might take.
    budgets = [None if arm.stan.memo is None else arm.stan.memo.budget for arm in arms]
    assert budgets == [250_000, 250_000, 123_456, None]
    assert [arm.stan for arm in arms] == [
        stan if stan.memo is None else replace(stan, memo=replace(stan.memo, budget=budget))
        for stan, budget in zip(stans.values(), budgets, strict=True)
    ]
    # The memory that is free another time gives no other layers one.
    assert compared(splits, seeds=1, stans=stans, directory=tmp_path).arms == arms


@pytest.mark.usefixtures("no_kernels")
def test_stan_that_changes_nothing_is_told_once(splits: Splits, recwarn: pytest.WarningsRecorder) -> None:
    lines: list[str] = []
    comparison = compared(splits, seeds=2, iterations=5, stans={"1": Stan(rate=1)}, say=lines.append)
    assert [line.split(" (")[0] for line in lines] == ["1: STAN changes nothing in this model"]
    assert not recwarn.list
    assert errors(comparison.exact) == errors(comparison.arms[0].trainings)


def test_a_damaged_record_is_told(splits: Splits, tmp_path: Path) -> None:
    compared(splits, seeds=1, iterations=5, directory=tmp_path)
    (tmp_path / "seed-0.json").write_text("{")
    with pytest.raises(StantuneError, match=r"seed-0\.json is damaged"):
        comparer(splits, iterations=5, directory=tmp_path).compare(1)


def training(seconds: float, error: float | None, iterations: int = 10) -> Training:
    return Training(iterations, seconds, 1.0, error, None if error is not None else iterations)


def test_numbers() -> None:
    exact = [training(30, 20.0), training(60, 22.0), training(33, 21.0), training(1, None, 2)]
    other = [training(20, 20.5), training(30, 22.1), training(7, None, 4), training(20, 24.0)]
    # Of the first two seeds, which both were trained to the end: 90 s and 50 s, 1.5 and 2 times faster.
    assert speedup(exact, other) == 1.8
    assert speedup_deviation(exact, other) == pytest.approx(math.sqrt(0.125))
    difference = error_difference(exact, other)
    assert difference.mean == pytest.approx(0.3)
    assert difference.deviation == pytest.approx(math.sqrt(2 * 0.2**2))
    assert seconds_per_iteration(exact) == 124 / 32
    assert seconds_per_iteration([training(0, None, 0)]) is None
    assert speedup(exact[:1], other[:1]) == 1.5
    assert speedup_deviation(exact[:1], other[:1]) is None
    assert speedup(exact[2:], other[2:]) is None
    assert error_difference(exact[:1], other[:1]) == Spread(0.5, None)
    assert spread([]) == Spread(None, None)
    assert spread([1.0, 2.0, 6.0]) == Spread(3.0, math.sqrt(7))
