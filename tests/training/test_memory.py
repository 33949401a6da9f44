"""What a trial holds goes with it: nothing waits for Python's garbage collection."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

from stantune.images.problem.built_in import Problem, Splits, find
from stantune.stan.config import Stan
from stantune.training.trial import Trial


def test_a_trial_that_is_dropped_is_gone(small: Callable[[Problem], Splits]) -> None:
    problem = find("lenet")
    gc.disable()
    try:
        trial = Trial(problem, {}, small(problem), seed=0, stan=Stan(rate=1))
        trial.train(1, lambda: False, lambda iteration: None)
        gone = weakref.ref(trial)
        del trial
        assert gone() is None
    finally:
        gc.enable()
