"""Decorators count, with what they are given and what is in them or in caches, and not with what they note."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from decorators import SCALED

from stantune.user_code.digest import digest

TEXT = (
    f"""
import functools
{SCALED}"""
    """
class Kept:
    def __init__(self, function, times):
        functools.update_wrapper(self, function)
        self.function, self.times, self.calls = function, times, 0
    def __call__(self, x):
        self.calls += 1
        return self.function(x) - self.times

def kept(times):
    return lambda function: Kept(function, times)

class Bare:
    def __init__(self, function):
        self.function = function
    def __call__(self, x):
        return self.function(x) / 7

def memo(function):
    cache, calls = {"size": 3}, 0
    @functools.wraps(function)
    def wrapper(x):
        nonlocal calls
        calls += 1
        if x not in cache:
            cache[x] = function(x)
        return cache[x]
    return wrapper

@scaled(2.0)
def helper(x):
    return x + 1

@scaled(3.0)
@functools.lru_cache
def outside(x):
    return x + 11

@functools.lru_cache
@scaled(4.0)
def within(x):
    return x + 21

@kept(5)
def held(x):
    return x + 31

@Bare
def bare(x):
    return x + 41

@memo
@scaled(6.0)
def noted(x):
    return x + 51

class Net:
    @functools.lru_cache
    def size(self):
        return 61
    @staticmethod
    @functools.cache
    def depth():
        return 71

def train(run):
    return helper(1), outside(1), within(1), held(1), bare(1), noted(1), Net().size(), Net.depth()

@functools.cache
def trained(run):
    return helper(81)
"""
)


MOVING = """
import functools, random, time

def timed(function):
    began = time.time_ns()
    @functools.wraps(function)
    def wrapper(x):
        return function(x) + 0 * began
    return wrapper

def memo(function):
    cache = {}
    def fill(x):
        cache[x] = function(x)
    @functools.wraps(function)
    def wrapper(x):
        if x not in cache:
            fill(x)
        return cache[x]
    return wrapper

def shaken(rng):
    def around(function):
        @functools.wraps(function)
        def wrapper(x):
            return function(x) + rng.random()
        return wrapper
    return around

@timed
@memo
@shaken(random.Random(0))
def helper(x):
    return x + 1

def train(run):
    return helper(1)
"""


def test_what_a_decorator_keeps_may_be_another_in_each_run_and_after_a_call(loaded: Callable[..., Any]) -> None:
    train = loaded(MOVING)
    before = digest(train)
    train(None)
    assert digest(train) == before
    assert digest(loaded(MOVING)) == before
    assert digest(loaded(MOVING.replace("Random(0)", "Random(1)"))) != before
    assert digest(loaded(MOVING.replace("cache[x] = function(x)", "cache[x] = 2 * function(x)"))) != before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("scaled(2.0)", "scaled(9.0)"),
        ("function(x) * factor", "function(x) + factor"),
        ("x + 1\n", "x - 1\n"),
        ("scaled(3.0)", "scaled(9.0)"),
        ("x + 11", "x - 11"),
        ("scaled(4.0)", "scaled(9.0)"),
        ("x + 21", "x - 21"),
        ("kept(5)", "kept(9)"),
        ("function(x) - self.times", "function(x) + self.times"),
        ("x + 31", "x - 31"),
        ("function(x) / 7", "function(x) / 9"),
        ("x + 41", "x - 41"),
        ("if x not in cache", "if x in cache"),
        ("scaled(6.0)", "scaled(9.0)"),
        ("x + 51", "x - 51"),
        ("return 61", "return 69"),
        ("return 71", "return 79"),
    ],
)
def test_what_is_around_a_function_that_is_named_counts(loaded: Callable[..., Any], before: str, after: str) -> None:
    assert TEXT.count(before) == 1
    assert digest(loaded(TEXT.replace(before, after))) != digest(loaded(TEXT))


def test_a_function_with_a_cache_counts_itself(loaded: Callable[..., Any]) -> None:
    for before, after in (("helper(81)", "helper(89)"), ("scaled(2.0)", "scaled(9.0)")):
        assert digest(loaded(TEXT.replace(before, after), "trained")) != digest(loaded(TEXT, "trained"))


def test_what_a_function_s_own_decorator_is_given_counts_though_no_statement_tells_it(
    loaded: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"import functools, os\n{SCALED}\n@scaled(float(os.environ['FACTOR']))\ndef train(run):\n    return 1\n"
    found = []
    for factor in ("2", "3", "2"):
        monkeypatch.setenv("FACTOR", factor)
        found.append(digest(loaded(text)))
    assert found[0] == found[2] != found[1]


def test_what_decorators_note_themselves_does_not_count(loaded: Callable[..., Any]) -> None:
    train = loaded(TEXT)
    before = digest(train)
    assert digest(loaded(TEXT)) == before
    train(None)
    assert digest(train) == before


def test_in_a_notebook_a_decorator_counts_too() -> None:
    def run(text: str) -> str:
        names: dict[str, Any] = {"__name__": "made"}
        exec(text, names)
        return digest(names["train"])

    assert run(TEXT) == run(TEXT)
    # What is a class has no statement there that would say what it was given.
    for before, after in (("scaled(2.0)", "scaled(9.0)"), ("- self.times", "+ self.times"), ("return 61", "return 69")):
        assert run(TEXT.replace(before, after)) != run(TEXT)
