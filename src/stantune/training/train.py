"""Train one setting of a problem from one iteration to another: loop, checkpoint, divergence guard, evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stantune.errors import CheckpointError, UsageError
from stantune.outcome import Outcome
from stantune.stan.config import Stan
from stantune.training import checkpoint as checkpoints
from stantune.training.planning import planned_stan
from stantune.training.trainable import Splits, Trainable
from stantune.training.trial import Trial

EVALUATED = ("validation", "test")
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
    evaluate: Sequence[str] = ("validation",),
    device: str = "cpu",
    use_threads: Callable[[int | None], None] = lambda before: None,
    stop_early: Callable[[], bool] = lambda: False,
    watch: Callable[[int], None] = lambda iteration: None,
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
        device: where to train.
        use_threads: called before anything is timed or trained, with the number of threads that the checkpoint was
            trained with, None where there is none: another number changes the last bits of sums.
        stop_early: asked after each iteration; when true the segment ends, with a checkpoint.
        watch: called after each iteration with the number of iterations done.

    Returns:
        The outcome; a diverged trial's is an ordinary result.

    Raises:
        UsageError: a setting outside the problem's space, a range of iterations that makes no sense, or a split that
            does not exist or is empty.
        CheckpointError: the file is damaged or another trial's.
        StantuneError: the file cannot be written.
    """
    setting = problem.space.check(setting)
    if not 0 <= start <= stop or (start and checkpoint is None):
        raise UsageError(
            f"cannot train from iteration {start} to {stop}; give 0 <= start <= stop, and a checkpoint if start > 0"
        )
    for name in evaluate:
        if name not in EVALUATED or not len(getattr(splits, name)):
            raise UsageError(f"there is nothing to evaluate in {name!r}; take {' or '.join(EVALUATED)}, unless empty")
    identity = _identity(problem, setting, splits, seed, stan)
    state = None if checkpoint is None else checkpoints.load(checkpoint, identity)
    # Those of before the number was kept have none.
    use_threads(None if state is None else state.get("threads"))
    if stan is not None:
        before = None if state is None else state["planned"]
        length = problem.iterations
        stan = planned_stan(stan, problem, setting, splits, before, iterations=length, seed=seed, device=device)
    trial = Trial(problem, setting, splits, seed=seed, stan=stan, device=device, start=start)
    if state is not None:
        try:
            trial.restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {checkpoint} does not fit the network or the optimizer that problem {problem.name!r} "
                "has now; undo the change, or delete the file and the trial is trained again from its first "
                "iteration"
            ) from error
    if trial.iteration > stop:
        raise UsageError(
            f"checkpoint {checkpoint} is at iteration {trial.iteration}, beyond {stop}; delete it to train anew"
        )
    saved = time.monotonic()

    def moved(iteration: int) -> None:
        nonlocal saved
        if checkpoint is not None and time.monotonic() - saved >= SAVE_SECONDS:
            checkpoints.save(checkpoint, identity, trial.state())
            saved = time.monotonic()
        watch(iteration)

    diverged, interrupted = trial.train(stop, stop_early, moved)
    if diverged:
        return Outcome(trial.iteration, {}, trial.iteration, False, trial.cost)
    if checkpoint is not None and trial.moved:
        checkpoints.save(checkpoint, identity, trial.state())
    if interrupted:
        return Outcome(trial.iteration, {}, None, True, trial.cost)
    began = time.perf_counter()
    metrics: dict[str, float] = {}
    for name in evaluate:
        metrics |= problem.evaluate(trial.model, splits, name, device)
    trial.cost.evaluation_seconds = time.perf_counter() - began
    return Outcome(trial.iteration, metrics, None, False, trial.cost)


def _identity(problem: Trainable, setting: Mapping[str, Any], splits: Splits, seed: int, stan: Stan | None) -> str:
    """Return all that a training's result depends on, as text; that of files from before is the same."""
    depends_on: dict[str, Any] = {
        "problem": problem.name,
        "setting": setting,
        "seed": seed,
        "stan": None if stan is None else stan.identity,
        "batch_size": problem.batch_size,
        "images": len(splits.train),
        **problem.identity,
    }
    if stan is not None and stan.rates:
        # Beside STAN's settings and not among them, as where a training, and not Stan, had several rates.
        depends_on["rates"] = depends_on["stan"].pop("rates")
    return json.dumps(depends_on, sort_keys=True)
