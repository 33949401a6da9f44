"""The JSON of `train`, `brackets`, `problems` and `data fetch`: versioned contracts, documented in docs/json.md."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stantune.search.plan.plans import PlanName
from stantune.search.results.contract import (
    BRACKETS,
    ETA,
    MAX_ITERATIONS,
    MIN_ITERATIONS,
    MODE,
    PLAN,
    PROBLEM,
    RATES,
    SEED,
    VARIANT,
    BracketResult,
    RateResult,
    Result,
    Seconds,
)


class TrainResult(Result):
    """`stantune train --json`."""

    schema_version: Literal["stantune.train/1"] = Field(default="stantune.train/1", description="kind and version")
    problem: str = PROBLEM
    seed: int = SEED
    accelerate: Literal["stan", "none"] = Field(description="how it was trained")
    params: dict[str, Any] = Field(description="the values given with --set; the others are the problem's own")
    iterations: int = Field(description="iterations trained")
    validation_error: float | None = Field(description="percent; null under --full-train or where it diverged")
    test_error: float | None = Field(description="percent; null where it diverged")
    metrics: dict[str, Any] = Field(description="all that was measured at the end, by name; empty where it diverged")
    seconds: Seconds = Field(description="where the time went; with --checkpoint, of all runs that led here")
    diverged_at: int | None = Field(description="the iteration, from 0, whose loss told; null where it did not diverge")


class PlanResult(Result):
    """`stantune brackets --json`."""

    schema_version: Literal["stantune.brackets/1"] = Field(
        default="stantune.brackets/1", description="kind and version"
    )
    problem: str = PROBLEM
    unit: str = Field(description='what iterations are: "iteration", "epoch", or whatever the objective counts')
    plan: PlanName = PLAN
    mode: Literal["sync", "async"] = MODE
    variant: str = VARIANT
    eta: int = ETA
    max_iterations: int = MAX_ITERATIONS
    min_iterations: int = MIN_ITERATIONS
    rates: list[RateResult] = RATES
    brackets: list[BracketResult] = BRACKETS
    trials: int = Field(description="trials in all; at most, where brackets are chosen while searching")
    iterations: int = Field(
        description="of all trials, continuing from checkpoints, if none diverges; at most, as for trials"
    )
    iterations_restarting: int = Field(description="the same if every rung began from scratch")
    final_iterations: int = Field(description="of the final trainings, which come on top")
    estimated_seconds: float | None = Field(
        description="from a few timed iterations; null where the data are missing, where none of a few settings could "
        "be trained, and of what is no Problem"
    )


class ParameterResult(Result):
    """One parameter of a space."""

    name: str = Field(description="its name, as in --set")
    kind: Literal["float", "integer", "categorical"] = Field(description="what its values are")
    low: float | None = Field(default=None, description="least value; null where categorical")
    high: float | None = Field(default=None, description="largest value; null where categorical")
    log: bool | None = Field(
        default=None, description="whether it is searched evenly in its logarithm; null where categorical"
    )
    step: float | None = Field(default=None, description="between values; null where none was said")
    choices: list[Any] | None = Field(default=None, description="all values; null unless categorical")
    when: dict[str, list[Any]] | None = Field(
        default=None, description="what other parameters must be for it to exist; null where it always does"
    )


class ProblemResult(Result):
    """One problem."""

    name: str = PROBLEM
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
