"""What becomes of a training whose function is wrong: what its failure says, and whether it is tried again."""

from __future__ import annotations

import sys

import pytest

from stantune.errors import UsageError
from stantune.objectives.function.objective import FunctionObjective
from stantune.parameters import Float
from stantune.protocols import Metric, Place, Segment
from stantune.search.workers.executors import Failure, attempt
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Workers
from stantune.space import Space

pytestmark = pytest.mark.usefixtures("one_thread")


def objective(function):
    return FunctionObjective(function, Space({"x": Float(0, 1)}), Metric("loss"), name="train")


def how(function, tmp_path):
    """Return how a training in this process ends."""
    segment = Segment(0, {"x": 0.5}, 0, 1, 5, tmp_path / "trial.pt", bracket=0)
    return attempt(objective(function).trainer(Place(threads=1)), segment, lambda: False, lambda done: None)


def leaves(run):
    sys.exit(2)


def leaves_silently(run):
    sys.exit()


def test_sys_exit_is_a_failure_of_the_trial(tmp_path):
    line = leaves.__code__.co_firstlineno + 1
    assert how(leaves, tmp_path) == Failure(f"SystemExit: 2 (test_mistakes.py:{line})")
    assert how(leaves_silently, tmp_path).cause.startswith("SystemExit (test_mistakes.py:")


def test_sys_exit_is_a_failure_of_the_trial_in_workers_too(tmp_path):
    line = leaves.__code__.co_firstlineno + 1
    with Workers(Order(objective(leaves), Place(threads=1)), 1) as workers:
        for number in range(2):
            workers.submit(Segment(number, {"x": 0.5}, 0, 1, 5, tmp_path / f"{number}.pt", bracket=0))
            ((_, failure),) = workers.finished(lambda: False, lambda segment, done: None)
            assert failure == Failure(f"SystemExit: 2 (test_mistakes.py:{line})")


def test_sys_exit_after_a_divergence_is_one(tmp_path):
    def train(run):
        try:
            run.loss(float("nan"))
        except BaseException:
            sys.exit(1)

    assert how(train, tmp_path).diverged_at == 0


def test_ctrl_c_passes_also_where_an_exit_was_made_of_it(tmp_path):
    def exits(run):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    def passes(run):
        raise KeyboardInterrupt

    for function in (exits, passes):
        with pytest.raises(KeyboardInterrupt):
            how(function, tmp_path)


@pytest.mark.parametrize("returned", [None, "0.5", {"los": 1}, {"loss": 1, "text": "a"}, {3: 1}, 10**400])
def test_what_would_be_returned_once_more_is_not_tried_again(tmp_path, returned):
    failure = how(lambda run: returned, tmp_path)
    assert isinstance(failure, Failure)
    assert not failure.again
    # Our own line is no place where anything could be mended.
    assert failure.cause.startswith("ReturnError: train returned")
    assert ".py:" not in failure.cause


def test_a_wrong_loss_is_not_tried_again_and_its_line_is_told(tmp_path):
    failure = how(lambda run: run.loss("a"), tmp_path)
    assert not failure.again
    assert "(test_mistakes.py:" in failure.cause


def test_what_a_function_raises_is_tried_again(tmp_path):
    def train(run):
        raise ValueError("x" * 300)

    failure = how(train, tmp_path)
    assert failure.again
    assert "… (test_mistakes.py:" in failure.cause


def test_what_is_kept_without_a_name_ends_the_search(tmp_path):
    with pytest.raises(UsageError, match="without a name"):
        how(lambda run: run.keep([0.0]), tmp_path)
