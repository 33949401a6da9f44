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
    trials: int = Field(description="trials that reach it, if none diverges")


class BracketResult(Result):
    """One bracket, as planned."""

    s: int = Field(description="number of times that the bracket drops trials")
    rungs: list[RungResult]


class Counts(Result):
    """Trials by what became of them."""

    trials: int = Field(description="trials begun")
    promoted: int = Field(description="trials promoted at least once")
    dropped: int = Field(description="trials that a closed rung did not promote")
    diverged: int = Field(description="trials that the divergence guard ended")


class Seconds(Result):
    """Where the time went, over all runs of the command on this directory."""

    total: float = Field(description="training + evaluation + coordination")
    training: float = Field(description="training iterations of trials and of the final training")
    evaluation: float = Field(description="validation and test errors")
    coordination: float = Field(description="everything else: sampling, trial table, checkpoints")


class Saved(Result):
    """Seconds not spent, against training every trial exactly, from scratch, to the maximum; an estimate."""

    early_stopping: float = Field(description="dropped and diverged trials' remaining iterations")
    continuing: float = Field(description="iterations that a promoted trial did not train again")
    stan: float = Field(description="reduced iterations' time below that of as many exact ones; negative is a loss")


class Best(Result):
    """The setting with the lowest validation error of the search."""

    params: dict[str, Any]
    validation_error: float = Field(description="percent")
    iterations: int = Field(description="iterations trained when that error was measured")


class Final(Result):
    """The best setting, trained exactly from scratch."""

    params: dict[str, Any]
    iterations: int
    validation_error: float | None = Field(description="percent; null where the training diverged")
    test_error: float | None = Field(description="percent; null where the training diverged")


class Leader(Best):
    """One of the best five trials."""

    trial: int


class SearchResult(Result):
    """`stantune search --json`."""

    schema_version: Literal["stantune.search/1"] = "stantune.search/1"
    problem: str
    seed: int
    accelerate: Literal["stan", "none"]
    variant: str
    eta: int
    max_iterations: int
    min_iterations: int
    complete: bool = Field(description="false where a budget or Ctrl-C ended the search early")
    brackets: list[BracketResult]
    counts: Counts
    iterations_trained: int = Field(description="of all trials; the final training is not among them")
    seconds: Seconds
    saved: Saved
    best: Best | None = Field(description="null while no trial has a result, or where all diverged")
    leaders: list[Leader] = Field(description="the best five trials")
    final: Final | None = Field(description="null where the search is not complete or found nothing")


class TrainResult(Result):
    """`stantune train --json`."""

    schema_version: Literal["stantune.train/1"] = "stantune.train/1"
    problem: str
    seed: int
    accelerate: Literal["stan", "none"]
    params: dict[str, Any] = Field(description="the values given with --set; the others are the problem's own")
    iterations: int = Field(description="iterations trained")
    validation_error: float | None = Field(description="percent; null under --full-train or where it diverged")
    test_error: float | None = Field(description="percent; null where it diverged")
    seconds: Seconds
    diverged_at: int | None


class PlanResult(Result):
    """`stantune brackets --json`."""

    schema_version: Literal["stantune.brackets/1"] = "stantune.brackets/1"
    problem: str
    variant: str
    eta: int
    max_iterations: int
    min_iterations: int
    brackets: list[BracketResult]
    trials: int
    iterations: int = Field(description="of all trials, continuing from checkpoints, if none diverges")
    iterations_restarting: int = Field(description="the same if every rung began from scratch")
    final_iterations: int
    estimated_seconds: float | None = Field(description="from a few timed iterations; null where the data are missing")


class ParameterResult(Result):
    """One parameter of a space."""

    name: str
    kind: Literal["float", "integer", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool | None = None
    choices: list[Any] | None = None


class ProblemResult(Result):
    """One problem."""

    name: str
    data: str
    iterations: int
    batch_size: int
    space: list[ParameterResult]


class ProblemsResult(Result):
    """`stantune problems --json`."""

    schema_version: Literal["stantune.problems/1"] = "stantune.problems/1"
    problems: list[ProblemResult]


class DataResult(Result):
    """`stantune data fetch --json`."""

    schema_version: Literal["stantune.data/1"] = "stantune.data/1"
    name: str
    directory: str
    training_images: int
    test_images: int
