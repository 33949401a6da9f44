"""The numbers of the report page as JSON, which the page has in it: summaries, the trials in columns, what is drawn."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stantune.search.contract import Result, SearchSummary


class ParameterColumn(Result):
    """One parameter in all trials."""

    name: str = Field(description="the parameter's name")
    kind: Literal["float", "integer", "categorical"] = Field(description="what its values are")
    log: bool = Field(description="whether it is searched evenly in its logarithm")
    choices: list[str] = Field(description="of a categorical one its choices, as texts, in the order of the space")
    untried: list[str] = Field(description="the choices that no trial had")
    values: list[float | None] = Field(
        description="six digits; of a categorical one the place among the choices; null where the setting is without it"
    )


class Trials(Result):
    """The trial table in columns; a trial's number is its place."""

    status: list[str] = Field(description="running, promoted, dropped, diverged, failed or finished")
    bracket: list[int] = Field(description="the bracket's s")
    reached: list[int] = Field(description="how far it was trained")
    value: list[float | None] = Field(description="of the metric there; null where it diverged or failed, or has none")
    seconds: list[float] = Field(description="what it cost")
    params: list[ParameterColumn] = Field(description="the settings")


class Curves(Result):
    """Learning curves of all trials with one status, one behind the other, with a null between them."""

    status: str = Field(description="the trials'")
    at: list[int | None] = Field(description="the rungs")
    value: list[float | None] = Field(description="of the metric there")
    trial: list[int | None] = Field(description="whose point it is")


class LossCurves(Result):
    """The training losses of trials with one status, one behind the other, with a null between them."""

    status: str = Field(description="the trials'")
    at: list[int | None] = Field(description="how many losses there were")
    mean: list[float | None] = Field(description="the mean of those since the point before")
    trial: list[int | None] = Field(description="whose point it is")


class RungFlow(Result):
    """What became of the trials of one rung."""

    bracket: int = Field(description="the bracket's s")
    iterations: int = Field(description="where the rung ends")
    promoted: int = Field(description="trials that went on to the next rung")
    finished: int = Field(description="trials whose last rung it was")
    dropped: int = Field(description="trials that had a result, and went no further")
    diverged: int = Field(description="trials that diverged on the way here")
    failed: int = Field(description="trials that failed for good on the way here")
    open: int = Field(description="trials that are on the way here, or wait for the others")


class BestSoFar(Result):
    """Each improvement of the best value, in the order of the plan."""

    iterations: list[int] = Field(description="iterations trained by then, of all trials together")
    seconds: list[float] = Field(description="seconds that trainings, evaluations and the rest had taken by then")
    value: list[float] = Field(description="the best value by then")
    trial: list[int] = Field(description="whose it is")


class Importance(Result):
    """How much of the variance of the metric each parameter explains: fANOVA."""

    names: list[str] = Field(description="the parameters, most important first")
    shares: list[float] = Field(description="of each, in all 1")
    iterations: int = Field(description="the rung whose values were looked at")
    trials: int = Field(description="how many trials were looked at")


class Reduced(Result):
    """What iterations took, as the trials measured it."""

    exact: int = Field(description="exact iterations, of trials and final trainings")
    exact_seconds: float | None = Field(description="of one of them")
    reduced: int = Field(description="reduced iterations")
    reduced_seconds: float | None = Field(description="of one of them")
    layers: dict[str, str] = Field(description="what the plan says of each layer; empty where there is none")
    settings: dict[str, Any] = Field(description="STAN's, as the table notes them")


class SearchNumbers(Result):
    """One search."""

    name: str = Field(description="what the page calls it")
    directory: str = Field(description="where it is")
    state: Literal["running", "interrupted", "done"] = Field(description="where it stood when the page was made")
    summary: SearchSummary = Field(description="as result.json has it")
    trials: Trials = Field(description="the table")
    sample: list[int] = Field(description="the trials that pictures of settings show: all, or the best and some others")
    curves: list[Curves] = Field(description="one for each status")
    losses: list[LossCurves] = Field(
        description="one for each status; of the best trials, some of the others and some that were lost"
    )
    losses_shown: int = Field(description="how many trials those are")
    flow: list[RungFlow] = Field(description="every rung that has begun")
    best: BestSoFar = Field(description="each improvement")
    importance: Importance | None = Field(description="null where it cannot be said")
    without_importance: str | None = Field(description="why not")
    stan: Reduced | None = Field(description="null where trials train exactly")
    identity: dict[str, Any] = Field(description="all that the result depends on; code is a digest")
    space: dict[str, Any] = Field(description="the parameters, as the table describes them")
    digest: str = Field(description="of the identity and the space")
    call: str = Field(description="the call that repeats the search, with the objective as it was")


class ReportNumbers(Result):
    """All that a page says."""

    schema_version: Literal["stantune.report/1"] = Field(default="stantune.report/1", description="kind and version")
    versions: dict[str, str] = Field(description="of what made the page")
    searches: list[SearchNumbers] = Field(description="in the order in which they were given")
