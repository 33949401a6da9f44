"""What those who run searches are told of them, as JSON: a versioned contract, documented in docs/json.md."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stantune.loss_curve import LossCurve
from stantune.search.results.contract import PROBLEM, Counts, Leader, MetricResult, Result, Seconds

DIRECTORY = Field(description="the search's directory")
STATE = Field(description='"interrupted" where a budget, somebody, a failure or a kill ended it before it was done')
UNIT = Field(description='what iterations are: "iteration", "epoch", or whatever the objective counts')
METRIC = Field(description="what trials are compared by")
TRIAL = Field(description="the trial's number, from 0; in the Optuna study too")
PARAMS = Field(description="each parameter's value")
FAILED_ITERATIONS = Field(description="the iterations that it was on the way to")
CAUSE = Field(description="what happened")
State = Literal["running", "interrupted", "done"]


class RungStatus(Result):
    """How far a rung is."""

    iterations: int = Field(description="iterations that a trial has when it is evaluated here")
    trials: int = Field(description="trials that reach it, at most: fewer where nearly all diverge")
    done: int = Field(description="trials whose result here is known, those that diverged or failed among them")
    diverged: int = Field(description="trials that diverged, or failed for good, on the way here")
    promoted: int = Field(description="trials that go on from here")


class BracketStatus(Result):
    """How far a bracket is."""

    s: int = Field(description="how many times the bracket drops trials")
    rungs: list[RungStatus] = Field(description="its rungs, in the order in which they are run")


class TrainingNow(Result):
    """A training that is running."""

    trial: int = TRIAL
    iterations: int = Field(description="how far it is; noted every few seconds")
    stop: int = Field(description="the iterations that it is on the way to")
    final: bool = Field(description="whether it is the final training of this trial's setting")


class FailureNow(Result):
    """A training that failed."""

    trial: int = TRIAL
    iterations: int = FAILED_ITERATIONS
    cause: str = CAUSE
    for_good: bool = Field(description="whether its trial was given up then")


class StatusResult(Result):
    """`stantune status --json`."""

    schema_version: Literal["stantune.status/1"] = Field(default="stantune.status/1", description="kind and version")
    directory: str = DIRECTORY
    problem: str = PROBLEM
    state: State = STATE
    metric: MetricResult = METRIC
    unit: str = UNIT
    counts: Counts = Field(description="trials by what became of them so far")
    trials_planned: int = Field(description="trials of the whole plan")
    brackets: list[BracketStatus] = Field(description="how far each is, in the order in which they are run")
    finals: int = Field(description="final trainings that are over")
    finals_planned: int = Field(description="final trainings that there are to be")
    training: list[TrainingNow] = Field(description="what is trained now; empty where the search is not running")
    workers: int | None = Field(description="trainings that it has room for side by side; null where it does not run")
    process: int | None = Field(description="the number of the last process that ran it; null where that is not known")
    host: str | None = Field(description="the machine of this process")
    begun: str | None = Field(description="when this process began with it, as UTC in ISO 8601")
    ended: str | None = Field(description="when it ended; null while it runs, and where it was killed")
    failure: str | None = Field(description="what ended this process's work before its time; null where nothing did")
    seconds: Seconds = Field(
        description="where the time of all workers went, over all runs: for the trials, and for the final trainings "
        "that `finals` counts"
    )
    seconds_run: float | None = Field(description="wall-clock time of the last run, or of this one so far")
    seconds_left: float | None = Field(
        description="at the pace so far, if no trial diverges any more; null before there is one, and where it is done"
    )
    best: Leader | None = Field(description="the best trial so far; null while there is none, or where all diverged")
    failures: list[FailureNow] = Field(
        description="the last trainings that failed, of the trials with the highest numbers"
    )


class FoundSearch(Result):
    """A search below a folder."""

    directory: str = DIRECTORY
    problem: str | None = Field(description="the problem's name; null where it cannot be read")
    state: State | None = Field(description="as in `stantune status`; null where it cannot be read")
    trials: int | None = Field(description="trials begun")
    trials_planned: int | None = Field(description="trials of the whole plan")
    metric: MetricResult | None = METRIC
    best: float | None = Field(description="the best trial's value; null while there is none, or where all diverged")
    changed: str = Field(description="when anything of it was written last, as UTC in ISO 8601")
    error: str | None = Field(description="why it cannot be read; null where it can")


class ListResult(Result):
    """`stantune list --json`."""

    schema_version: Literal["stantune.list/1"] = Field(default="stantune.list/1", description="kind and version")
    folder: str = Field(description="the folder")
    searches: list[FoundSearch] = Field(description="all searches below it, the one that was written last first")


class LossPoint(Result):
    """A point of a training's losses."""

    count: int = Field(description="how many losses there were by then")
    mean: float = Field(description="the mean of those since the point before")


LOSSES = Field(description="the training losses, at most 128 points; empty where the training told none")


def loss_points(losses: LossCurve) -> list[LossPoint]:
    """Return a training's losses as results have them."""
    return [LossPoint(count=count, mean=mean) for count, mean in losses.points]


class RungReached(Result):
    """What a trial came to in a rung."""

    iterations: int = Field(description="iterations trained when that was measured, in the search's unit")
    value: float | None = Field(description="of the metric; null where the trial diverged on the way here")
    validation_share: float = Field(description="by how much of the validation set that was measured; 1 for all of it")
    metrics: dict[str, float] = Field(description="all that was measured then, by its name")
    seconds: Seconds | None = Field(description="of the training that led here; null where the result was taken over")
    taken_over_from: int | None = Field(
        description="the equal, earlier trial whose result it is; null where it is its own"
    )


class FailedOnce(Result):
    """A training of a trial that failed."""

    iterations: int = FAILED_ITERATIONS
    cause: str = CAUSE


class FinalOf(Result):
    """A final training of a trial's setting."""

    rank: int = Field(description="the trial's rank among the finalists, 0 for the best")
    iterations: int = Field(description="iterations trained; fewer than asked for where it diverged")
    value: float | None = Field(description="of the metric; null where the training diverged")
    metrics: dict[str, float] = Field(description="all that was measured at its end; empty where it diverged")
    weights: str | None = Field(description="their file; null where there is none")
    losses: list[LossPoint] = LOSSES


class TrialReport(Result):
    """`stantune show --json`."""

    schema_version: Literal["stantune.show/1"] = Field(default="stantune.show/1", description="kind and version")
    directory: str = DIRECTORY
    problem: str = PROBLEM
    metric: MetricResult = METRIC
    unit: str = UNIT
    trial: int = TRIAL
    status: str = Field(
        description='"running" (first rung), "promoted" (a later one), "dropped", "diverged", "failed" or "finished"'
    )
    bracket: int = Field(description="of the plan, by its s")
    params: dict[str, Any] = PARAMS
    iterations: int = Field(description="how far it is, or came")
    rungs: list[RungReached] = Field(description="what it came to, from the lowest rung up")
    diverged_at: int | None = Field(description="the iteration whose loss told; null where it did not diverge")
    cause: str | None = Field(description="why it failed for good; null where it did not")
    failures: list[FailedOnce] = Field(description="its trainings that failed, in their order")
    started_from: int | None = Field(
        description="the trial of the earlier search whose setting it is; null where it is none of such"
    )
    checkpoint: str | None = Field(description="the file; null where there is none any more, or not here")
    seconds: Seconds = Field(description="of all its trainings")
    finals: list[FinalOf] = Field(description="the final trainings of its setting that are over")
    losses: list[LossPoint] = LOSSES


class LossesOf(Result):
    """The training losses of one trial."""

    trial: int = TRIAL
    losses: list[LossPoint] = LOSSES


class ExportResult(Result):
    """`stantune export --json`."""

    schema_version: Literal["stantune.export/1"] = Field(default="stantune.export/1", description="kind and version")
    problem: str = PROBLEM
    metric: MetricResult = METRIC
    unit: str = UNIT
    rows: list[dict[str, Any]] = Field(
        description="one for each trial and rung, as in the CSV; null where a cell is empty"
    )
    losses: list[LossesOf] = Field(description="of each trial that told any")
