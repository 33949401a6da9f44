"""The numbers of the report page as JSON, which the page has in it: summaries, the trials in columns, what is drawn."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stantune.compare.study.contract import StudySummary
from stantune.search.results.contract import Result, SearchSummary


class ParameterColumn(Result):
    """One parameter in all trials."""

    name: str = Field(description="the parameter's name")
    kind: Literal["float", "integer", "categorical"] = Field(description="what its values are")
    log: bool = Field(description="whether it is searched evenly in its logarithm")
    choices: list[str] = Field(description="of a categorical one its choices, as texts, in the order of the space")
    untried: list[str] = Field(description="the choices that no trial had")
    values: list[float | None] = Field(
        description="six digits, of whole numbers all; of a categorical one the place among the choices; null where "
        "the setting is without it"
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
    """What iterations took, as the trials measured it; where the unit is another one, it is meant by iterations."""

    exact: int = Field(description="exact iterations, of trials and final trainings")
    exact_seconds: float | None = Field(description="of one, in what came to its end")
    reduced: int = Field(description="reduced iterations")
    reduced_seconds: float | None = Field(description="of one, in what came to its end")
    layers: dict[str, str] = Field(description="what the plan says of each layer; empty where there is none")
    settings: dict[str, Any] = Field(description="STAN's, as the table notes them")


class Foretold(Result):
    """What the first trial's pace foretold of the whole search, and what that took; all workers together."""

    trial: int = Field(description="the first trial with a result")
    iterations: int = Field(description="where it was measured")
    seconds: float = Field(description="of all trainings and evaluations at its pace, if no trial diverged")
    taken: float = Field(description="of all trainings and evaluations as they were")


class FailureCause(Result):
    """Trials that failed for good of the same cause."""

    cause: str = Field(description="what happened the last time")
    trials: list[int] = Field(description="to which, in ascending order")
    iterations: list[int] = Field(description="on the way to which, in the order of trials")


class ProfiledLayer(Result):
    """One convolution, as `stantune profile` timed it."""

    name: str = Field(description="its name in the network")
    exact: float | None = Field(description="seconds of its exact forward and backward pass; null where not timed")
    saved: float | None = Field(description="seconds that a reduced iteration saves there; null where it saves none")
    patterns: list[str] = Field(description="what reduced iterations use there; empty for every entry")
    left_alone: str | None = Field(description="why it computes every entry always; null where it does not")


class Profiled(Result):
    """What was predicted of an iteration: a profile of the same problem, set beside what the trials measured."""

    seconds_pytorch: float = Field(description="of an exact iteration in plain PyTorch")
    seconds_exact: float = Field(description="of an exact iteration under STAN, by native kernels where there are any")
    seconds_reduced: float = Field(description="of a reduced one: the exact one less what its layers save")
    predicted_speedup: float | None = Field(description="of a whole run; null where nothing predicts it")
    layers: list[ProfiledLayer] = Field(description="every convolution")


class LayerMaps(Result):
    """What one layer computes in a reduced iteration, of a few images; maps are bytes in base64, row by row."""

    name: str = Field(description="its name in the network; from its second use on with the use's number")
    pattern: str = Field(description='"rows", "columns" or "blocks"; "all" where it computes every entry')
    rows: int = Field(description="of the maps")
    columns: int = Field(description="of the maps")
    height: int = Field(description="of the whole output; of a larger one than is drawn the middle is")
    width: int = Field(description="of the whole output")
    kept: float = Field(description="share of the entries that are computed, 0 to 1")
    error: float = Field(description="norm of exact less filled output over that of the exact one")
    image_errors: list[float] = Field(description="the same of each image alone")
    brightest: float = Field(description="the norm that 255 stands for in exact and filled")
    worst: float = Field(description="the error that 255 stands for in errors")
    computed: list[str] = Field(description="of each image 1 where an entry is computed, 0 where it is filled")
    exact: list[str] = Field(description="norms over the channels of the exact output")
    filled: list[str] = Field(description="norms over the channels of the filled output")
    errors: list[str] = Field(description="norms of the difference, over the root mean square of the image's norms")


class Images(Result):
    """The images that layers are shown of."""

    rows: int = Field(description="of each")
    columns: int = Field(description="of each")
    channels: int = Field(description="1 or 3")
    pixels: list[str] = Field(description="bytes in base64, row by row, the channels of a pixel beside one another")


class Entries(Result):
    """What the network with the winner's weights computes in a reduced iteration."""

    iteration: int = Field(description="the reduced iteration whose entries these are, counted from 0")
    trained: int = Field(description="iterations that the weights were trained")
    images: Images | None = Field(description="the training images; null where samples are no images")
    layers: list[LayerMaps] = Field(description="accelerated layers in the order of the forward pass")
    more: int = Field(description="accelerated layers beyond those that are drawn")


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
    profiled: Profiled | None = Field(description="what was predicted; null where no profile was given")
    entries: Entries | None = Field(description="what each layer computes; null where that cannot be shown")
    without_entries: str | None = Field(description="why not; null where there is nothing to say of it")
    foretold: Foretold | None = Field(description="the estimate; null where the search is not complete")
    causes: list[FailureCause] = Field(description="why trials failed, what happened most often first")
    machine: dict[str, str] = Field(description="where it ran last, and with which versions; empty where not noted")
    identity: dict[str, Any] = Field(description="all that the result depends on; code is a digest")
    space: dict[str, Any] = Field(description="the parameters, as the table describes them")
    digest: str = Field(description="of the identity and the space")
    call: str = Field(description="the call that repeats the search, with the objective as it was")


class ReportNumbers(Result):
    """All that a page says."""

    schema_version: Literal["stantune.report/1"] = Field(default="stantune.report/1", description="kind and version")
    versions: dict[str, str] = Field(description="of what made the page")
    searches: list[SearchNumbers] = Field(description="in the order in which they were given")
    study: StudySummary | None = Field(default=None, description="the study whose searches these are; null where none")
