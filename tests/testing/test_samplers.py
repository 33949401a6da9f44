"""Our samplers, and Optuna's by the adapter, pass the checks; each bad sampler is caught by the check meant for it."""

from __future__ import annotations

import functools
import importlib
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float
from stantune.search.propose.sampler import (
    Asked,
    BohbSampler,
    OptunaSampler,
    RandomSampler,
    Sampler,
    Seen,
    TpeSampler,
)
from stantune.search.propose.sampling import sample
from stantune.seeds import derive
from stantune.space import Space
from stantune.testing import check_sampler
from stantune.testing import samplers as checks
from stantune.testing.samplers import CHECKS, SPACES, example


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def grouped(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=3)


def at_random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


GOOD: list[Callable[[], Sampler]] = [
    RandomSampler,
    TpeSampler,
    BohbSampler,
    functools.partial(OptunaSampler, tpe),
    functools.partial(OptunaSampler, grouped, name="grouped", identity={"startup": 3}),
    # One that cannot be pickled.
    lambda: OptunaSampler(lambda seed: at_random(seed)),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", GOOD, ids=["random", "tpe", "bohb", "Optuna's TPE", "grouped", "Optuna's random"])
def test_good_samplers_pass(make: Callable[[], Sampler], check: Callable[[Any], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make)


def test_all_checks_at_once() -> None:
    check_sampler(RandomSampler)
    check_sampler(Good)


class Good:
    """Draws at random in its own way."""

    name = "good"
    identity: Mapping[str, Any] = {}
    waits = True

    def propose(self, asked: Asked) -> Any:
        return sample(asked.space, derive("good", asked.seed) % 1000, asked.number)


class Nameless(Good):
    name = ""


class OneOfMany(Good):
    def __init__(self) -> None:
        self.name = f"sampler {time.perf_counter_ns()}"


class Forgetful(Good):
    def __init__(self) -> None:
        self.identity = {"made": time.perf_counter_ns()}


class Outside(Good):
    """Misses the end of a logarithmic range of one value by much more than rounding."""

    def propose(self, asked: Asked) -> Any:
        return {name: value * 1.001 if value == 0.1 else value for name, value in super().propose(asked).items()}


class OffStep(Good):
    def propose(self, asked: Asked) -> Any:
        found = super().propose(asked)
        return {**found, "stepped": 0.55} if isinstance(found.get("stepped"), float) else found


class Incomplete(Good):
    """Leaves out what not every setting has."""

    def propose(self, asked: Asked) -> Any:
        return {name: value for name, value in super().propose(asked).items() if name not in asked.space.when}


class Unconditional(Good):
    """Gives a value to what does not exist."""

    def propose(self, asked: Asked) -> Any:
        return {name: getattr(of, "low", 1) for name, of in asked.space.items()} | super().propose(asked)


class Impatient(Good):
    """Takes for granted that there are results."""

    def propose(self, asked: Asked) -> Any:
        return dict(asked.history[-1].params)


class Speechless(Good):
    def propose(self, asked: Asked) -> Any:
        return None


class Numpyish(Good):
    def propose(self, asked: Asked) -> Any:
        return {
            name: np.float64(value) if isinstance(value, float) else value
            for name, value in super().propose(asked).items()
        }


class Lists(Good):
    """Gives lists of NumPy's numbers for tuples."""

    def propose(self, asked: Asked) -> Any:
        return {
            name: [np.int64(part) if type(part) is int else part for part in value]
            if isinstance(value, tuple)
            else value
            for name, value in super().propose(asked).items()
        }


class GoingOn(Good):
    """Draws from one generator that goes on."""

    def __init__(self) -> None:
        self.dice = random.Random(0)

    def propose(self, asked: Asked) -> Any:
        return sample(asked.space, self.dice.randrange(1000), asked.number)


class Unseeded(Good):
    def propose(self, asked: Asked) -> Any:
        return sample(asked.space, random.randrange(10**6), asked.number)


class Remembering(Good):
    """Keeps the first history for all later questions."""

    def __init__(self) -> None:
        self.first: int | None = None

    def propose(self, asked: Asked) -> Any:
        self.first = len(asked.history) if self.first is None else self.first
        return sample(asked.space, self.first, asked.number)


class Unpickled(Good):
    """Loses what it was made with."""

    def __init__(self) -> None:
        self.salt = 3

    def __getstate__(self) -> Any:
        return {"salt": 4}

    def propose(self, asked: Asked) -> Any:
        return sample(asked.space, self.salt, asked.number)


class Changing(Good):
    """Fills in what does not exist, in the trial table's own settings."""

    def propose(self, asked: Asked) -> Any:
        for seen in asked.history:
            seen.params.setdefault("dropout", 0.0)  # type: ignore[attr-defined]
        return super().propose(asked)


class Repeating(Good):
    def propose(self, asked: Asked) -> Any:
        return sample(asked.space, asked.seed, len(asked.history))


class Peeking(Good):
    waits = False

    def propose(self, asked: Asked) -> Any:
        return sample(asked.space, len(asked.history), asked.number)


class Hopeful(Good):
    """Takes the best trial, and for granted that there is one."""

    def propose(self, asked: Asked) -> Any:
        if asked.history:
            min(seen.loss for seen in asked.history if seen.loss is not None)
        return super().propose(asked)


class Scaling(Good):
    """Divides by the spread of the losses, which may be none."""

    def propose(self, asked: Asked) -> Any:
        losses = [seen.loss for seen in asked.history if seen.loss is not None]
        shares = [1 / (max(losses) - min(losses)) for _ in losses[1:]]
        return super().propose(asked) if len(shares) >= 0 else {}


class Slow(Good):
    """Takes a time that grows with the square of the results."""

    def propose(self, asked: Asked) -> Any:
        time.sleep(len(asked.history) ** 2 * 5e-7)
        return super().propose(asked)


@pytest.mark.parametrize(
    ("bad", "check", "words"),
    [
        (Nameless, checks.check_attributes, "has no `name`"),
        (OneOfMany, checks.check_attributes, "two samplers of the same make are named"),
        (Forgetful, checks.check_attributes, "have the identities"),
        (object, checks.check_attributes, "has no method `propose"),
        (Outside, checks.check_settings, "in a space of single values is no setting: .* is 0.1001"),
        (
            OffStep,
            checks.check_settings,
            "in a space of real numbers is no setting: stepped is 0.55, but it goes .* in steps",
        ),
        (Incomplete, checks.check_settings, "in a space of conditional is no setting: the setting lacks"),
        (Unconditional, checks.check_settings, "in a space of conditional is no setting: .* exists only where"),
        (Impatient, checks.check_settings, "raises IndexError .* where it sees 0 results"),
        (Speechless, checks.check_settings, "proposes None, which is no dict"),
        (Numpyish, checks.check_plain_values, "a float64, which is no plain value"),
        (Lists, checks.check_plain_values, "a int64, which is no plain value"),
        (GoingOn, checks.check_purity, "as it was asked others before"),
        (Unseeded, checks.check_purity, "each time by a new object"),
        (Remembering, checks.check_purity, "as it was asked others before"),
        (Unpickled, checks.check_purity, "after it was pickled"),
        (Changing, checks.check_what_is_asked_stays, "changes the history"),
        (Repeating, checks.check_trials_differ, r"gives trials 0 and \d the same setting"),
        (Peeking, checks.check_waiting, "says that it does not wait for results, but looks at them"),
        (Hopeful, checks.check_losses, "raises ValueError .* of trials that all diverged"),
        (Scaling, checks.check_losses, "raises ZeroDivisionError .* of equal losses"),
        (
            Slow,
            functools.partial(checks.check_many_results, seconds=0.3),
            r"takes 0\.[5-9] s for a proposal that sees 1000 results, more than 0.3 s",
        ),
    ],
    ids=lambda of: getattr(of, "__name__", ""),
)
def test_each_bad_sampler_is_caught_by_its_check(bad: Any, check: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words) as error:
        check(bad)
    # Pytest adds its own lines in its own tests.
    assert "\n" not in str(error.value).partition("\nassert ")[0]
    if check not in CHECKS:
        return
    # And by no other one before it, so that the sentence says what is wrong.
    with pytest.raises(AssertionError, match=words):
        check_sampler(bad)


def test_an_order_of_a_set_is_caught_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_a_set.py").write_text(
        "from stantune.search.propose.sampling import sample\n"
        "class OfASet:\n"
        "    name, identity, waits = 'set', {}, False\n"
        "    def propose(self, asked):\n"
        "        return sample(asked.space, hash(asked.space.__class__.__name__) % 1000, asked.number)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    make = importlib.import_module("of_a_set").OfASet
    with pytest.raises(AssertionError, match="in another process: does it go through a set"):
        checks.check_purity(make)


def test_nothing_of_pytest_is_needed() -> None:
    code = (
        "import sys, stantune.testing; print(sorted({'pytest', '_pytest', 'hypothesis', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_example_is_what_a_search_shows() -> None:
    asked = example(SPACES["conditional"], 9, 13)
    assert [seen.resource for seen in asked.history] == [1, 3, 9, 1, 1, 1, 3, 1, 1, 1, 3, 1, 1]
    assert [seen.number for seen in asked.history] == [0, 0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8]
    assert asked.overtaken == {1: (), 3: (1, 2, 4, 5, 7, 8), 9: (1, 2, 3, 4, 5, 6, 7, 8)}
    assert example(SPACES["conditional"], 9, 13) == asked


# The adapter of Optuna's samplers.


def test_optuna_learns_by_the_adapter() -> None:
    space = Space({"x": Float(0, 1), "kernel": Categorical(((3, 3), (5, 5), (7, 7)))})
    sampler = OptunaSampler(tpe)
    history: list[Seen] = []
    for number in range(60):
        params = sampler.propose(Asked(space, 0, number, tuple(history), (1,)))
        loss = abs(params["x"] - 0.3) + (params["kernel"] != (5, 5))
        history.append(Seen(number, params, 1, None if params["x"] > 0.8 else loss))
    late = [seen.params for seen in history[40:]]
    assert sum(abs(params["x"] - 0.3) < 0.15 for params in late) > 10
    assert sum(params["kernel"] == (5, 5) for params in late) > 12
    assert sampler.name == "optuna:TPESampler"
    assert sampler.identity == {}


class Watched(optuna.samplers.RandomSampler):
    """Keeps the trials of the study that it is asked with."""

    studies: list[list[optuna.trial.FrozenTrial]]

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        Watched.studies.append(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
        return super().infer_relative_search_space(study, trial)


def test_what_the_adapter_shows() -> None:
    space = Space({"x": Float(0, 1)})

    def seen(*results: tuple[int, int, float | None]) -> list[tuple[float, float | None, dict[int, float]]]:
        Watched.studies = []
        history = tuple(Seen(number, {"x": number / 10}, at, loss) for number, at, loss in results)
        OptunaSampler(Watched).propose(Asked(space, 0, 7, history, (1, 3)))
        return [(trial.params["x"], trial.value, trial.intermediate_values) for trial in Watched.studies[-1]]

    assert seen() == []
    # By its newest result, which is what a trial is worth; lost ones are as bad as the worst that is known.
    assert seen((0, 1, 5.0), (1, 1, 9.0), (2, 1, None), (0, 3, 6.0)) == [
        (0.1, 9.0, {1: 9.0}),
        (0.2, 9.0, {}),
        (0.0, 6.0, {1: 5.0, 3: 6.0}),
    ]
    assert seen((0, 1, 5.0), (0, 3, None)) == [(0.0, 5.0, {1: 5.0})]
    assert seen((0, 1, None), (1, 1, None)) == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (tpe(0), "takes a function that makes a sampler .* but it got or made a TPESampler"),
        (lambda seed: None, "but it got or made a NoneType"),
        (
            lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
            "Optuna's CmaEsSampler keeps its state in a study, .* never learn: give another one",
        ),
        (lambda seed: optuna.samplers.NSGAIISampler(seed=seed), "Optuna's NSGAIISampler keeps its state"),
    ],
)
def test_what_the_adapter_refuses(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OptunaSampler(make)


PAGE = Path(__file__).parents[2] / "docs" / "search.md"


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
def test_the_page_s_python_runs(code: str) -> None:
    exec(compile(code, "<block>", "exec"), {})
