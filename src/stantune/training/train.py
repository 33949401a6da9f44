"""Train one setting of a problem from one iteration to another: loop, checkpoint, divergence guard, evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stantune.errors import AheadCheckpointError, CheckpointError, DamagedCheckpointError, UsageError
from stantune.kernels.cuda.lanes import Lane, lane_on
from stantune.outcome import Cost, Outcome
from stantune.process.alone import alone
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.training import checkpoint as checkpoints
from stantune.training.best import Best, curve_to_go_on_with
from stantune.training.compiling import check_compile
from stantune.training.planning import planned_stan
from stantune.training.precision import check_plan, computing_in, precision_on
from stantune.training.together.randomness import OwnRandom, seeded
from stantune.training.together.turns import drained, within
from stantune.training.together.writing import written
from stantune.training.trainable import Splits, Trainable
from stantune.training.trial import Trial, cuda_index
from stantune.user_code.noted import as_earlier

# What settings, and the evaluations of a training, are compared by; and all that can be measured.
COMPARED = "validation"
EVALUATED = (COMPARED, "test")
# A process that is killed in a long segment loses no more than this.
SAVE_SECONDS = 60.0


def run(
    problem: Trainable,
    setting: Mapping[str, Any],
    checkpoint: Path | None,
    start: int,
    stop: int,
    *,
    splits: Splits,
    seed: int = 0,
    stan: Stan | None = None,
    evaluate: Sequence[str] = (COMPARED,),
    best: Best | None = None,
    device: str = "cpu",
    use_threads: Callable[[int | None], None] = lambda before: None,
    stop_early: Callable[[], bool] = lambda: False,
    watch: Callable[[int], None] = lambda iteration: None,
    made: Mapping[str, Any] | None = None,
    precision: str | None = None,
    compile: bool = False,
    timed: Trainable | None = None,
) -> Outcome:
    """Train a setting from iteration `start` to `stop` and evaluate it, exactly, at the end.

    0 to 600 in one go and 0 to 200 to 600 through checkpoints give the same bits: weights, momentum, order of the
    data, random state and STAN's grids. A segment may be run again at will: where the checkpoint is already further
    than `start` (a run that was cut), it goes on from there; where it is missing, it begins anew.

    Args:
        problem: what to train.
        setting: values of the problem's parameters; what is left out keeps the network's and the solver's own value.
        checkpoint: the trial's file; None keeps nothing, and then `start` must be 0.
        start: the iteration that an earlier segment ended with.
        stop: the iteration to end with.
        splits: the problem's data, from `problem.load()`.
        seed: of the weights, the data's order and every other random choice.
        stan: STAN's settings; None trains exactly.
        evaluate: the splits that are evaluated at the end: "validation", "test"; see Trainable.evaluate.
        best: where it is evaluated on the way, and where the weights of the best evaluation go; None does neither. What
            is evaluated at the end is then measured of these weights, too. The training itself remains what it is.
        device: where to train.
        use_threads: called before anything is timed or trained, with the number of threads that the checkpoint was
            trained with, None where there is none: another number changes the last bits of sums.
        stop_early: asked after each iteration; when true the segment ends, with a checkpoint.
        watch: called after each iteration with the number of iterations done.
        made: what else the checkpoint is to depend on, such as the problem's code; a search asks for that by itself.
        precision: "fp32", "tf32" (CUDA) or "bf16"; None for what PyTorch is set to.
        compile: whether torch.compile compiles the network, for training steps alone; not with STAN.
        timed: what is timed for a rate of "auto", where that is not `problem` itself.

    Returns:
        The outcome; a diverged trial's is an ordinary result.

    Raises:
        UsageError: a setting outside the problem's space, a range of iterations that makes no sense, or a split that
            does not exist or is empty, or a precision that cannot be had.
        CompileError: the network cannot be compiled.
        CheckpointError: the file is damaged or another trial's.
        StantuneError: the file cannot be written.
    """
    with alone(stop_early) as ours:
        if not ours:
            return Outcome(start, {}, None, True, Cost())
        return drained(
            turns(
                problem,
                setting,
                checkpoint,
                start,
                stop,
                pace=None,
                splits=splits,
                seed=seed,
                stan=stan,
                evaluate=evaluate,
                best=best,
                device=device,
                use_threads=use_threads,
                stop_early=stop_early,
                watch=watch,
                made=made,
                precision=precision,
                compile=compile,
                timed=timed,
            )
        )


def turns(
    problem: Trainable,
    setting: Mapping[str, Any],
    checkpoint: Path | None,
    start: int,
    stop: int,
    *,
    pace: int | None,
    splits: Splits,
    seed: int = 0,
    stan: Stan | None = None,
    evaluate: Sequence[str] = (COMPARED,),
    best: Best | None = None,
    device: str = "cpu",
    use_threads: Callable[[int | None], None] = lambda before: None,
    stop_early: Callable[[], bool] = lambda: False,
    watch: Callable[[int], None] = lambda iteration: None,
    made: Mapping[str, Any] | None = None,
    precision: str | None = None,
    compile: bool = False,
    to_use: bool = False,
    timed: Trainable | None = None,
) -> Generator[None, None, Outcome]:
    """Do what `run` does in turns of about `pace` iterations (None: in one), between which others may have theirs.

    An evaluation is part of one turn; the checkpoint of the end is written between turns. What it comes to is what
    `run` returns, whoever has turns in between.

    With `to_use` the checkpoint is kept for its weights, and what they were fed lies beside them, as with `best`.
    """

    def course(lane: Lane | None) -> Generator[None, None, Outcome]:
        checked = problem.space.check(setting)
        if not 0 <= start <= stop or (start and checkpoint is None):
            raise UsageError(
                f"cannot train from iteration {start} to {stop}; give 0 <= start <= stop, and a checkpoint if start > 0"
            )
        for name in evaluate:
            if name not in EVALUATED or not len(getattr(splits, name)):
                raise UsageError(
                    f"there is nothing to evaluate in {name!r}; take {' or '.join(EVALUATED)}, unless empty"
                )
        numbers = precision_on(precision, device)
        check_plan(numbers, stan)
        check_compile(compile, stan)
        # They came later, and are named only where they are set.
        later = {"precision": numbers, "compile": compile or None}
        depends = {**(made or {}), **{name: value for name, value in later.items() if value is not None}}
        identity = _identity(problem, checked, splits, seed, stan, depends)
        earlier = _identity(problem, checked, splits, seed, stan, as_earlier(depends))
        state = None if checkpoint is None else checkpoints.load(checkpoint, identity, earlier)
        curve: dict[int, dict[str, float]] = {}
        if best is not None:
            kept = checkpoints.load(best.path, identity, earlier)
            found = None if state is None else curve_to_go_on_with(best.metric, state, kept, "iteration")
            # Weights that were best and are gone can only be trained again.
            state, curve = (None, {}) if found is None else (state, found)
        planned = stan
        # What is timed draws as often as the clock lets it, and nothing of that is the training's.
        with seeded(derive("timed", seed), cuda_index(device)):
            # Those of before the number was kept have none.
            use_threads(None if state is None else state.get("threads"))
            if stan is not None:
                before = None if state is None else state["planned"]
                length = problem.iterations
                planned = planned_stan(
                    stan, timed or problem, checked, splits, before, iterations=length, seed=seed, device=device
                )
        if planned is not None and lane is not None and planned.spares_nothing:
            # Native kernels are for CPUs, and a GPU makes exact steps by itself.
            planned = None

        def new() -> Trial:
            return Trial(
                problem,
                checked,
                splits,
                seed=seed,
                stan=planned,
                device=device,
                start=start,
                precision=numbers,
                compile=compile,
                lane=lane,
            )

        trial = new()
        if state is not None:
            try:
                trial.restore(state)
                # Checkpoints of before have none of Python's and NumPy's.
                if "random_others" in state:
                    OwnRandom.restore(state["random_others"])
            except torch.OutOfMemoryError:
                raise
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"checkpoint {checkpoint} does not fit the network or the optimizer that problem {problem.name!r} "
                    "has now; undo the change, or delete the file and the trial is trained again from its first "
                    "iteration"
                ) from error
        if trial.iteration > stop:
            raise AheadCheckpointError(
                f"checkpoint {checkpoint} is at iteration {trial.iteration}, beyond {stop}; delete it to train anew"
            )
        inputs = problem.inputs(splits) if to_use or best is not None else None
        training = _Training(trial, new, checkpoint, identity, best, watch, inputs)
        training.curve = curve

        def measure(model: nn.Module, names: Sequence[str]) -> dict[str, float]:
            began, metrics = time.perf_counter(), dict[str, float]()
            # What is drawn there is nothing to the training, and does not depend on what was drawn before.
            with seeded(derive("evaluate", seed), cuda_index(device)):
                for name in names:
                    metrics |= problem.evaluate(model, splits, name, device)
            trial.cost.evaluation_seconds += time.perf_counter() - began
            return metrics

        diverged, interrupted = yield from training.to(stop, stop_early, measure, pace)
        if diverged:
            return Outcome(
                trial.iteration, {}, trial.iteration, False, trial.cost, training.curve, losses=trial.losses.curve
            )
        unsaid = to_use and state is not None and "inputs" not in state
        if checkpoint is not None and (trial.moved or unsaid):
            write = training.saving(checkpoint)
            if pace is None:
                write()
            else:
                yield from written(write)
        if interrupted:
            return Outcome(trial.iteration, {}, None, True, trial.cost)
        metrics = measure(trial.model, evaluate)
        if best is not None:
            training.end(
                best, stop, metrics, lambda model: measure(model, [name for name in evaluate if name != COMPARED])
            )
        return Outcome(trial.iteration, metrics, None, False, trial.cost, training.curve, losses=trial.losses.curve)

    own = OwnRandom("random", seed)

    @contextmanager
    def apart(lane: Lane | None) -> Iterator[None]:
        in_lane = nullcontext() if lane is None else lane.taken_up()
        with own.here(), computing_in(precision, device), in_lane:
            yield

    def on_device() -> Generator[None, None, Outcome]:
        index = cuda_index(device)
        with nullcontext() if index is None else lane_on(index) as lane:
            return (yield from within(course(lane), lambda: apart(lane)))

    return on_device()


class _Training:
    """A trial on its way to its end, what is kept of it, and what was measured.

    Attributes:
        curve: of a training whose best weights are kept, what was measured at which iteration.
    """

    def __init__(
        self,
        trial: Trial,
        new: Callable[[], Trial],
        checkpoint: Path | None,
        identity: str,
        best: Best | None,
        watch: Callable[[int], None],
        inputs: Mapping[str, Any] | None,
    ) -> None:
        """Go on with a trial; `new` makes one like it, at its beginning. For all else see `run` and Trainable."""
        self.curve: dict[int, dict[str, float]] = {}
        self._trial = trial
        self._new = new
        self._checkpoint = checkpoint
        self._identity = identity
        self._best = best
        self._watch = watch
        self._inputs = inputs
        self._saved = time.monotonic()

    def to(
        self,
        stop: int,
        stop_early: Callable[[], bool],
        measure: Callable[[nn.Module, Sequence[str]], dict[str, float]],
        pace: int | None,
    ) -> Generator[None, None, tuple[bool, bool]]:
        """Train to iteration `stop` in turns; return whether the trial diverged and whether it was interrupted."""
        for point in () if self._best is None else self._best.points:
            if point >= stop or point < self._trial.iteration or point in self.curve:
                continue
            diverged, interrupted = yield from self._trial.in_turns(point, stop_early, self._moved, pace)
            if diverged or interrupted:
                return diverged, interrupted
            assert self._best is not None
            self.curve[point] = measure(self._like(self._trial.state()), [COMPARED])
            if self._best.at(self.curve) == point:
                self.save(self._best.path)
            if self._checkpoint is not None:
                # After the best weights: it says that they are there.
                self.save(self._checkpoint)
            if stop_early():
                return False, True
        return (yield from self._trial.in_turns(stop, stop_early, self._moved, pace))

    def end(
        self, best: Best, stop: int, metrics: dict[str, float], measure: Callable[[nn.Module], dict[str, float]]
    ) -> None:
        """Note what was measured at the end; have `measure` add what is lacking of the best weights, if others are."""
        self.curve[stop] = metrics
        at = best.at(self.curve)
        if at == stop:
            self.save(best.path)
        elif at is not None:
            kept = checkpoints.load(best.path, self._identity)
            if kept is None or kept["iteration"] != at:
                raise DamagedCheckpointError(
                    f"{best.path} was deleted or exchanged while its training ran; give the command again"
                )
            self.curve[at] |= measure(self._like(kept))

    def save(self, path: Path) -> None:
        """Keep it as it is now."""
        self.saving(path)()

    def saving(self, path: Path) -> Callable[[], None]:
        """Return what keeps it as it is now; to be called before it is trained further."""
        noted: dict[str, Any] = {} if self._best is None else {"curve": self.curve}
        if self._inputs is not None:
            # Weights that are to be used lie beside what they were fed.
            noted["inputs"] = dict(self._inputs)
        state = self._trial.state() | {"random_others": OwnRandom.state()} | noted
        return lambda: checkpoints.save(path, self._identity, state)

    def _moved(self, iteration: int) -> None:
        if self._checkpoint is not None and time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save(self._checkpoint)
            self._saved = time.monotonic()
        self._watch(iteration)

    def _like(self, state: Mapping[str, Any]) -> nn.Module:
        """Return a network of its own with a state's weights, so that looking at it does nothing to the training."""
        trial = self._new()
        trial.restore(state)
        model: nn.Module = trial.model
        return model


def _identity(
    problem: Trainable,
    setting: Mapping[str, Any],
    splits: Splits,
    seed: int,
    stan: Stan | None,
    made: Mapping[str, Any],
) -> str:
    """Return all that a training's result depends on, as text; that of files from before is the same."""
    depends_on: dict[str, Any] = {
        "problem": problem.name,
        "setting": setting,
        "seed": seed,
        "stan": None if stan is None else stan.identity,
        "batch_size": problem.batch_size,
        "images": len(splits.train),
        **problem.identity,
        **made,
    }
    if stan is not None and stan.rates:
        # Beside STAN's settings and not among them, as where a training, and not Stan, had several rates.
        depends_on["rates"] = depends_on["stan"].pop("rates")
    return json.dumps(depends_on, sort_keys=True)
