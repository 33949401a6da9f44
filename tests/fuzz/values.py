"""Texts and values that inputs are made of: numbers at every edge, names of every kind, what is hardly anything."""

from __future__ import annotations

import decimal
import fractions
import math
import random
from typing import Any

import numpy as np
import torch

NUMBERS = [
    *("0", "1", "2", "3", "5", "9", "10", "25", "60", "-1", "-0", "+1", "007", "1.5", ".5", "0.25", "1e3", "1e400"),
    *("1e-400", "nan", "inf", "-inf", "-NaN", "0x10", "1_000", "1,5", "²", "①", "٣", "９", "½", "-²", "1²"),
    *("2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775809"),
    *("9" * 25, "9" * 400, "9" * 4299, "9" * 5000, "1." + "0" * 5000, "0" * 5000, "1e" + "9" * 400),
]
WORDS = [
    *("", " ", "-", "--", ".", "..", "~", "~nosuchuser", "~nosuchuser/x", "a" * 300, "é" * 200, "a" * 5000),
    *("\n", "a\nb", "\t", "\udcff", "a\udcffb", "😀", "\u202e", "\x1b[31m", "\x7f", "%s", "{}", "{0!r:}"),
    *(
        "[bold]",
        ":smile:",
        "`eta`",
        "None",
        "true",
        "null",
        "auto",
        "all",
        "none",
        "\\",
        "'",
        '"',
        "*",
        "**",
        "[",
        "[]",
    ),
    *(":", "::", "=", "a=", "=b", "a=b", ",", "a,b", "//", "/dev/null", "/dev/null/x", "/dev/full", "/proc/self/mem"),
    *("lenet", "lenett", "cq", "mlp", "mnist", "cifar10", "fashion-mnist", "conv1", "conv*", "lr", "momentum"),
]


def text(rng: random.Random, *likely: str) -> str:
    """Return one of those that are likely, or any, or several of these in a row, without a NUL."""
    way = rng.random()
    if likely and way < 0.4:
        return rng.choice(likely)
    if way < 0.65:
        return rng.choice(NUMBERS)
    if way < 0.85:
        return rng.choice(WORDS)
    if way < 0.95:
        parts = [*likely, *NUMBERS, *WORDS]
        return rng.choice(["", ",", ":", "=", " ", ".", "/."]).join(rng.choice(parts) for _ in range(rng.randrange(4)))
    return "".join(chr(rng.choice((rng.randrange(1, 128), rng.randrange(1, 0x3000)))) for _ in range(rng.randrange(9)))


class Odd:
    """An object that says nothing of itself, and fails where it can."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = object.__hash__


class Index:
    """A whole number by its method alone."""

    def __index__(self) -> int:
        return 5


class Wild(str):
    """A text of another class."""


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return a value of any kind."""
    way = rng.randrange(13 if depth < 2 else 9)
    if way < 3:
        return rng.choice(
            (
                0,
                1,
                2,
                3,
                5,
                10,
                60,
                -1,
                True,
                False,
                None,
                0.5,
                0.1,
                1.0,
                60.0,
                -0.0,
                1e-3,
                0.999,
                1.5,
                2**31,
                2**53 + 1,
            )
        )
    if way == 3:
        return rng.choice(
            (2**63, -(2**63) - 1, 10**400, 10**5000, math.nan, math.inf, -math.inf, 1e308, -1.7e308, 5e-324)
        )
    if way == 4:
        return rng.choice(
            (np.float32(0.1), np.int64(3), np.bool_(True), np.array(2.0), np.array([1, 2]), torch.tensor(1.5))
        )
    if way == 5:
        return rng.choice(
            (
                decimal.Decimal("0.1"),
                fractions.Fraction(1, 3),
                1 + 2j,
                b"x",
                object(),
                Odd(),
                Index(),
                int,
                len,
                Wild("lr"),
            )
        )
    if way < 8:
        return text(rng, "lr", "sgd", "adam", "fixed", "error", "cross entropy", "accuracy")
    if way == 8:
        return rng.choice((torch.tensor([1.0, 2.0]), torch.zeros(0), range(3), iter(()), lambda *_: None, ...))
    inner = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if way == 9:
        return inner
    if way == 10:
        return tuple(inner)
    if way == 11:
        return {text(rng, "lr", "momentum"): each for each in inner}
    made: Any = ()
    for _ in range(rng.choice((1, 5, 2000))):
        made = (made,) if rng.random() < 0.99 else [made]
    return made
