"""Whether a logger does all that a search asks of one: `check_logger(MyLogger)`, or one of `CHECKS` at a time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from stantune.protocols import Metric
from stantune.search.telling.loggers import LoggedSearch, LoggedSegment, LoggedTraining, Logger
from stantune.testing.asserting import require_assertions

MakeLogger: TypeAlias = Callable[[Path], Logger]


class Point(NamedTuple):
    """A number that was logged: of which training, its name, after how many losses or iterations."""

    training: str
    name: str
    step: int
    value: float


ReadPoints: TypeAlias = Callable[[Path], Sequence[Point]]

# Of the user's own, and with what a format may have a meaning of its own for.
METRIC = "validation error"
# A metric that has the name of the training losses, and that by which it is told from them.
LOSS, COLUMN = "loss", "metric_loss"
TRIAL = LoggedTraining("trial-000000", 0, {"lr": 0.1, "act": "relu", "kernel": (3, 3), "deep": True, "none": None}, 2)
OTHER = LoggedTraining("trial-000001", 1, {"lr": 1e-300}, 2)
FINAL = LoggedTraining("final-of-000000", 0, dict(TRIAL.params), None)
FIRST = LoggedSegment(3, {3: {METRIC: 12.5, "top5": 0.0, LOSS: 0.75}}, [(1, 2.5), (2, 1e300), (4, 0.25)])
# The first one of another search.
ANOTHER = replace(FIRST, measured={3: {METRIC: 25.0, "top5": 1.0, LOSS: 1.5}}, losses=[(1, 5.0), (2, 2.5), (4, 0.5)])
SECOND = LoggedSegment(9, {9: {METRIC: 1e-30, LOSS: 0.5}}, [(8, 0.125), (9, -0.5)])
LOST = LoggedSegment(3, {}, [(1, 2.0)], diverged_at=3)
SILENT = LoggedSegment(9, {3: {METRIC: 3.0}, 9: {METRIC: 2.0}})


def search_in(folder: Path, key: str = "numbers-0a1b2c3d") -> LoggedSearch:
    """Return a search in a folder."""
    return LoggedSearch(key, "numbers", folder, Metric(METRIC, unit="%"), "epoch", {"problem": "numbers", "seed": 0})


def check_logger(make_logger: MakeLogger, read: ReadPoints | None = None) -> None:
    """Check a logger in all that is asked of one.

    Args:
        make_logger: returns a logger that writes to a folder, each time for the same.
        read: returns all numbers in what such loggers wrote there: losses under "loss", metrics under their names, but
            a metric called "loss" under "metric_loss". Without it only that is checked for which nothing needs to be
            read.

    Raises:
        AssertionError: says in a sentence what it does that it should not.
        UsageError: Python was told to leave assertions out.
    """
    require_assertions()
    for check in CHECKS:
        with tempfile.TemporaryDirectory(prefix="stantune-") as folder:
            check(make_logger, read, Path(folder))


def check_name(make_logger: MakeLogger, read: ReadPoints | None, folder: Path) -> None:
    """Check that it is a Logger, with a name by which it is known again."""
    one, other = make_logger(folder), make_logger(folder)
    assert isinstance(one, Logger), f"a {type(one).__name__} is no Logger: it lacks a method or its name"
    assert isinstance(one.name, str), f"its name is a {type(one.name).__name__}; give a text"
    assert one.name, "its name is empty, by which a search knows it again"
    assert one.name == other.name, f"two that write to one place are named {one.name!r} and {other.name!r}"


def check_all(make_logger: MakeLogger, read: ReadPoints | None, folder: Path) -> None:
    """Check that it takes all that there is to tell, and that what was told is there."""
    logger = make_logger(folder)
    logger.begin(search_in(folder))
    for training in (TRIAL, OTHER):
        logger.training(training)
    logger.segment(TRIAL, FIRST)
    logger.segment(OTHER, LOST)
    logger.ended(OTHER, "diverged")
    logger.segment(TRIAL, SECOND)
    logger.ended(TRIAL, "finished")
    logger.training(FINAL)
    logger.segment(FINAL, SILENT)
    logger.ended(FINAL, "finished")
    logger.close()
    _same(read, folder, [(TRIAL, FIRST), (OTHER, LOST), (TRIAL, SECOND), (FINAL, SILENT)], "after a whole search")


def check_going_on(make_logger: MakeLogger, read: ReadPoints | None, folder: Path) -> None:
    """Check that another of its kind goes on where one was killed, and that what is told again is there once."""
    first = make_logger(folder)
    first.begin(search_in(folder))
    first.training(TRIAL)
    first.segment(TRIAL, FIRST)
    # Killed: neither closed, nor asked any more.
    second = make_logger(folder)
    second.begin(search_in(folder))
    second.segment(TRIAL, FIRST)
    second.segment(TRIAL, SECOND)
    second.close()
    third = make_logger(folder)
    third.begin(search_in(folder))
    third.training(TRIAL)
    third.ended(TRIAL, "finished")
    third.close()
    _same(read, folder, [(TRIAL, FIRST), (TRIAL, SECOND)], "where a search was killed and went on")


class _Killed(BaseException):
    """The process ends here."""


class _Cut(list[tuple[int, float]]):
    """Losses of which the first one is told when the process is killed."""

    def __iter__(self) -> Iterator[tuple[int, float]]:
        yield self[0]
        raise _Killed


def check_parts(make_logger: MakeLogger, read: ReadPoints | None, folder: Path) -> None:
    """Check that a segment that was cut off as it was told is there whole when it is told again."""
    cut = make_logger(folder)
    cut.begin(search_in(folder))
    cut.training(TRIAL)
    with suppress(_Killed):
        cut.segment(TRIAL, replace(FIRST, losses=_Cut(FIRST.losses)))
    # Killed: not closed.
    logger = make_logger(folder)
    logger.begin(search_in(folder))
    logger.training(TRIAL)
    logger.segment(TRIAL, FIRST)
    logger.close()
    _same(read, folder, [(TRIAL, FIRST)], "where a search was killed with a part of it logged, and told it again")


def check_searches(make_logger: MakeLogger, read: ReadPoints | None, folder: Path) -> None:
    """Check that two searches in one folder are told apart by their keys: what the second tells is there besides."""
    for key, segment in (("numbers-0a1b2c3d", FIRST), ("numbers-4e5f6071", ANOTHER)):
        logger = make_logger(folder)
        logger.begin(search_in(folder, key))
        logger.training(TRIAL)
        logger.segment(TRIAL, segment)
        logger.ended(TRIAL, "finished")
        logger.close()
    _same(read, folder, [(TRIAL, FIRST), (TRIAL, ANOTHER)], "after two searches of different keys")


CHECKS: tuple[Callable[[MakeLogger, ReadPoints | None, Path], None], ...] = (
    check_name,
    check_all,
    check_going_on,
    check_parts,
    check_searches,
)


def _same(
    read: ReadPoints | None, folder: Path, told: Sequence[tuple[LoggedTraining, LoggedSegment]], when: str
) -> None:
    """Check that each number that was told is there as often as it was told, and none besides."""
    if read is None:
        return
    expected: dict[tuple[str, str, int], list[float]] = {}
    for training, segment in told:
        points = [(LOSS, count, mean) for count, mean in segment.losses]
        for at, metrics in segment.measured.items():
            points += [(COLUMN if name == LOSS else name, at, value) for name, value in metrics.items()]
        for name, at, value in points:
            expected.setdefault((training.name, name, at), []).append(value)
    found: dict[tuple[str, str, int], list[float]] = {}
    for point in read(folder):
        found.setdefault(point[:3], []).append(point.value)
    for place, there in found.items():
        assert place in expected, f"{_words(place)} is logged {when}, and nobody told it"
        assert len(there) <= len(expected[place]), f"{_words(place)} is logged {len(there)} times {when}"
    for place, values in expected.items():
        assert place in found, f"{_words(place)} is not logged {when}"
        there = found[place]
        assert len(there) == len(values), f"{_words(place)} is logged once {when}, and each has one of its own"
        for value, logged in zip(sorted(values), sorted(there), strict=True):
            # Formats of single precision have nothing beyond 3.4e38.
            huge = abs(value) > 3e38 and math.isinf(logged) and (logged > 0) == (value > 0)
            close = math.isclose(logged, value, rel_tol=1e-6)
            assert huge or close, f"{_words(place)} is logged as {logged} {when}, and it is {value}"


def _words(place: tuple[str, str, int]) -> str:
    training, name, step = place
    return f"the {name} of {training} after {step}"
