"""What a function's Run says of its training: settings, steps, seeds, random states, interruptions, costs."""

from __future__ import annotations

import random
import time
import warnings

import numpy as np
import pytest
import torch
from counting import keeping

from stantune.errors import StanWarning, UsageError
from stantune.objectives.function import course

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_what_a_loop_of_its_own_left_half_done_is_not_kept(trained):
    def train(run):
        kept = [0.0]
        run.keep(kept=kept)
        for number in range(run.go_on(), run.stop):
            for batch in range(10):
                if batch == 5 and number in asks and run.should_stop and number == asks[-1]:
                    return None
                kept[0] += random.random()
            run.reached(number + 1)
        return kept[0]

    asks: tuple[int, ...] = ()
    expected = trained(train, 0, 5).metrics
    # Told in the step that it leaves, or in the one before, which is then saved as it is done.
    for asks, saved in (((2,), 0), ((1, 2), 2)):
        trained.checkpoint.unlink()
        asked = iter([False] * (asks[0]))
        outcome = trained(train, 0, 5, stop_early=lambda asked=asked: next(asked, True))
        assert (outcome.interrupted, outcome.metrics) == (True, {})
        asks = ()
        trained.watched.clear()
        assert trained(train, 0, 5).metrics == expected
        assert trained.watched == list(range(saved + 1, 6))


def test_a_loop_that_asks_in_the_middle_of_steps_is_saved_more_often(trained, monkeypatch):
    def train(run):
        kept = [0]
        run.keep(kept=kept)
        for number in range(run.go_on(), run.stop):
            if asks and run.should_stop:
                return None
            kept[0] += 1
            if asks and run.should_stop:
                return None
            run.reached(number + 1)
        return kept[0]

    monkeypatch.setattr(course, "ASKED_SECONDS", 0.0)
    # Told in the third step, after which only the first is saved where saves take long; one that does not ask is told
    # at the end of its eighth, which is saved.
    for asks, share, saved in ((True, 1e9, 2), (True, 1e-9, 1), (False, 1e9, 8)):
        monkeypatch.setattr(course, "SAVE_SHARE", share)
        told = iter([False] * 7)
        assert trained(train, 0, 9, stop_early=lambda told=told: next(told, True)).interrupted
        asks = False
        trained.watched.clear()
        assert trained(train, 0, 9).metrics == {"loss": 9.0}
        assert trained.watched == list(range(saved + 1, 10))
        trained.checkpoint.unlink()


@pytest.mark.parametrize("begins", ["start", "go_on"])
def test_a_loop_that_says_nothing_of_how_far_it_is_is_done_again(trained, begins):
    def train(run):
        kept = [0.0]
        run.keep(kept=kept)
        for epoch in range(run.start if begins == "start" else run.go_on(), run.stop):
            kept[0] += random.random()
            trained.watched.append(epoch)
            if run.should_stop and epoch < run.stop - 1:
                return None
        return kept[0]

    trained(train, 0, 2)
    expected = trained(train, 2, 6).metrics
    trained.checkpoint.unlink()
    for start, stop in ((0, 2), (2, 6)):
        before = trained.checkpoint.read_bytes() if start else None
        outcome = trained(train, start, stop, stop_early=lambda: True)
        assert (outcome.iterations, outcome.interrupted, outcome.metrics) == (start, True, {})
        assert (trained.checkpoint.read_bytes() if start else None) == before
        again = trained(train, start, stop)
    assert again.metrics == expected


@pytest.mark.parametrize("asks", ["in the middle of a step", "as the last thing of a step"])
def test_a_step_in_which_a_function_ends_itself_is_done_again(trained, monkeypatch, asks):
    def train(run):
        kept = [0.0]
        run.keep(kept=kept)
        for _ in run.steps():
            for batch in range(10):
                if batch == 5 and asks == "in the middle of a step" and run.should_stop:
                    return None
                kept[0] += random.random()
            if asks == "as the last thing of a step" and run.should_stop:
                return None
        return kept[0]

    expected = trained(train, 0, 3).metrics
    for seconds in (60.0, 0.0):
        # What was saved last is what counts: nothing, or the step before.
        monkeypatch.setattr(course, "SAVE_SECONDS", seconds)
        trained.checkpoint.unlink()
        trained.watched.clear()
        asked = iter(range(3))
        assert trained(train, 0, 3, stop_early=lambda asked=asked: next(asked, 3) == 2).interrupted
        assert trained.watched == [1]
        assert trained(train, 0, 3).metrics == expected
        assert trained.watched == ([1, 1, 2, 3] if seconds else [1, 2, 3])


def test_what_fails_is_the_functions_own_exception(trained):
    def train(run):
        for step in run.steps():
            if step == 1:
                raise KeyError("images")

    with pytest.raises(KeyError, match="images"):
        trained(train)


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
