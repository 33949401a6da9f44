"""A command line as an objective: a training in any language, its state a folder, its result a line of JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from stantune.errors import StantuneError, UsageError
from stantune.loss_curve import LossMeans
from stantune.objectives.command import groups, packing
from stantune.objectives.command.templates import PARAMS, Template
from stantune.objectives.preparing import chosen_threads
from stantune.outcome import Cost, Outcome
from stantune.protocols import Conditions, Metric, Place, Prepared, Segment, StopEarly
from stantune.seeds import derive
from stantune.space import Space

STDOUT = "stdout"
# Placeholders besides the parameters.
PLACEHOLDERS = (
    "start",
    "stop",
    "length",
    "dir",
    "seed",
    "trial",
    "final",
    "device",
    "threads",
    PARAMS,
    "python",
)
# Files that the command names and that are no larger are taken for its code.
_CODE_BYTES = 1 << 20
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class CommandError(Exception):
    """A command failed, or has not said what it came to."""


class ResultError(CommandError):
    """A command said in JSON what it came to, but not as it should; it would say the same once more."""

    again = False


@dataclass(frozen=True)
class CommandObjective:
    """Searches the parameters of a command: `CommandObjective("python train.py --lr {lr} --until {stop} …", space)`.

    The command is run once for each segment of a trial. What it leaves in its state folder, {dir}, is kept in the
    trial's checkpoint when it has ended well, and there again when the trial is gone on with. It says what it came to
    in the last line of its stdout that is a JSON object with the metric: `{"loss": 0.31, "accuracy": 0.9}`. A metric
    that is null, NaN or infinite, or `{"diverged": true}`, means that the trial is lost, which is an ordinary result.
    An exit code other than 0 is a failure, after which the segment is tried again. A JSON line with "resource" on the
    way says how far it is, and with a "loss" in it what the training loss is there, for the trial's curve. All that it
    says is kept in a folder beside the checkpoint.

    Placeholders are the parameters and

    - {start}, {stop}: from where to where to train; start is 0 where the state folder is empty.
    - {length}: the end of the longest training of the search, for learning-rate schedules.
    - {dir}: the state folder.
    - {seed}: of every random choice of the trial, from 0 to 2**31 - 1.
    - {trial}, {final}: the trial's number, and 1 where this is the final training of one of the best settings, else 0.
    - {device}, {threads}: "cpu" or "cuda:1", and how many threads to use.
    - {params}: all parameters as one JSON object.
    - {python}: the interpreter of this process.

    A value is one argument, or a part of one, whatever is in it: a text as it is, everything else as JSON has it; a
    parameter that a setting does not have becomes an empty text. `{lr:.3f}` is printed as in Python.

    Attributes:
        command: a line, or its arguments one by one.
        space: the parameters.
        minimize: the name of the metric that is compared, where less is better.
        maximize: the same, where more is better.
        metric: what is compared, in place of these.
        unit: what start and stop count.
        length: the longest training there is; None where there is no end.
        name: of the search; by default that of the script or the program.
        metrics: "stdout", or a JSON file in the state folder that holds what it came to.
        cwd: the folder in which it runs; that in which the objective was made by default.
        env: is added to the environment.
        shell: have a shell read the line, in which values are quoted.
        whole: how long the search's longest training is; `prepared` says it.

    Raises:
        UsageError: a placeholder is unknown, a parameter is used nowhere, or no metric is named.
    """

    command: str | Sequence[str]
    space: Space
    _: KW_ONLY
    minimize: InitVar[str | None] = None
    maximize: InitVar[str | None] = None
    metric: Metric = None  # type: ignore[assignment]  # said by minimize or maximize
    unit: str = "epoch"
    length: int | None = None
    name: str = ""
    metrics: str = STDOUT
    cwd: Path | str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    shell: bool = False
    whole: int | None = None
    template: Template = field(init=False, repr=False, compare=False)
    code: str | None = field(init=False, repr=False, compare=False)

    def __post_init__(self, minimize: str | None, maximize: str | None) -> None:
        """Check what can be checked, and fill in what was left out."""
        template = Template(self.command, self.shell)
        template.check(list(self.space), PLACEHOLDERS)
        cwd = Path(self.cwd or ".").absolute()
        known = PurePath(self.metrics)
        if not self.metrics or known.is_absolute() or ".." in known.parts:
            raise UsageError(
                f"`metrics`={self.metrics!r} is no file in the state folder; give stdout, or its name there"
            )
        for attribute, value in (
            ("template", template),
            ("metric", _metric(self.metric, minimize, maximize)),
            ("cwd", cwd),
            ("env", dict(self.env)),
            ("name", self.name or _name(template.plain)),
            # Once, so that a search has one identity even if the file is changed while it runs.
            ("code", _code(template.plain, cwd)),
        ):
            object.__setattr__(self, attribute, value)

    @property
    def rate(self) -> None:
        """None: whatever a command does, it does it exactly."""
        return None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The command, the files that it names, and how its result is read; not where they lie."""
        return {
            "problem": self.name,
            "command": self.template.text,
            "shell": self.shell,
            "code": self.code,
            "env": dict(self.env),
            "metric": self.metric.name,
            "direction": self.metric.direction,
            "metrics": self.metrics,
            "unit": self.unit,
        }

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective: the number of threads is chosen."""
        if os.name != "posix":
            raise StantuneError("commands are run in process groups, which this system has not; use Linux or macOS")
        threads = chosen_threads(conditions, self.name, usable_threads)
        return Prepared(replace(self, whole=conditions.max_resource), threads)

    def trainer(self, place: Place) -> CommandTrainer:
        """See Objective; raises StantuneError where there is no such folder or program."""
        cwd = Path(self.cwd or ".")
        if not cwd.is_dir():
            raise StantuneError(f"the folder {cwd}, in which the command is to run, is not there; give another `cwd`")
        program = self.template.program
        if program is not None and shutil.which(_path(program, cwd), path=self.env.get("PATH")) is None:
            raise StantuneError(
                f"there is no program {program!r} to run in {cwd}; give its whole path, or {{python}} for this Python"
            )
        return CommandTrainer(self, place)


class CommandTrainer:
    """Runs a command for each segment; see protocols.Trainer."""

    def __init__(self, objective: CommandObjective, place: Place) -> None:
        """Run it at a place."""
        self._what = objective
        self._threads = place.threads or usable_threads()
        self._device = _device(place)

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See objective.Trainer. A segment that is cut is done again from where it began.

        Raises:
            CommandError: the command failed, or said nothing of what it came to.
        """
        folder = segment.checkpoint.parent / segment.checkpoint.stem
        state = folder / "state"
        identity = self._identity(segment)
        try:
            with packing.opened(segment.checkpoint, identity) as pack:
                note: Mapping[str, Any] = {"done": 0} if pack is None else pack.note
                start = int(note["done"])
                if start == segment.stop or note.get("diverged_at") is not None:
                    return _outcome(note)
                if start > segment.stop:
                    raise UsageError(
                        f"checkpoint {segment.checkpoint} is at {self._what.unit} {start}, beyond {segment.stop}; "
                        "delete it to train anew"
                    )
                watch(start)
                if stop_early():
                    return Outcome(start, {}, None, True, Cost())
                shutil.rmtree(state, ignore_errors=True)
                if pack is None:
                    state.mkdir(parents=True)
                else:
                    pack.unpack(state)
            came = self._run(segment, note, folder, stop_early, watch)
            if came is None:
                return Outcome(start, {}, None, True, Cost())
            packing.pack(state, segment.checkpoint, identity, came)
            return _outcome(came)
        except OSError as error:
            raise StantuneError(
                f"folder {folder} cannot be used ({error.strerror or error}); make room or choose another directory, "
                "then give the same command again"
            ) from error
        finally:
            shutil.rmtree(state, ignore_errors=True)

    def _run(
        self,
        segment: Segment,
        note: Mapping[str, Any],
        folder: Path,
        stop_early: StopEarly,
        watch: Callable[[int], None],
    ) -> dict[str, Any] | None:
        """Run the command; return what is noted of how it ended, None where it was ended early.

        `note` is of the segment before.
        """
        what, start = self._what, int(note["done"])
        state = folder / "state"
        words = what.template.fill(self._values(segment, start, state))
        said = _Said(what.metric.name, start, segment.stop, watch, LossMeans(note.get("losses")))
        if what.metrics != STDOUT:
            # That of the segment before would pass for this one's.
            (state / what.metrics).unlink(missing_ok=True)
        output = groups.Output(folder / "stdout.log", folder / "stderr.log")
        for log in output:
            with log.open("a") as file:
                file.write(f"--- {groups.stamp()}, {what.unit}s {start} to {segment.stop}: {shlex.join(words)}\n")
        before = [log.stat().st_size for log in output]
        began = time.perf_counter()
        code = groups.run(
            words,
            shell=what.shell,
            cwd=Path(what.cwd or "."),
            env=self._env(),
            output=output,
            stop_early=stop_early,
            heard=said.take,
        )
        seconds = time.perf_counter() - began
        if code is None:
            return None
        out, err = (groups.last_line(log, since) for log, since in zip(output, before, strict=True))
        if code:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            line = _short(err or out)
            log = output[1] if err or not out else output[0]
            raise CommandError(f"{how}{line and f': {line}'} (see {log.absolute()})")
        if what.metrics != STDOUT:
            said.last = _read(state / what.metrics)
            if said.last is None:
                raise CommandError(
                    f"there is no JSON object in the file {what.metrics} of the state folder; write one like "
                    f"{json.dumps({what.metric.name: 0.5})}"
                )
        return {**said.result(out), "from": start, "seconds": seconds, "losses": said.losses.state}

    def _values(self, segment: Segment, start: int, state: Path) -> dict[str, Any]:
        return {
            **segment.params,
            "start": start,
            "stop": segment.stop,
            "length": segment.length or self._what.whole or self._what.length,
            "dir": str(state.absolute()),
            "seed": derive("run", segment.seed) >> 32,
            "trial": segment.trial,
            "final": int(segment.final),
            "device": self._device,
            "threads": self._threads,
            PARAMS: dict(segment.params),
            "python": sys.executable,
        }

    def _env(self) -> dict[str, str]:
        threads = dict.fromkeys(_THREADS, str(self._threads))
        # A Python program whose output goes to a file would keep back how far it is.
        return {"PYTHONUNBUFFERED": "1", **os.environ, **threads, **self._what.env}

    def _identity(self, segment: Segment) -> str:
        what = self._what
        depends_on = {
            "problem": what.name,
            "command": what.template.text,
            "params": dict(segment.params),
            "seed": segment.seed,
            "length": segment.length or what.whole or what.length,
        }
        return json.dumps(depends_on, sort_keys=True)


class _Said:
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
        self._start, self._stop = start, stop
        self._watch = watch

    def take(self, line: str) -> None:
        """Take a line of output."""
        said = _object(line)
        if said is None:
            return
        if self._metric in said or "diverged" in said:
            self.last = said
        else:
            self._other = said
        done = _number(said.get("resource"))
        if done is not None and self._start <= done <= self._stop:
            loss = _number(said.get("loss"))
            if loss is not None and math.isfinite(loss):
                self.losses.take(loss)
            self._watch(int(done))

    def result(self, line: str) -> dict[str, Any]:
        """Return what it came to, to be noted; `line` is the last of its output. Raises CommandError."""
        said = self.last
        if said is None or not (self._metric in said or said.get("diverged") is True):
            others = said or self._other
            there = f"only {', '.join(others)}" if others else "no JSON object at all"
            raise (ResultError if others else CommandError)(
                f"{self._metric!r} was not said, {there}; print a line like "
                f"{json.dumps({self._metric: 0.5})} in the end; the last line was {_short(line)!r}"
            )
        value = said.get(self._metric)
        if value is not None and _number(value) is None:
            raise ResultError(f"{self._metric!r} is {_short(json.dumps(value))}, which is no number")
        numbers = {name: number for name, given in said.items() if (number := _number(given)) is not None}
        finite = {name: number for name, number in numbers.items() if math.isfinite(number) and name != "resource"}
        if said.get("diverged") is True or self._metric not in finite:
            at = numbers.get("resource", 0.0)
            at = int(at) if self._start < at <= self._stop else self._stop
            return {"done": at, "diverged_at": at, "metrics": {}}
        return {"done": self._stop, "diverged_at": None, "metrics": finite}


def _path(program: str, cwd: Path) -> str:
    """Return where a program is looked for: by its name, or in the folder in which it will run."""
    return str(cwd / program) if os.sep in program else program


def usable_threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(place: Place) -> str:
    """Return the device: "cuda" means all GPUs, turn and turn about."""
    if place.device != "cuda":
        return place.device
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = Path("/proc/driver/nvidia/gpus")
    gpus = len(seen.split(",")) if seen else len(list(known.iterdir())) if known.is_dir() else 1
    return f"cuda:{place.number % max(gpus, 1)}"


def _outcome(note: Mapping[str, Any]) -> Outcome:
    done, cost = int(note["done"]), Cost(exact=note["done"] - note["from"], exact_seconds=note["seconds"])
    losses = LossMeans(note.get("losses")).curve
    return Outcome(done, dict(note["metrics"]), note["diverged_at"], False, cost, losses=losses)


def _number(value: object) -> float | None:
    """Return a number of JSON's; None where it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _object(text: str) -> dict[str, Any] | None:
    """Read a JSON object; None where it is something else."""
    text = text.strip()
    if not text.startswith("{"):
        return None
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return _object(path.read_text(errors="replace"))
    except OSError:
        return None


def _short(line: str) -> str:
    return line if len(line) <= 100 else f"{line[:100]}…"


def _metric(metric: Metric | None, minimize: str | None, maximize: str | None) -> Metric:
    given = [name for name in (metric, minimize, maximize) if name is not None]
    if len(given) != 1:
        raise UsageError(
            f"{len(given)} metrics are named, and trials are compared by one; give one of `minimize`=NAME, "
            "`maximize`=NAME and `metric`"
        )
    if metric is not None:
        return metric
    return Metric(minimize, "minimize") if minimize is not None else Metric(str(maximize), "maximize")


def _name(words: Sequence[str]) -> str:
    """Return the name of the script among a command's arguments, or else of its program."""
    scripts = [PurePath(word) for word in words if not word.startswith("-") and PurePath(word).suffix[1:].isalpha()]
    return next((path.stem for path in [*scripts, *map(PurePath, words)] if path.stem), "command")


def _code(words: Sequence[str], cwd: Path) -> str | None:
    """Return a digest of the texts among the files that a command names, None where it names none."""
    digest, found = hashlib.sha256(), False
    for word in words:
        for name in (word, word.partition("=")[2]):
            if not name:
                continue
            try:
                path = cwd / name
                content = path.read_bytes() if path.is_file() and path.stat().st_size <= _CODE_BYTES else b"\0"
            except (OSError, ValueError):
                continue
            if b"\0" not in content:
                digest.update(hashlib.sha256(content).digest())
                found = True
    return digest.hexdigest() if found else None
