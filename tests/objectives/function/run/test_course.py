"""What a function can do with its Run, and what its end is taken for."""

from __future__ import annotations

import math
import random
import time
import warnings
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from stantune.errors import CheckpointError, DamagedCheckpointError, StantuneError, StanWarning, UsageError
from stantune.objectives.function import course
from stantune.objectives.returned import LossError, ReturnError
from stantune.protocols import Metric

pytestmark = pytest.mark.usefixtures("one_thread")


def keeping(run):
    """Count steps, and keep the count."""
    count = [0]
    run.keep(count=count)
    for _ in run.steps():
        count[0] += 1
    return {"loss": count[0]}


def test_a_run_says_what_there_is_to_train(trained):
    seen = []

    def train(run):
        seen.append((run.params, run.start, run.stop, run.final, run.device, run.threads, run.done))
        return keeping(run)

    trained(train, 0, 2, params={"x": 0.25})
    trained(train, 2, 6, params={"x": 0.25})
    assert seen == [({"x": 0.25}, 0, 2, False, "cpu", 1, 0), ({"x": 0.25}, 2, 6, False, "cpu", 1, 2)]
    trained(train, 0, 6, final=True)
    assert seen[-1][3]
    assert (trained.where / "final.pt").is_file()


def test_steps_are_what_is_left(trained):
    steps = []

    def train(run):
        count = [0]
        run.keep(count=count)
        for step in run.steps():
            steps.append(step)
        return 1.0

    trained(train, 0, 3)
    trained(train, 3, 5)
    assert steps == [0, 1, 2, 3, 4]
    assert trained.watched == [1, 2, 3, 4, 5]
    trained(train, 3, 5)
    assert steps == [0, 1, 2, 3, 4]


def test_a_seed_is_one_that_everything_takes(trained):
    seeds = []

    def train(run):
        seeds.append(run.seed)
        np.random.RandomState(run.seed)
        torch.Generator().manual_seed(run.seed)
        return 1.0

    for seed in (0, 1, 2**63 - 1):
        trained(train, seed=seed)
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_all_random_states_begin_alike_and_go_on(trained):
    drawn = []

    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    def train(run):
        kept = [0]
        run.keep(kept=kept)
        drawn.append(draw())
        for _ in run.steps():
            drawn.append(draw())
        return 1.0

    trained(train, 0, 2)
    trained(train, 2, 3)
    begin, first, second, again, third = drawn
    assert begin == again
    assert len({begin, first, second, third}) == 4
    drawn.clear()
    (trained.checkpoint).unlink()
    trained(train, 0, 3)
    assert drawn == [begin, first, second, third]
    drawn.clear()
    trained.checkpoint.unlink()
    trained(train, 0, 1, seed=6)
    assert begin not in drawn


def test_the_callers_random_states_come_back(trained):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    trained(lambda run: (random.random(), np.random.rand(), torch.rand(3), 1.0)[-1])
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_a_function_that_returns_at_once_has_trained_to_the_end(trained):
    outcome = trained(lambda run: {"loss": run.stop}, 0, 3)
    assert (outcome.iterations, outcome.metrics, outcome.cost.exact) == (3, {"loss": 3.0}, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trained(lambda run: run.stop, 3, 9).metrics == {"loss": 9.0}
    assert list(trained.where.iterdir()) == []


def test_without_keep_each_segment_begins_anew_and_that_is_said(trained):
    steps = []

    def train(run):
        steps.extend(run.steps())
        return len(steps)

    trained(train, 0, 2)
    with pytest.warns(
        StanWarning, match=r"train keeps nothing, so that each segment is trained from the beginning; call"
    ):
        outcome = trained(train, 2, 4)
    assert steps == [0, 1, 0, 1, 2, 3]
    assert outcome.cost.exact == 4
    assert not trained.checkpoint.exists()


def test_a_function_that_leaves_its_steps_has_trained_to_the_end(trained):
    steps = []

    def train(run):
        kept = [0]
        run.keep(kept=kept)
        for step in run.steps():
            steps.append(step)
            if step == 1:
                break
        return 1.0

    assert trained(train, 0, 5).iterations == 5
    assert trained(train, 0, 5).iterations == 5
    assert steps == [0, 1]


@pytest.mark.parametrize(
    "returned",
    [
        {"loss": 0.5, "n": 3},
        {"loss": np.float32(0.5), "n": np.int64(3)},
        {"loss": torch.tensor([[0.5]], requires_grad=True), "n": torch.tensor(3)},
        {"loss": np.array([0.5]), "n": 3, "unknown": math.nan},
    ],
)
def test_metrics_are_pythons_numbers(trained, returned):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = trained(lambda run: returned)
    assert outcome.metrics == {"loss": 0.5, "n": 3.0}
    assert all(type(value) is float for value in outcome.metrics.values())


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (None, r"train returned None; return \{'loss': number\}, or the number alone"),
        ("0.5", "train returned a str; return"),
        ({}, "train returned nothing, and not 'loss', by which trials are compared; return it too"),
        ({"f1": 1, "n": 2}, "train returned 'f1', 'n', and not 'loss', by which"),
        ({"loss": None}, "train returned None as 'loss'; a metric is one number"),
        ({"loss": [0.5]}, "train returned a list as 'loss'"),
        ({"loss": True}, "train returned a bool as 'loss'"),
        ({"loss": torch.zeros(2)}, "train returned a Tensor as 'loss'"),
        ({"loss": np.zeros(2)}, "train returned a ndarray as 'loss'"),
        (10**400, "train returned a whole number of 401 digits as 'loss', and a metric is at most some 1.8e308"),
        ({"loss": -(10**4000)}, "train returned a whole number of 4001 digits as 'loss'"),
        ({"loss": 1, "n": "many"}, "a str as 'n'; a metric is one number, also where it is not compared as 'loss' is:"),
        ({3: 0.5}, "train returned a metric called 3; a metric's name is a text"),
    ],
)
def test_what_is_no_metric_fails_the_trial(trained, returned, sentence):
    with pytest.raises(ReturnError, match=sentence) as raised:
        trained(lambda run: returned)
    # One trial's misfortune; a StantuneError would end the search.
    assert not isinstance(raised.value, StantuneError)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", "'a'"),
        ("0.5", "'0.5'"),
        (None, "None"),
        ([0.5], "a list"),
        (1j, "a complex"),
        (torch.zeros(3), r"a Tensor of shape \(3,\)"),
        (np.zeros((2, 2)), r"a ndarray of shape \(2, 2\)"),
    ],
)
def test_a_loss_that_is_no_number_is_told_in_a_sentence(trained, value, shown):
    with pytest.raises(LossError, match=rf"^`value` of run\.loss is {shown}, and a loss is one number; give") as raised:
        trained(lambda run: run.loss(value))
    assert not raised.value.again


def test_every_kind_of_number_is_a_loss(trained):
    seen = []

    def train(run):
        for value in (1, 0.5, Fraction(1, 2), np.float32(0.5), np.ones(1), torch.ones(1, 1), torch.tensor(1)):
            run.loss(value)
        seen.extend(mean for _, mean in run.curve)
        return 1.0

    trained(train)
    assert seen == [1, 0.5, 0.5, 0.5, 1, 1, 1]
    assert trained(lambda run: run.loss(10**400), 0, 3).diverged_at == 0


def test_what_a_gpu_has_to_say_is_no_matter_of_the_metric(trained):
    class Faulty:
        def item(self):
            raise RuntimeError("CUDA error: out of memory")

    for function in (lambda run: run.loss(Faulty()), lambda run: Faulty()):
        with pytest.raises(RuntimeError, match="out of memory"):
            trained(function)


def test_what_is_kept_without_a_name_is_told_in_a_sentence(trained):
    def swallows(run):
        try:
            run.keep(torch.nn.Linear(1, 1))
        except Exception:
            return 1.0

    for function in (swallows, lambda run: run.keep([0.0], count=[0])):
        with pytest.raises(
            UsageError, match=r"^run\.keep was given a (Linear|list) without a name, .* name each thing"
        ):
            trained(function)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_compared_metric_that_is_not_finite_is_a_divergence(trained, value):
    outcome = trained(lambda run: {"loss": value, "other": 1.0}, 0, 3)
    assert (outcome.diverged_at, outcome.metrics, outcome.iterations) == (3, {}, 3)


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan), np.float32("inf")])
def test_a_loss_that_is_not_finite_ends_the_function_at_once(trained, loss):
    after = []

    def train(run):
        kept = [0]
        run.keep(kept=kept)
        for step in run.steps():
            try:
                run.loss(loss if step == 2 else 0.5)
            except Exception:
                after.append("swallowed")
            if step == 2:
                after.append(step)
        return 1.0

    outcome = trained(train, 0, 5)
    assert (outcome.iterations, outcome.diverged_at, outcome.metrics, outcome.interrupted) == (2, 2, {}, False)
    assert after == []
    # Done again it diverges again.
    assert trained(train, 0, 5) == outcome


def test_a_divergence_stays_one_whatever_becomes_of_its_exception(trained):
    def swallows(run):
        for _ in run.steps():
            try:
                run.loss(math.nan)
            except BaseException:
                break
        return 1.0

    def wraps(run):
        try:
            run.loss(math.nan)
        except BaseException as error:
            raise RuntimeError("something went wrong") from error

    def goes_on(run):
        for _ in run.steps():
            try:
                run.loss(math.nan)
            except BaseException:
                continue
        return 1.0

    for train in (swallows, wraps, goes_on):
        assert trained(train).diverged_at == 0


def test_losses_of_tensors_with_gradients_do_not_warn(trained):
    def train(run):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run.loss(torch.ones((), requires_grad=True))
            run.loss(np.float64(1))
            run.loss(1)
        return run.curve[-1][1]

    assert trained(train).metrics == {"loss": 1.0}


def test_the_curve_goes_on(trained):
    curves = []

    def train(run):
        kept = [0]
        run.keep(kept=kept)
        for step in run.steps():
            for i in range(300):
                run.loss(step * 300.0 + i)
        curves.append(run.curve)
        return 1.0

    trained(train, 0, 4)
    trained.checkpoint.unlink()
    trained(train, 0, 1)
    trained(train, 1, 4)
    assert curves[0] == curves[2]
    assert len(curves[0]) <= 512
    ends = [count for count, _ in curves[0]]
    assert ends[-1] == 1200
    for (before, _), (count, mean) in pairwise([(0, 0.0), *curves[0]]):
        assert mean == pytest.approx((before + count - 1) / 2)


def test_it_is_interrupted_between_two_steps(trained):
    asked = []

    def stop_early():
        asked.append(len(trained.watched))
        return len(trained.watched) == 2

    outcome = trained(keeping, 0, 5, stop_early=stop_early)
    assert (outcome.iterations, outcome.metrics, outcome.interrupted, outcome.diverged_at) == (2, {}, True, None)
    assert trained(keeping, 0, 5).metrics == {"loss": 5.0}


def test_nobody_is_interrupted_after_the_last_step(trained):
    assert trained(keeping, 0, 3, stop_early=lambda: len(trained.watched) == 3).metrics == {"loss": 3.0}


def test_an_interruption_without_keep_begins_anew(trained):
    def train(run):
        return sum(1 for _ in run.steps())

    outcome = trained(train, 0, 5, stop_early=lambda: len(trained.watched) == 2)
    assert (outcome.iterations, outcome.interrupted) == (0, True)
    assert trained(train, 0, 5).metrics == {"loss": 5.0}


def test_a_long_step_that_gives_losses_lives_and_can_be_interrupted(trained, monkeypatch):
    monkeypatch.setattr(course, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(course, "SAVE_SECONDS", 0.1)

    def train(run):
        kept = [0]
        run.keep(kept=kept)
        for step in run.steps():
            if step == 1:
                while True:
                    run.loss(1.0)
                    time.sleep(0.005)
        return 1.0

    begun = time.monotonic()
    outcome = trained(train, 0, 3, stop_early=lambda: time.monotonic() - begun > 0.5)
    assert outcome.interrupted
    assert trained.watched.count(1) > 5


def test_a_loop_of_its_own_goes_on_and_says_how_far_it_is(trained):
    def train(run):
        kept = {"sum": 0.0}
        run.keep(kept=kept)
        for number in range(run.go_on(), run.stop):
            kept["sum"] += random.random()
            run.reached(number + 1)
        return kept["sum"]

    whole = trained(train, 0, 6)
    assert trained.watched == [1, 2, 3, 4, 5, 6]
    trained.checkpoint.unlink()
    trained(train, 0, 2)
    assert trained(train, 0, 4, stop_early=lambda: True).interrupted
    trained(train, 0, 4)
    assert trained(train, 4, 6) == whole


@pytest.mark.parametrize("done", [0, 2, 4])
def test_it_cannot_reach_what_is_behind_or_beyond_it(trained, done):
    def train(run):
        run.reached(2)
        run.reached(done)

    with pytest.raises(UsageError, match=f"{done} cannot be reached from 2 in a segment that ends at 3"):
        trained(train)


def test_a_loop_that_asks_ends_itself(trained):
    def train(run):
        kept = [0]
        run.keep(kept=kept)
        while kept[0] < run.stop:
            if run.should_stop:
                return None
            kept[0] += 1
            run.reached(run.done + 1)
        return kept[0]

    outcome = trained(train, 0, 5, stop_early=lambda: len(trained.watched) >= 2)
    assert (outcome.iterations, outcome.interrupted, outcome.metrics) == (2, True, {})
    assert trained(train, 0, 5).metrics == {"loss": 5.0}


def test_its_folder_is_made_when_it_is_used_and_stays(trained):
    trained(lambda run: 1.0, 0, 1)
    assert not (trained.where / "trial-000000").exists()

    def train(run):
        (run.directory / "log").write_text("one line")
        return 1.0

    trained(train, 0, 1)
    trained(train, 1, 2)
    trained(train, 0, 2, final=True)
    assert (trained.where / "trial-000000" / "log").read_text() == "one line"
    assert (trained.where / "final" / "log").exists()


def test_files_are_kept_in_the_one_checkpoint(trained):
    def train(run):
        where = run.checkpoint_dir
        state = where / "deep" / "state.txt"
        lines = state.read_text().splitlines() if state.exists() else []
        state.parent.mkdir(exist_ok=True)
        for step in run.steps():
            lines.append(f"{step} {random.random()}")
            state.write_text("\n".join(lines))
            (where / f"of-{step}.bin").write_bytes(bytes([step]) * step)
            (where / f"of-{step - 1}.bin").unlink(missing_ok=True)
        assert sorted(path.name for path in where.iterdir()) == ["deep", f"of-{run.stop - 1}.bin"]
        return {"loss": len(lines), "hash": hash(tuple(lines)) % 1000}

    whole = trained(train, 0, 4)
    assert whole.metrics["loss"] == 4
    assert list(trained.where.iterdir()) == [trained.checkpoint]
    trained.checkpoint.unlink()
    # What a killed process has left there is nobody's.
    left = trained.where / "trial-000000.checkpoint" / "deep"
    left.mkdir(parents=True)
    (left / "state.txt").write_text("9 9\n9 9")
    trained(train, 0, 1)
    trained(train, 1, 4, stop_early=lambda: len(trained.watched) == 7)
    assert trained(train, 1, 4) == whole


def test_files_of_a_function_without_steps_are_kept_when_it_returns(trained):
    def train(run):
        state = run.checkpoint_dir / "done"
        done = int(state.read_text()) if state.exists() else 0
        assert done == run.start
        state.write_text(str(run.stop))
        return {"loss": done}

    assert trained(train, 0, 2).metrics == {"loss": 0}
    assert trained(train, 2, 6).metrics == {"loss": 2}


def test_a_damaged_checkpoint_is_known(trained):
    trained(keeping, 0, 2)
    trained.checkpoint.write_bytes(trained.checkpoint.read_bytes()[:-100])
    with pytest.raises(DamagedCheckpointError):
        trained(keeping, 2, 4)


@pytest.mark.parametrize(
    "other", [{"seed": 6}, {"params": {"x": 0.25}}, {"unit": "iteration"}, {"metric": Metric("loss", "maximize")}]
)
def test_another_trials_checkpoint_is_refused(trained, other):
    trained(keeping, 0, 2)
    with pytest.raises(CheckpointError, match="is another trial's or another version's"):
        trained(keeping, 2, 4, **other)


def test_a_checkpoint_that_is_too_far_is_refused(trained):
    trained(keeping, 0, 4)
    with pytest.raises(CheckpointError, match="is at 4, beyond 2, where the segment ends; delete it to train anew"):
        trained(keeping, 0, 2)


def test_a_function_that_takes_nothing_of_what_was_kept_is_refused(trained):
    trained(keeping, 0, 2)
    with pytest.raises(CheckpointError, match=r"holds count, and here nobody has called run.keep for that"):
        trained(lambda run: sum(range(run.start, run.stop)), 2, 4)


def test_changed_code_may_go_on_where_the_search_lets_it(trained):
    def keeping_more(run):
        return {**keeping(run), "more": 1.0}

    trained(keeping, 0, 2)
    assert trained(keeping_more, 2, 4).metrics == {"loss": 4.0, "more": 1.0}


def test_what_fails_is_the_functions_own_exception(trained):
    def train(run):
        for step in run.steps():
            if step == 1:
                raise KeyError("images")

    with pytest.raises(KeyError, match="images"):
        trained(train)


def test_a_checkpoint_that_cannot_be_written_ends_the_search_even_where_the_function_does_not_care(trained):
    def train(run):
        kept = [0]
        run.keep(kept=kept)
        try:
            for _ in run.steps():
                pass
        except Exception:
            pass
        return 1.0

    trained.where.joinpath("trial-000000.pt").mkdir()
    (trained.where / "trial-000000.pt" / "x").touch()
    with pytest.raises(StantuneError):
        trained(train)


def test_it_saves_once_a_minute(trained, monkeypatch):
    saves = []
    save = course.Keeper.save
    monkeypatch.setattr(course.Keeper, "save", lambda *args: (saves.append(args[0].done), save(*args)))
    trained(keeping, 0, 9)
    assert saves == [9]
    monkeypatch.setattr(course, "SAVE_SECONDS", 0.0)
    trained.checkpoint.unlink()
    trained(keeping, 0, 4)
    assert saves == [9, 1, 2, 3, 4]


def test_the_evaluation_is_the_time_after_the_steps(trained):
    def train(run):
        time.sleep(0.05)
        for _ in run.steps():
            time.sleep(0.02)
        time.sleep(0.2)
        return 1.0

    cost = trained(train).cost
    assert 0.2 <= cost.evaluation_seconds < 1
    assert cost.exact_seconds >= 0.05 + 3 * 0.02
    assert cost.reduced == 0


def test_it_leaves_nothing_of_its_paths_behind(trained, tmp_path: Path):
    trained(keeping, 0, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["trial-000000.pt"]
