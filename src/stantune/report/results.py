"""The JSON that the commands print: a versioned contract, documented in docs/json.md. Errors are in percent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Result(BaseModel):
    """A part of the contract: unknown fields are a mistake of ours, not an extension."""

    model_config = ConfigDict(extra="forbid")


class RungResult(Result):
    """One rung of a bracket, as planned."""

    iterations: int = Field(description="iterations that a trial has when it is evaluated here")
    trials: int = Field(description="trials that reach it, at most: fewer where nearly all diverge")


class BracketResult(Result):
    """One bracket, as planned."""

    s: int = Field(description="how many times the bracket drops trials")
    rungs: list[RungResult] = Field(description="its rungs, in the order in which they are run")


class RateResult(Result):
    """STAN's rate in a stretch of every trial."""

    iterations: int = Field(description="it holds up to so many iterations of a trial, from where the one before ends")
    rate: float | Literal["auto"] = Field(description="share of the entries that reduced iterations compute")


class Counts(Result):
    """Trials by what became of them; one that was promoted counts under its later end too."""

    trials: int = Field(description="trials begun")
    promoted: int = Field(description="trials promoted at least once")
    dropped: int = Field(description="trials that a closed rung did not promote")
    diverged: int = Field(description="trials that the divergence guard ended")
    failed: int = Field(description="trials that failed for good: they raised, hung or were killed again and again")
    duplicates: int = Field(description="trials whose results were all taken over from an equal, earlier trial")
    retries: int = Field(description="trainings of trials that failed and were begun again")


class IterationsSpared(Result):
    """Iterations that were asked for and that nobody had to train."""

    diverged: int = Field(description="from where trials diverged to the end of the rung they were on the way to")
    duplicates: int = Field(description="of results taken over from an equal, earlier trial")


class Seconds(Result):
    """Where the time went, over all runs of the command on this directory or checkpoint, and over all workers."""

    total: float = Field(description="seconds: training + evaluation + coordination")
    training: float = Field(description="seconds of training iterations, those of final trainings among them")
    evaluation: float = Field(description="seconds of measuring validation and test errors")
    coordination: float = Field(description="seconds of everything else: sampling, trial table, checkpoints, waiting")


class Saved(Result):
    """Seconds of training not spent, estimated from each trial's own pace: three comparisons, not parts of a sum."""

    early_stopping: float = Field(
        description="seconds of dropped and diverged trials, against training each of them to max_iterations"
    )
    continuing: float = Field(
        description="seconds of promoted trials, against a search that trains them from scratch in every rung"
    )
    stan: float = Field(description="seconds of reduced iterations, against as many exact ones; negative is a loss")


class Best(Result):
    """The setting with the lowest validation error of the search; a trial that diverged in the end does not count."""

    params: dict[str, Any] = Field(description="each parameter's value")
    validation_error: float = Field(description="percent of the validation images")
    iterations: int = Field(description="iterations trained when that error was measured")


class Final(Result):
    """One of the best settings, trained exactly from scratch."""

    trial: int = Field(description="the number of the trial whose setting it is")
    params: dict[str, Any] = Field(description="each parameter's value")
    iterations: int = Field(description="iterations trained; fewer than max_iterations where it diverged")
    validation_error: float | None = Field(description="percent; null where the training diverged")
    test_error: float | None = Field(description="percent; null where the training diverged")
    weights: str | None = Field(description="their file in the search's directory; null where the training diverged")


class Leader(Best):
    """One of the best five trials."""

    trial: int = Field(description="the trial's number, from 0; in the Optuna study too")


_PROBLEM = Field(description="the problem's name")
_SEED = Field(description="what was given with --seed")
_MODE = Field(description='"sync" for Hyperband, "async" for ASHA')
_VARIANT = Field(description='"algorithm1" or "table1": how the numbers of trials are rounded')
_ETA = Field(description="one trial of so many is promoted")
_MAX_ITERATIONS = Field(description="R, iterations of a trial that is never dropped")
_MIN_ITERATIONS = Field(description="r, the least iterations before a trial may be dropped")
_RATES = Field(description="of a trial under STAN, from its first iteration on; empty where trials train exactly")
_BRACKETS = Field(description="the plan, in the order in which it is run")


class TrialFailure(Result):
    """A trial that failed for good; it did not diverge."""

    trial: int = Field(description="the trial's number, from 0; in the Optuna study too")
    params: dict[str, Any] = Field(description="each parameter's value")
    iterations: int = Field(description="the iterations that it was on the way to")
    cause: str = Field(description="what happened the last time")


class SearchResult(Result):
    """`stantune search --json`, and result.json in the search's directory."""

    schema_version: Literal["stantune.search/1"] = Field(default="stantune.search/1", description="kind and version")
    problem: str = _PROBLEM
    seed: int = _SEED
    sampler: str = Field(description='"random", "tpe" or "bohb": what proposed the settings')
    started_from: str | None = Field(description="the earlier search that it learned from; null where from none")
    accelerate: Literal["stan", "none"] = Field(description="how the trials were trained")
    mode: Literal["sync", "async"] = _MODE
    variant: str = _VARIANT
    eta: int = _ETA
    max_iterations: int = _MAX_ITERATIONS
    min_iterations: int = _MIN_ITERATIONS
    rates: list[RateResult] = _RATES
    complete: bool = Field(description="false where a budget or Ctrl-C ended the search early")
    brackets: list[BracketResult] = _BRACKETS
    counts: Counts = Field(description="trials by what became of them")
    iterations_trained: int = Field(description="of all trials; final trainings are not among them")
    iterations_spared: IterationsSpared = Field(description="asked for, and not trained")
    seconds: Seconds = Field(
        description="where the time of all workers went, over all runs of the command on this directory"
    )
    saved: Saved = Field(description="training not done; three comparisons, not parts of a sum")
    best: Best | None = Field(description="null while no trial has a result, or where all diverged")
    leaders: list[Leader] = Field(description="the best five trials, the best first")
    failures: list[TrialFailure] = Field(description="the trials that failed for good")
    finalists: list[Final] = Field(description="the final trainings that are over, in the order of their trials' ranks")
    final: Final | None = Field(
        description="the one with the lowest validation error; null where the search is not complete or found nothing"
    )


class TrainResult(Result):
    """`stantune train --json`."""

    schema_version: Literal["stantune.train/1"] = Field(default="stantune.train/1", description="kind and version")
    problem: str = _PROBLEM
    seed: int = _SEED
    accelerate: Literal["stan", "none"] = Field(description="how it was trained")
    params: dict[str, Any] = Field(description="the values given with --set; the others are the problem's own")
    iterations: int = Field(description="iterations trained")
    validation_error: float | None = Field(description="percent; null under --full-train or where it diverged")
    test_error: float | None = Field(description="percent; null where it diverged")
    seconds: Seconds = Field(description="where the time went; with --checkpoint, of all runs that led here")
    diverged_at: int | None = Field(description="the iteration, from 0, whose loss told; null where it did not diverge")


class PlanResult(Result):
    """`stantune brackets --json`."""

    schema_version: Literal["stantune.brackets/1"] = Field(
        default="stantune.brackets/1", description="kind and version"
    )
    problem: str = _PROBLEM
    mode: Literal["sync", "async"] = _MODE
    variant: str = _VARIANT
    eta: int = _ETA
    max_iterations: int = _MAX_ITERATIONS
    min_iterations: int = _MIN_ITERATIONS
    rates: list[RateResult] = _RATES
    brackets: list[BracketResult] = _BRACKETS
    trials: int = Field(description="trials in all")
    iterations: int = Field(description="of all trials, continuing from checkpoints, if none diverges")
    iterations_restarting: int = Field(description="the same if every rung began from scratch")
    final_iterations: int = Field(description="of the final trainings, which come on top")
    estimated_seconds: float | None = Field(description="from a few timed iterations; null where the data are missing")


class ParameterResult(Result):
    """One parameter of a space."""

    name: str = Field(description="its name, as in --set")
    kind: Literal["float", "integer", "categorical"] = Field(description="what its values are")
    low: float | None = Field(default=None, description="least value; null where categorical")
    high: float | None = Field(default=None, description="largest value; null where categorical")
    log: bool | None = Field(
        default=None, description="whether it is searched evenly in its logarithm; null where categorical"
    )
    choices: list[Any] | None = Field(default=None, description="all values; null unless categorical")
    when: dict[str, list[Any]] | None = Field(
        default=None, description="what other parameters must be for it to exist; null where it always does"
    )


class ProblemResult(Result):
    """One problem."""

    name: str = _PROBLEM
    data: str = Field(description="the data set's name")
    iterations: int = Field(description="N, the length of a whole training")
    batch_size: int = Field(description="images in an iteration")
    space: list[ParameterResult] = Field(description="what is searched")


class ProblemsResult(Result):
    """`stantune problems --json`."""

    schema_version: Literal["stantune.problems/1"] = Field(
        default="stantune.problems/1", description="kind and version"
    )
    problems: list[ProblemResult] = Field(description="the built-in problems")


class DataResult(Result):
    """`stantune data fetch --json`."""

    schema_version: Literal["stantune.data/1"] = Field(default="stantune.data/1", description="kind and version")
    name: str = Field(description="the data set's name")
    directory: str = Field(description="where its files are")
    training_images: int = Field(description="images to train on, those that a search holds out among them")
    test_images: int = Field(description="images of the test set")
