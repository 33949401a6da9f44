"""A search's result as JSON: a versioned contract, documented in docs/json.md."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stantune.search.plan.plans import PlanName
from stantune.texts import plain


class Result(BaseModel):
    """A part of the contract: unknown fields are a mistake of ours, not an extension; texts are what JSON can hold."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _encodable(cls, given: Any) -> Any:
        return plain(given)


class RungResult(Result):
    """One rung of a bracket, as planned."""

    iterations: int = Field(description="iterations that a trial has when it is evaluated here")
    trials: int = Field(description="trials that reach it, at most: fewer where nearly all diverge")


class BracketChoice(Result):
    """What a bracket may be that is chosen while searching."""

    s: int = Field(description="how many times the bracket drops trials")
    rungs: list[RungResult] = Field(description="its rungs, in the order in which they are run")


class BracketResult(Result):
    """One bracket, as planned; until it is chosen it is here as the one with most trials."""

    s: int = Field(description="how many times the bracket drops trials")
    rungs: list[RungResult] = Field(description="its rungs, in the order in which they are run")
    choices: list[BracketChoice] = Field(
        default=[], description="what it may be; empty where nothing is left to choose"
    )


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
    """Where the time went, over all runs of the command on this directory or checkpoint, and over all workers.

    Of a search's final trainings those have a share in it that count now: what was trained for a setting that has lost
    its place since, or for more finalists than are asked for, has not.
    """

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
    stan: float = Field(
        description="seconds of reduced iterations of what came to its end, against as many exact ones at the trial's "
        "own pace, or at that of all where it had none; negative is a loss"
    )


class MetricResult(Result):
    """What trials are compared by."""

    name: str = Field(description='"validation error" for the built-in problems')
    direction: Literal["minimize", "maximize"] = Field(description="what is better")
    unit: str = Field(description='of its values: "%", or "" for none')


class Best(Result):
    """The best setting of the search; a trial that diverged in the end does not count."""

    params: dict[str, Any] = Field(description="each parameter's value")
    value: float = Field(description="of the metric")
    metrics: dict[str, float] = Field(description="all that was measured then, by its name")
    validation_error: float | None = Field(description="percent; null where that is not the metric")
    iterations: int = Field(description="iterations trained when that was measured, in the search's unit")
    validation_share: float = Field(description="by how much of the validation set that was measured; 1 for all of it")


class BestEvaluation(Result):
    """Where a final training was at its best: on its way, or at its end."""

    iterations: int = Field(description="iterations trained by then")
    value: float = Field(description="of the metric")
    metrics: dict[str, float] = Field(description="all that was measured of these weights, by its name")
    weights: str | None = Field(description="their file in the search's directory; null where none are kept")


class Final(Result):
    """One of the best settings: trained exactly from scratch, or as its trial was (`final_training`)."""

    trial: int = Field(description="the number of the trial whose setting it is")
    params: dict[str, Any] = Field(description="each parameter's value")
    iterations: int = Field(description="iterations trained; fewer than asked for where it diverged")
    value: float | None = Field(description="of the metric; null where the training diverged")
    metrics: dict[str, float] = Field(description="all that was measured at its end; empty where it diverged")
    validation_error: float | None = Field(description="percent; null where it diverged, or was not measured")
    test_error: float | None = Field(description="percent; null where it diverged, or was not measured")
    weights: str | None = Field(description="their file in the search's directory; null where the training diverged")
    trial_value: float = Field(
        description="the metric's value that the trial had; with another seed, unless its own training is continued"
    )
    best: BestEvaluation | None = Field(description="its best evaluation; null where nothing was measured")


class Leader(Best):
    """One of the best five trials."""

    trial: int = Field(description="the trial's number, from 0; in the Optuna study too")


PROBLEM = Field(description="the problem's name")
SEED = Field(description="of every random choice")
MODE = Field(description='"sync" for Hyperband, "async" for ASHA')
VARIANT = Field(description='"algorithm1" or "table1": how the numbers of trials are rounded')
ETA = Field(description="one trial of so many is promoted")
MAX_ITERATIONS = Field(description="R, iterations of a trial that is never dropped")
MIN_ITERATIONS = Field(description="r, the least iterations before a trial may be dropped")
RATES = Field(
    description="of a trial under STAN, from its first iteration on (1: every entry, natively); empty without STAN"
)
BRACKETS = Field(description="the plan, in the order in which it is run")
PLAN: Any = Field(
    default="hyperband", description='"hyperband", "wide" (one bracket) or "measured" (brackets chosen while searching)'
)


class TrialFailure(Result):
    """A trial that failed for good; it did not diverge."""

    trial: int = Field(description="the trial's number, from 0; in the Optuna study too")
    params: dict[str, Any] = Field(description="each parameter's value")
    iterations: int = Field(description="the iterations that it was on the way to")
    cause: str = Field(description="what happened the last time")


class SearchSummary(Result):
    """`stantune search --json`, and result.json in the search's directory."""

    schema_version: Literal["stantune.search/1"] = Field(default="stantune.search/1", description="kind and version")
    problem: str = PROBLEM
    metric: MetricResult = Field(description="what trials are compared by")
    unit: str = Field(description='what iterations are: "iteration", "epoch", or whatever the objective counts')
    seed: int = SEED
    sampler: str = Field(
        description='"random", "tpe", "bohb", "optuna:CLASS" or another name: what proposed the settings'
    )
    started_from: str | None = Field(description="the earlier search that it learned from; null where from none")
    accelerate: Literal["stan", "none"] = Field(description="how the trials were trained")
    precision: str | None = Field(description="in what numbers trainings computed; null as PyTorch was set")
    compile: bool = Field(description="whether torch.compile compiled the network")
    resize: str | None = Field(description="how small images were in the first part of a trial; null for whole ones")
    plan: PlanName = PLAN
    mode: Literal["sync", "async"] = MODE
    variant: str = VARIANT
    eta: int = ETA
    max_iterations: int = MAX_ITERATIONS
    min_iterations: int = MIN_ITERATIONS
    rates: list[RateResult] = RATES
    complete: bool = Field(
        description="false where a budget or Ctrl-C ended the search early, or a final training failed"
    )
    brackets: list[BracketResult] = BRACKETS
    counts: Counts = Field(description="trials by what became of them")
    iterations_trained: int = Field(description="of all trials; final trainings are not among them")
    iterations_spared: IterationsSpared = Field(description="asked for, and not trained")
    seconds: Seconds = Field(
        description="where the time of all workers went, over all runs of the command on this directory: for the "
        "trials, and for the final trainings in `finalists`"
    )
    saved: Saved = Field(description="training not done; three comparisons, not parts of a sum")
    best: Best | None = Field(description="the first of the leaders; null while there is none, or where all diverged")
    leaders: list[Leader] = Field(
        description="five: the best trained to max_iterations, then the best others by their last values; behind them "
        "settings of which another trial diverged, and trials that an equal one surpassed"
    )
    failures: list[TrialFailure] = Field(description="the trials that failed for good")
    final_training: Literal["scratch", "continue", "none"] = Field(
        description="whether final trainings begin anew, are the best trials' own, or are left out"
    )
    finalists: list[Final] = Field(description="the final trainings that are over, in the order of their trials' ranks")
    final: Final | None = Field(
        description="the one with the best value; null where the search is not complete or found nothing"
    )
    final_failure: str | None = Field(
        description="why a final training has no result, which the same command tries again; null where none failed"
    )
    notes: list[str] = Field(description="what is to be known of this result, and what to do, a sentence each")
