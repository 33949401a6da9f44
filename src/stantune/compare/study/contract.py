"""A study's result as JSON: a versioned contract, documented in docs/json.md."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stantune.search.results.contract import MetricResult, Result, Seconds

# The ways that others are compared with.
STOCK, NATIVE = "none", "native"


class StudiedProblem(Result):
    """One of the problems, and the settings of its searches."""

    name: str = Field(description="the problem's name")
    source: str | None = Field(
        description="as it was called: a built-in name or FILE.py:NAME; null for an object, and for Caffe's files"
    )
    metric: MetricResult = Field(description="what trials are compared by")
    test: str | None = Field(description="the metric of the test set; null where none is known")
    unit: str = Field(description='what iterations are: "iteration", "epoch", or whatever the objective counts')
    max_iterations: int = Field(description="R, iterations of a trial that is never dropped")
    min_iterations: int = Field(description="r, the least iterations before a trial may be dropped")
    final_iterations: int = Field(description="iterations of a final training")
    eta: int | None = Field(default=None, description="one of so many trials is promoted; null where it was not noted")
    brackets: int | None = Field(
        default=None,
        description="how many are run, from the widest on; null for all of them, or where it was not noted",
    )
    validation: str | None = Field(default=None, description='"all" or "by-rung"; null where it was not noted')
    finalists: int | None = Field(
        default=None, description="so many settings have final trainings; null where it was not noted"
    )
    final: str | None = Field(default=None, description="where they begin; null where it was not noted")
    fixed: dict[str, Any] | None = Field(
        default=None, description="parameters that have one value in all settings; null where it was not noted"
    )
    workers: int | None = Field(default=None, description="trainings side by side; null where it was not noted")
    threads: int | Literal["auto"] | None = Field(
        default=None, description="of each training, as asked for; null where none were, or where it was not noted"
    )
    device: str | None = Field(default=None, description='"cpu" or "cuda"; null where it was not noted')
    precision: str | None = Field(
        default=None,
        description="in what numbers a Problem is trained; null for what PyTorch is set to, or where it was not noted",
    )
    predicted: dict[str, float | None] = Field(
        description="of each way, how many times faster than with stock PyTorch training was predicted to be; null "
        "where nothing predicts it, and empty before anything was timed"
    )


class StudiedSearch(Result):
    """One search: a problem in a way with a seed."""

    problem: str = Field(description="the problem's name")
    way: str = Field(description="how it trains")
    seed: int = Field(description="of every random choice")
    directory: str = Field(description="its folder below the study's")
    state: Literal["waiting", "running", "interrupted", "done", "failed"] = Field(
        description='where it stands; "waiting" has not begun, "failed" cannot go on'
    )
    failure: str | None = Field(description="why it failed; null where it did not")
    seconds: Seconds | None = Field(description="where the time of trials and final trainings went; null before any")
    final_seconds: float = Field(description="of the final trainings, part of seconds")
    iteration_seconds: float | None = Field(description="of a trial, mean over all of them; null where there are none")
    trials: int = Field(description="trials begun")
    diverged: int = Field(description="trials that the divergence guard ended")
    failed: int = Field(description="trials that failed for good")
    iterations: int = Field(description="trained in trials")
    evaluations: int = Field(description="of trials")
    best: float | None = Field(description="the best trial's value of the metric; null while there is none")
    final: float | None = Field(description="the winner's, after its final training; null where there is none")
    test: float | None = Field(description="its value on the test set; null where there is none")


class Interval(Result):
    """A value of several seeds."""

    mean: float | None = Field(
        description="mean over the seeds, of ratios the geometric one; null where there are none"
    )
    spread: float | None = Field(
        description="sample standard deviation, of ratios that of their logarithms; null for fewer than two"
    )
    low: float | None = Field(
        description="where the mean's 95 % interval (Student's t) begins; null for fewer than two"
    )
    high: float | None = Field(description="where it ends; null for fewer than two")
    seeds: int = Field(description="how many seeds it is of")


_PAIRED = "over pairs of searches with one seed that are both done"


class WayResult(Result):
    """What a problem's searches in one way came to, those that are done."""

    problem: str = Field(description="the problem's name")
    way: str = Field(description="how they train")
    seeds: int = Field(description="how many of its searches are done")
    seconds: Interval = Field(description="of a whole search")
    faster_than_stock: Interval = Field(description=f"how many times faster than way none a search was, {_PAIRED}")
    faster_than_native: Interval = Field(description="the same against way native")
    training_faster: Interval = Field(
        description=f"how many times faster than in way none trials trained, by their mean iteration, {_PAIRED}"
    )
    predicted: float | None = Field(
        description="what the speed-up equation said of that beforehand; null where nothing predicts it"
    )
    iterations: Interval = Field(description="trained in trials")
    evaluations: Interval = Field(description="of trials")
    diverged: Interval = Field(description="trials that diverged")
    best: Interval = Field(description="the best trial's value")
    final: Interval = Field(description="the winner's value after its final training")
    test: Interval = Field(description="its value on the test set")
    test_against_stock: Interval = Field(description=f"by how much that is above way none's, {_PAIRED}")
    test_against_native: Interval = Field(description=f"by how much it is above way native's, {_PAIRED}")


class StudySummary(Result):
    """`stantune study --json`, and study.json in the study's folder."""

    schema_version: Literal["stantune.study/1"] = Field(default="stantune.study/1", description="kind and version")
    complete: bool = Field(description="whether all searches are done")
    problems: list[StudiedProblem] = Field(description="in the order in which they were first given")
    ways: list[str] = Field(description="how is trained, in the order in which they were first given")
    seeds: list[int] = Field(description="of the searches")
    searches: list[StudiedSearch] = Field(description="in the order in which they are run: by seed, problem, way")
    results: list[WayResult] = Field(description="of each problem and way that has searches")
