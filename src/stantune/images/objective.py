"""A problem as an objective: what a search of images trains, and how a process comes to train it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from stantune.errors import UsageError, words_of
from stantune.images.data import fetch, is_present
from stantune.images.data.parts import part_of, samples_of
from stantune.images.no_effect import of_no_effect, said_already
from stantune.images.numbers_held_out import numbers_held_out
from stantune.images.problem.built_in import Problem, Splits, built_in, find, is_built_in
from stantune.images.resizing import Resize
from stantune.images.stan_settings import noted
from stantune.images.trainer import ProblemTrainer
from stantune.process.alone import NoTurnError, alone
from stantune.process.float32 import ALLOWED
from stantune.process.runtime import tune_process
from stantune.protocols import Conditions, Metric, Place, Prepared
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.training.compiling import check_compile
from stantune.training.planning import planned_stan
from stantune.training.precision import check_plan, check_precision, computing_in, precision_on
from stantune.training.threads import measure_threads
from stantune.training.together.memory import bytes_kept
from stantune.user_code.digest import digest
from stantune.user_code.files import check_unchanged

# Fields of a problem that are set after it was found.
_CHANGED = ("stan_layers", "course")


@dataclass(frozen=True)
class ProblemObjective:
    """Searches a problem; see protocols.Objective.

    Attributes:
        problem: what is trained.
        stan: STAN's settings for the trials, without a seed of its own; None trains exactly. Final trainings are exact
            either way, with every entry computed, and by native kernels where the trials are.
        data: where data sets are kept, None for the default.
        source: the problem's name, or FILE.py:NAME, by which other processes find it; None where it travels itself.
        precision: in what numbers trainings compute, final ones too: see training.precision; None for what PyTorch is
            set to.
        compile: whether torch.compile compiles the network of trainings, final ones too; not with STAN.
        resize: how small images are in the first part of a trial, "1/2:1/3" say; None for whole ones.

    Raises:
        UsageError: there is no such precision, a plan would be made of times in another one, STAN would be compiled, or
            what it remembers would be of images of two sizes.
    """

    problem: Problem
    stan: Stan | None = None
    data: Path | None = None
    source: str | None = None
    precision: str | None = None
    compile: bool = False
    resize: Resize | None = None
    unit: str = field(default="iteration", init=False)
    can_continue: bool = field(default=True, init=False)
    takes_turns: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_plan(self.precision, self.stan)
        check_compile(self.compile, self.stan)
        if self.resize is not None:
            # Given as a text by `tune` and the command line.
            resize = Resize.of(self.resize)
            object.__setattr__(self, "resize", resize)
            resize.check_memory(self.stan)

    @property
    def name(self) -> str:
        """The problem's."""
        return self.problem.name

    @property
    def space(self) -> Space:
        """The problem's."""
        return self.problem.space

    @property
    def metric(self) -> Metric:
        """The problem's."""
        return self.problem.metric

    @property
    def length(self) -> int:
        """N."""
        return self.problem.iterations

    @property
    def sets(self) -> tuple[str, ...]:
        """What its trainings set by themselves of their process, whatever that was set to; see `process.settings`."""
        always = "flush-denormal", "cudnn-deterministic", "cudnn-benchmark"
        return always if self.precision not in ("fp32", "tf32") else (*always, *ALLOWED)

    @property
    def rate(self) -> float | Literal["auto"] | None:
        """The share of the entries that STAN computes; None for exact training."""
        return None if self.stan is None else self.stan.least_rate

    @property
    def inexact(self) -> str | None:
        """Why no training is exact, at whatever rate; None where that depends on the rate."""
        return None if self.stan is None else self.stan.inexact

    @property
    def identity(self) -> Mapping[str, Any]:
        """The problem's numbers and STAN's settings."""
        return {
            **self._made,
            "problem": self.problem.name,
            "iterations": self.problem.iterations,
            "batch-size": self.problem.batch_size,
            **noted(self.stan),
            # They came later, and are named only where they are set, so that searches from before are known again.
            **({} if self.precision is None else {"precision": self.precision}),
            **({"compile": True} if self.compile else {}),
            **({} if self.resize is None else {"resize": str(self.resize)}),
            **self.problem.identity,
            **self._held_out,
        }

    @cached_property
    def _made(self) -> dict[str, Any]:
        """What the problem is made of; once, since a file that is changed later has other lines."""
        return made_of(self.problem)

    @cached_property
    def _held_out(self) -> dict[str, Any]:
        """What a search notes of how samples are held out; it is set where one is prepared, and travels."""
        return {}

    def held_out(self, begun: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what is added to a search's identity of how samples are held out; see `numbers_held_out`."""
        with _going_on(self.problem):
            return numbers_held_out(self.problem, self.data, begun)

    @cached_property
    def splits(self) -> Splits:
        """The problem's data, in memory; raises StantuneError where they cannot be loaded."""
        with _going_on(self.problem):
            return self.problem.load(self.data)

    @property
    def shares_data(self) -> bool:
        """Whether `load` runs no code but ours, so that a process may do it once for all workers."""
        return self.source is not None and built_in(self.source) is not None

    def fetch(self, say: Callable[[str], None]) -> None:
        """Have a built-in data set on the disk."""
        if isinstance(self.problem.data, str) and not is_present(self.problem.data, self.data):
            fetch(self.problem.data, self.data, say=say)

    def load(self) -> None:
        """Have the data in memory."""
        _ = self.splits

    def compared_by(self, share: float) -> tuple[Splits, float]:
        """Return the data with a share of the validation samples, and the share that they are: few are not divided."""
        whole = self.splits
        if share == 1:
            return whole, share
        samples = len(whole.validation)
        count = samples_of(share, samples, whole.classes)
        if count not in self._parts:
            part = part_of(whole.validation, count, self.problem.hold_out_seed)
            self._parts[count] = replace(whole, validation=part)
        return self._parts[count], count / samples

    @cached_property
    def _parts(self) -> dict[int, Splits]:
        """The data with the parts of the validation samples that were asked for, by their sizes."""
        return {}

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective: data are fetched, threads chosen and a plan made in place of a rate of "auto".

        Schedules of the learning rate that have no times of their own take as long as the search trains.
        """
        # Before anything is loaded or timed, which may change what the user's own objects hold.
        made = self._made
        # What takes long, and disturbs no training.
        self.fetch(conditions.say)
        with alone(conditions.stop_early) as ours:
            if not ours:
                raise NoTurnError(f"the search of {self.name} was to end before its turn came to be prepared")
            return self._prepared(conditions, made)

    def _prepared(self, conditions: Conditions, made: dict[str, Any]) -> Prepared:
        # Before anything computes, as where the search goes on: the threads that then begin count denormals alike.
        threads = self._threads(conditions)
        if conditions.begun is None and (conditions.here or self.resize is not None):
            # Looked at before there is a table: what is wrong can be mended, and the same command begins.
            _ = self.splits
        if conditions.begun is None and self.resize is not None:
            with _going_on(self.problem):
                self.resize.check(self.problem, self.splits, conditions.max_resource, self.stan, conditions.fixed)
        by_itself = self.problem.recordable and self.problem.augment is None
        spares = by_itself and self.stan is not None and not self.stan.spares_nothing
        if conditions.begun is None and spares and torch.device(conditions.device).type == "cuda":
            conditions.say(
                "note: on a GPU trials under STAN take several times longer than exact ones, whose steps the device "
                "makes by itself; `stan`=None trains them exactly"
            )
        if threads is None:
            threads = self._fastest(conditions)
        numbers = precision_on(self.precision, conditions.device)
        ready = replace(self, problem=self.problem.lasting(conditions.max_resource), precision=numbers)
        if self.stan is not None and self.stan.rate == "auto" and self.stan.plan is None:
            ready = replace(ready, stan=self._planned(self.stan, conditions))
        elif self.stan is not None and self.stan.rate == "annealed" and self.stan.iterations is None:
            ready = replace(ready, stan=replace(self.stan, iterations=conditions.max_resource))
        vars(ready)["_made"] = made
        vars(ready)["_held_out"] = self.held_out(conditions.begun)
        if "splits" in vars(self):
            # What was loaded for timing is there for training.
            vars(ready)["splits"] = self.splits
        if not conditions.here:
            vars(ready).pop("splits", None)
        if ready.stan is not None and ready.stan.memo is None:
            # A memory would be made for it, of all samples.
            with _going_on(self.problem):
                for sentence in of_no_effect(self.problem, ready.stan):
                    conditions.say(sentence)
        return Prepared(ready, threads)

    def memory_told(self, together: int, device: str, here: bool) -> str:
        """Say, before so many trainings take turns, what memory each keeps, measured with the problem's own numbers.

        Where they are not in this process, it keeps nothing of the data that it measured with.
        """
        try:
            return self._memory_told(together, device)
        finally:
            if not here:
                vars(self).pop("splits", None)
            torch.cuda.empty_cache()

    def _memory_told(self, together: int, device: str) -> str:
        splits = self.splits
        try:
            with said_already():
                each = bytes_kept(
                    self.problem,
                    {},
                    splits,
                    stan=self.stan,
                    device=device_of(device, 0, torch.cuda.device_count()),
                    precision=self.precision,
                )
        except (Exception, SystemExit) as error:
            # What the problem's own numbers do says nothing of the settings that are searched.
            return (
                f"note: together: what memory each of {together} trainings in a process keeps could not be measured "
                f"with the problem's own numbers: {words_of(error)}"
            )
        return (
            f"together: {together} trainings in a process, each of which keeps about {_mb(each)} with the problem's "
            "own numbers (weights, gradients, what the optimizer and a backward pass need), beside "
            f"{_mb(splits.train.nbytes)} of training data for all"
        )

    def trainer(self, place: Place) -> ProblemTrainer:
        """See Objective."""
        tune_process(place.threads)
        device = device_of(place.device, place.number, torch.cuda.device_count())
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        return ProblemTrainer(self, device)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the data, and the problem where another process finds it by its source."""
        state = {name: value for name, value in vars(self).items() if name not in ("splits", "_parts")}
        # It goes along, so that it is what it was here.
        state["_made"] = self._made
        if self.source is not None:
            del state["problem"]
            # What the command line and the search may have changed of the problem that the source names.
            state["changed"] = {name: getattr(self.problem, name) for name in _CHANGED}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Find the problem again; raises UsageError where its file was changed meanwhile."""
        changed = state.pop("changed", {})
        if "problem" not in state:
            state["problem"] = replace(find(state["source"]), **changed)
            # What it trains goes into a table by what travelled.
            check_unchanged(state["source"], state["_made"], made_of(state["problem"]))
        vars(self).update(state)

    def _threads(self, conditions: Conditions) -> int | None:
        """Set this process to the number of threads that is known now; None where one is to be measured."""
        asked, begun = conditions.threads, conditions.begun
        if isinstance(asked, int):
            return tune_process(asked)
        if begun is not None:
            threads = tune_process(begun["threads"])
            if asked == "auto":
                conditions.say(f"threads: {threads} (it was begun with as many)")
            return threads
        if conditions.side_by_side:
            # Two trainings side by side do more than one with two threads.
            if asked == "auto":
                conditions.say("threads: 1 (trainings side by side do most with one each)")
            return tune_process(1)
        threads = tune_process(None)
        return None if asked == "auto" else threads

    def _fastest(self, conditions: Conditions) -> int:
        """Set this process to the number of threads that trains fastest."""
        natives = (self.stan is not None,)
        measured = measure_threads(
            self.problem,
            {},
            self.splits,
            natives=natives,
            device=conditions.device,
            precision=self.precision,
            compile=self.compile,
        )
        conditions.say(measured.words)
        return tune_process(measured.threads)

    def _planned(self, stan: Stan, conditions: Conditions) -> Stan:
        begun = conditions.begun
        with computing_in(self.precision, conditions.device):
            return planned_stan(
                stan,
                self.problem,
                {},
                self.splits if begun is None or begun.get("plan") is None else None,
                None if begun is None or begun.get("plan") is None else begun,
                iterations=conditions.max_resource,
                seed=conditions.seed,
                device=conditions.device,
            )


@contextmanager
def _going_on(problem: Problem) -> Iterator[None]:
    """Run a problem's code before a training; raises UsageError where that would end this process."""
    try:
        yield
    except SystemExit as error:
        raise UsageError(
            f"problem {problem.name!r}: its data or its network ends the program, by sys.exit or the like; have it "
            "raise an error that says what is wrong"
        ) from error


def made_of(problem: Problem) -> dict[str, Any]:
    """Return what a user's problem is made of, {"made-of": …}: plain fields by value, functions by their code's digest.

    Nothing of a built-in one.
    """
    if is_built_in(problem):
        return {}
    left_out = ("name", "space", "iterations", "batch_size", "stan_layers", "recordable", "course", "edition")
    parts = {each.name: _plain(getattr(problem, each.name)) for each in fields(problem) if each.name not in left_out}
    return {"made-of": parts}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: getattr(value, each.name) for each in fields(value)}
        # What came later is named only where it is set, so that searches from before are known again.
        return {name: _plain(one) for name, one in held.items() if name != "clip" or one is not None}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # Functions by their code, tensors and all else by what they hold: a text may leave most of that out.
    return digest(value)


def device_of(device: str, place: int, gpus: int) -> str:
    """Return where the worker with the number `place` trains: "cuda" means all GPUs, turn and turn about."""
    return f"cuda:{place % gpus}" if device == "cuda" and gpus else device


def _mb(size: int) -> str:
    return f"{max(size / 1e6, 0.1):.3g} MB"
