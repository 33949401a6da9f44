"""A command line as an objective: a training in any language, its state a folder, its result a line of JSON."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple, cast

from stantune.arguments import path as checked_path
from stantune.arguments import shown, truth
from stantune.errors import StantuneError, UsageError
from stantune.objectives.command.said import STDOUT
from stantune.objectives.command.templates import PARAMS, Template
from stantune.objectives.command.trainer import CommandTrainer, usual_threads
from stantune.objectives.preparing import check_told, chosen_threads
from stantune.parameters import Categorical, Float, Parameter
from stantune.protocols import Conditions, Metric, Place, Prepared
from stantune.space import Space

# Placeholders besides the parameters, each with a value of its kind.
PLACEHOLDERS: dict[str, Any] = {
    "start": 0,
    "stop": 1,
    "length": 1,
    "dir": "state",
    "seed": 0,
    "trial": 0,
    "final": 0,
    "device": "cpu",
    "threads": 1,
    PARAMS: {},
    "python": "python",
}
# Texts that the command names and that are no larger are taken for its code, and a program beside them in any case.
_CODE_BYTES = 1 << 20


class _Code(NamedTuple):
    """The code that a command names: a digest of it, None where there is none, and the files' names."""

    digest: str | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class CommandObjective:
    """Searches the parameters of a command: `CommandObjective("python train.py --lr {lr} --until {stop} …", space)`.

    The command is run once for each segment of a trial. What it leaves in its state folder, {dir}, is kept in the
    trial's checkpoint when it has ended well, and there again when the trial is gone on with. It says what it came to
    in the last line of its stdout that is a JSON object with the metric: `{"loss": 0.31, "accuracy": 0.9}`. A metric
    that is null, NaN or infinite, or `{"diverged": true}`, means that the trial is lost, which is an ordinary result.
    An exit code other than 0 is a failure, after which the segment is tried again. A JSON line with "resource" on the
    way says how far it is, and with a "loss" in it what the training loss is there, for the trial's curve; a metric
    in such a line is the result where one said that it came to {stop}. All that it says is kept in a folder beside the
    checkpoint; where checkpoints are kept at a URL, that of a segment that failed alone, on the node that trained it.

    Placeholders are the parameters and

    - {start}, {stop}: from where to where to train; start is 0 where the state folder is empty.
    - {length}: R in trials, and in a final training its own length, for learning-rate schedules.
    - {dir}: the state folder.
    - {seed}: of every random choice of the trial, from 0 to 2**31 - 1.
    - {trial}, {final}: the trial's number, and 1 where this is the final training of one of the best settings, else 0.
    - {device}, {threads}: "cpu" or "cuda:1", and how many threads to use. They are in OMP_NUM_THREADS, MKL_NUM_THREADS
      and OPENBLAS_NUM_THREADS, too.
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
        env: is added to the environment, and has the last word in it.
        shell: have a shell read the line, in which values are quoted.
        whole: R of the search; `prepared` says it.
        files: of its code, as the search has had them from its beginning; None for all there are. `prepared` says it.

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
    files: Sequence[str] | None = None
    template: Template = field(init=False, repr=False, compare=False)
    code: _Code = field(init=False, repr=False, compare=False)

    def __post_init__(self, minimize: str | None, maximize: str | None) -> None:
        """Check what can be checked, and fill in what was left out."""
        template = Template(self.command, truth("shell", self.shell))
        name, metric = self.name or _name(template.plain), _metric(self.metric, minimize, maximize)
        check_told(name, self.space, metric, self.unit, self.length)
        template.check({name: _some_values(parameter) for name, parameter in self.space.items()}, PLACEHOLDERS)
        cwd = checked_path("cwd", self.cwd or ".").absolute()
        known = PurePath(self.metrics if isinstance(self.metrics, str) else "")
        if not known.parts or known.is_absolute() or ".." in known.parts:
            raise UsageError(
                f"`metrics`={shown(self.metrics)} is no file in the state folder; give stdout, or its name there"
            )
        _check_env(self.env)
        for attribute, value in (
            ("template", template),
            ("metric", metric),
            ("cwd", cwd),
            ("env", dict(self.env)),
            ("name", name),
            # Once, so that a search has one identity even if the file is changed while it runs.
            ("code", _code(template, cwd, self.files)),
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
            "code": self.code.digest,
            "made-of": list(self.code.files),
            "env": dict(self.env),
            "metric": self.metric.name,
            "direction": self.metric.direction,
            "metrics": self.metrics,
            "unit": self.unit,
        }

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective: the number of threads is chosen, and a file that has come since the beginning is no code."""
        if os.name != "posix":
            raise StantuneError("commands are run in process groups, which this system has not; use Linux or macOS")
        threads = chosen_threads(conditions, self.name, usual_threads)
        begun = self if conditions.begun is None else self.as_begun(conditions.begun)
        return Prepared(replace(begun, whole=conditions.max_resource), threads)

    def as_begun(self, identity: Mapping[str, Any]) -> CommandObjective:
        """Return it with the code that a search with this identity has had from its beginning.

        A file that has come since is none: its own output, perhaps. Earlier versions noted no names, and no programs.
        """
        files = identity.get("made-of")
        if files is None:
            files = _code(self.template, Path(self.cwd or "."), None, programs=False).files
        return replace(self, files=files)

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


def _check_env(env: object) -> None:
    """Raise UsageError where no command could be started with this in its environment."""
    if not isinstance(env, Mapping):
        raise UsageError(f"`env`={shown(env)} is no dict of names and values; give one, or leave it away")
    for name, value in env.items():
        texts = isinstance(name, str) and isinstance(value, str)
        if not texts or not name or "=" in name or "\0" in name + value:
            raise UsageError(
                f"`env` has {shown(name)}: {shown(value)}, which no environment can have; give names and values as "
                "texts, such as {'CUDA_VISIBLE_DEVICES': '0'}"
            )


def _some_values(parameter: Parameter) -> Sequence[Any]:
    """Return the values of a parameter by which it shows whether a form can print them all."""
    if isinstance(parameter, Categorical):
        return parameter.choices
    kind = float if isinstance(parameter, Float) else int
    return [kind(parameter.low), kind(parameter.high)]


def _path(program: str, cwd: Path) -> str:
    """Return where a program is looked for: by its name, or in the folder in which it will run."""
    return str(cwd / program) if os.sep in program else program


def _metric(metric: Metric | None, minimize: str | None, maximize: str | None) -> Metric:
    given = [name for name in (metric, minimize, maximize) if name is not None]
    if len(given) != 1:
        raise UsageError(
            f"{len(given)} metrics are named, and trials are compared by one; give one of `minimize`=NAME, "
            "`maximize`=NAME and `metric`"
        )
    if metric is not None:
        return metric
    # Which of the two it is, and whether it is a text, is checked as of a Metric that is given.
    return Metric(cast(str, minimize), "minimize") if maximize is None else Metric(maximize, "maximize")


def _name(words: Sequence[str]) -> str:
    """Return the name of the script among a command's arguments, or else of its program."""
    scripts = [PurePath(word) for word in words if not word.startswith("-") and PurePath(word).suffix[1:].isalpha()]
    return next((path.stem for path in [*scripts, *map(PurePath, words)] if path.stem), "command")


def _code(template: Template, cwd: Path, files: Collection[str] | None, programs: bool = True) -> _Code:
    """Return the code among the files that a command names and does not write to, of `files` where there are some."""
    digest, found = hashlib.sha256(), []
    program = template.first if programs and _is_below(cwd, template.first or "") else None
    for word in template.plain:
        for name in (word, word.partition("=")[2]):
            if not name or name in template.written or (files is not None and name not in files):
                continue
            content = _digest(cwd / name, name == program)
            if content is not None:
                digest.update(content)
                found.append(name)
    return _Code(digest.hexdigest() if found else None, tuple(dict.fromkeys(found)))


def _is_below(folder: Path, program: str) -> bool:
    """Tell whether a program given by its path from a folder is really in it: no interpreter, also by a link."""
    if os.sep not in program or Path(program).is_absolute():
        return False
    try:
        return (folder / program).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def _digest(path: Path, program: bool) -> bytes | None:
    """Return a file's digest; None where there is none, or where it is neither a text nor the program."""
    try:
        if not path.is_file():
            return None
        if program:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        content = path.read_bytes() if path.stat().st_size <= _CODE_BYTES else b"\0"
    except (OSError, ValueError):
        return None
    return None if b"\0" in content else hashlib.sha256(content).digest()
