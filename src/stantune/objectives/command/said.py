"""What a command says in JSON: how far it is, what it came to; and what is said of a command that does not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stantune.loss_curve import LossMeans

STDOUT = "stdout"
# What some programs begin UTF-8 with.
_MARK = "\N{BYTE ORDER MARK}"


class CommandError(Exception):
    """A command failed, or has not said what it came to."""


class ResultError(CommandError):
    """A command said in JSON what it came to, but not as it should; it would say the same once more."""

    again = False


class Said:
    """What a command has said in JSON.

    Attributes:
        last: the object that says what it came to, None before there was one.
        losses: the losses that it told on the way, behind those of the segments before.
    """

    def __init__(self, metric: str, start: int, stop: int, watch: Callable[[int], None], losses: LossMeans) -> None:
        self.last: dict[str, Any] | None = None
        self.losses = losses
        self._other: dict[str, Any] | None = None
        self._metric = metric
        # What was told last of how far it is, in whatever it counts.
        self._far = -math.inf
        self._start, self._stop = start, stop
        self._watch = watch

    def take(self, line: str) -> None:
        """Take a line of output."""
        said = object_of(line)
        if said is None:
            return
        if self._metric in said or said.get("diverged") is True:
            self.last = said
        else:
            self._other = said
        done = _number(said.get("resource"))
        if done is not None:
            self._far = done
        if done is not None and self._start <= done <= self._stop:
            loss = _number(said.get("loss"))
            if loss is not None and math.isfinite(loss):
                self.losses.take(loss)
            self._watch(int(done))

    def read(self, path: Path) -> None:
        """Take the object in a file for what it came to; `last` is None where there is none."""
        self.last = read_object(path)
        # Written where it is not printed, or printed less often.
        done = None if self.last is None else _number(self.last.get("resource"))
        if done is not None:
            self._far = max(self._far, done)

    def result(self, line: str) -> dict[str, Any]:
        """Return what it came to, to be noted; `line` is the last of its output. Raises CommandError."""
        said = self.last
        if said is None or not (self._metric in said or said.get("diverged") is True):
            others = said or self._other
            there = f"only {', '.join(others)}" if others else "no JSON object at all"
            raise (ResultError if others and not self._is_progress(others) else CommandError)(
                f"{self._metric!r} was not said, {there}; print a line like "
                f"{json.dumps({self._metric: 0.5})} in the end; the last line was {short(line)!r}"
            )
        value = said.get(self._metric)
        if value is not None and _number(value) is None:
            raise ResultError(f"{self._metric!r} is {short(json.dumps(value))}, which is no number")
        numbers = {name: number for name, given in said.items() if (number := _number(given)) is not None}
        finite = {name: number for name, number in numbers.items() if math.isfinite(number) and name != "resource"}
        if said.get("diverged") is True or self._metric not in finite:
            at = numbers.get("resource", 0.0)
            at = int(at) if self._start < at <= self._stop else self._stop
            return {"done": at, "diverged_at": at, "metrics": {}}
        if "resource" in numbers and self._far < self._stop:
            raise CommandError(
                f"{self._metric!r} was last said at {self._far:g} of {self._stop}, so that the command ended before "
                "its end; have its failure be the exit code (a pipe's is that of its last program), or say the "
                'result without "resource"'
            )
        return {"done": self._stop, "diverged_at": None, "metrics": finite}

    def _is_progress(self, said: Mapping[str, Any]) -> bool:
        """Whether an object says how far the command is, and not what it came to: it may have been cut there."""
        return _number(said.get("resource")) is not None and (
            self._far < self._stop or set(said) <= {"resource", "loss"}
        )


def _number(value: object) -> float | None:
    """Return a number of JSON's; None where it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def object_of(text: str) -> dict[str, Any] | None:
    """Read a JSON object; None where it is something else."""
    text = text.strip().removeprefix(_MARK).lstrip()
    if not text.startswith("{"):
        return None
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def read_object(path: Path) -> dict[str, Any] | None:
    try:
        return object_of(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def short(line: str) -> str:
    return line if len(line) <= 100 else f"{line[:100]}…"
