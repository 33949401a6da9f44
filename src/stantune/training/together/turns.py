"""Trainings that take turns in a process: generators that give way between turns, and end in what they came to."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from typing import TypeVar

T = TypeVar("T")
# Iterations of a turn: what changes between turns, random states above all, takes next to nothing of that.
PACE = 16


def drained(turns: Generator[None, None, T]) -> T:
    """Take all turns, one after the other; return what they came to."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            value: T = end.value
            return value


def begun_within(
    turns: Generator[None, None, T], context: Callable[[], AbstractContextManager[object]]
) -> Generator[None, None, T]:
    """Take the first turn in a context, all others as they are."""
    with closing(turns):
        with context():
            try:
                next(turns)
            except StopIteration as end:
                value: T = end.value
                return value
        yield
        return (yield from turns)


def within(
    turns: Generator[None, None, T], context: Callable[[], AbstractContextManager[object]]
) -> Generator[None, None, T]:
    """Take each turn in a context of its own, which others do not see in theirs."""
    with closing(turns):
        while True:
            with context():
                try:
                    next(turns)
                except StopIteration as end:
                    value: T = end.value
                    return value
            yield
