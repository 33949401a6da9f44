"""What a search has come to, for those who called it from Python: the winner, the trials, a table of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stantune.arguments import path as checked_path
from stantune.protocols import Metric, Objective, compared_value
from stantune.search.plan.finals import best_of, last_of
from stantune.search.plan.standings import incumbent, status
from stantune.search.plan.values import FinalResult
from stantune.search.results.columns import metric_columns
from stantune.search.results.contract import SearchSummary
from stantune.search.results.summary import summarise
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class BestEvaluation:
    """The best evaluation of a final training, on its way or at its end.

    Attributes:
        resource: where it was, in the search's unit.
        value: of the metric.
        metrics: all that was measured of these weights, by name.
        weights: their file; None where the training keeps none.
    """

    resource: int
    value: float
    metrics: Mapping[str, float]
    weights: Path | None


@dataclass(frozen=True)
class TrialResult:
    """What a trial, or a final training, came to.

    Attributes:
        number: the trial's, from 0; the same in the Optuna study.
        params: its setting.
        status: "running" (in its first rung), "promoted" (in a later one), "dropped", "diverged", "failed", "finished".
        resource: how far it was trained, in the search's unit.
        value: of the metric, there; None where it diverged, failed, or has no result yet.
        metrics: all that was measured there, by name.
        curve: the value at each rung that it reached; of a final training, wherever it was evaluated.
        bracket: of the plan, by its s; None for a final training.
        cause: why it failed for good, None where it did not.
        weights: of a final training, their file.
        best_evaluation: of a final training; None where nothing was measured.
    """

    number: int
    params: Mapping[str, Any]
    status: str
    resource: int
    value: float | None
    metrics: Mapping[str, float]
    curve: Mapping[int, float]
    bracket: int | None = None
    cause: str | None = None
    weights: Path | None = None
    best_evaluation: BestEvaluation | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search has come to; `print` it for the most important.

    Attributes:
        objective: what was searched.
        settings: what the result depends on, besides the objective.
        state: the trial table and the final trainings.
        path: the search's directory.
        interrupted: somebody asked for its end, or its budget was spent; the same call goes on from here.
        unwritten: why `result.json` is not in the directory, None where it is.
    """

    objective: Objective
    settings: SearchSettings
    state: SearchState
    path: Path
    interrupted: bool = False
    unwritten: str | None = None

    @property
    def complete(self) -> bool:
        """Whether all that the plan asks for is done."""
        return self.state.complete

    @property
    def found_nothing(self) -> bool:
        """Whether the search is over and every trial diverged or failed: there is no best one, and nothing trained."""
        return self.complete and self.best is None

    @property
    def best(self) -> TrialResult | None:
        """The best of the trials that were trained to `max_resource`, and else of all, by their last values.

        None while no trial has a result that counts, or where all diverged.
        """
        standing = incumbent(self.state.rows, self.state.whole)
        return None if standing is None else self._trials[standing.number]

    @property
    def final(self) -> TrialResult | None:
        """The winner's final training; None where the search is not complete, has none, or found nothing."""
        return None if self.state.winner is None else self._final(self.state.winner)

    @property
    def finalists(self) -> list[TrialResult]:
        """The final trainings that are over, in the order of their trials' ranks."""
        return [self._final(rank) for rank in sorted(self.state.finals)]

    @cached_property
    def summary(self) -> SearchSummary:
        """Everything in numbers, as `result.json` in the directory has it."""
        return summarise(self.objective, self.settings, self.state)

    def trials(self) -> list[TrialResult]:
        """Return every trial, in the order of their numbers."""
        return list(self._trials)

    def table(self) -> pandas.DataFrame:
        """Return the trials as a table, a row each: number, status, resource, metrics, and a column for each parameter.

        Raises ImportError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("a table is a pandas DataFrame; pip install pandas, or take trials()") from error
        metric, rows = self.objective.metric.name, []
        parameters = {name for trial in self._trials for name in trial.params}
        columns = metric_columns(
            [metric, *(name for trial in self._trials for name in trial.metrics)],
            ["trial", "status", "resource", *(f"params_{name}" for name in parameters)],
        )
        for trial in self._trials:
            row: dict[str, Any] = {"trial": trial.number, "status": trial.status, "resource": trial.resource}
            measures = {metric: trial.value} | {name: value for name, value in trial.metrics.items() if name != metric}
            row |= {columns[name]: value for name, value in measures.items()}
            rows.append(row | {f"params_{name}": value for name, value in trial.params.items()})
        return pandas.DataFrame(rows)

    def report(self, path: Path | str | None = None) -> Path:
        """Write a page for a browser, with pictures, tables and how to repeat it, and return the file.

        Args:
            path: the file; report.html in the search's directory by default.

        Raises:
            UsageError: something else is in the file.
            StantuneError: Plotly is not installed, or the file cannot be written.
        """
        from stantune.report.page.writing import report_of

        return report_of(self, None if path is None else checked_path("path", path))

    def __str__(self) -> str:
        """Say in a few lines what was searched and found."""
        metric, best, final = self.objective.metric, self.best, self.final
        counts = self.summary.counts
        lines = [
            f"{self.objective.name}: {counts.trials} trials, {counts.dropped} dropped, {counts.diverged} diverged, "
            f"{counts.failed} failed" + ("" if self.complete else "; not complete, the same call goes on from here")
        ]
        if best is None:
            lines.append("no trial has a result")
        else:
            lines.append(
                f"best: trial {best.number}, {metric.name} {metric.text(best.value)} after {best.resource} "
                f"{self.objective.unit}s, with {_setting(best.params)}"
            )
        if final is not None:
            metrics = ", ".join(f"{name} {value:.6g}" for name, value in final.metrics.items()) or "it diverged"
            lines.append(f"final training of trial {final.number}, {final.resource} {self.objective.unit}s: {metrics}")
        if self.state.final_failure is not None:
            lines.append(f"the final training failed: {self.state.final_failure}")
        if self.unwritten is not None:
            lines.append(self.unwritten)
        lines += [f"note: {note}" for note in self.summary.notes]
        return "\n".join(lines)

    @cached_property
    def _trials(self) -> list[TrialResult]:
        stands, metric, found = status(self.state.plan, self.state.rows).trials, self.objective.metric, []
        for row in self.state.rows:
            last = max(row.errors, default=None)
            counts = last is not None and row.diverged_at is None and row.failed is None
            found.append(
                TrialResult(
                    number=row.number,
                    params=dict(row.params),
                    status=stands[row.number],
                    resource=row.reached,
                    value=metric.loss(row.errors[last]) if counts and last is not None else None,
                    metrics=dict(row.metrics.get(last, {})) if counts and last is not None else {},
                    curve={stop: metric.loss(error) for stop, error in sorted(row.errors.items())},
                    bracket=row.bracket,
                    cause=row.failed,
                )
            )
        return found

    def _final(self, rank: int) -> TrialResult:
        final, metric = self.state.finals[rank], self.objective.metric
        value, weights = compared_value(metric, final.metrics), last_of(rank, final).weights
        curve = {point: compared_value(metric, metrics) for point, metrics in final.curve.items()}
        curve |= {} if value is None else {final.iterations: value}
        return TrialResult(
            number=self.state.contenders[rank].number,
            params=dict(final.params),
            status="finished" if final.diverged_at is None else "diverged",
            resource=final.iterations,
            value=value,
            metrics=dict(final.metrics),
            curve={point: value for point, value in curve.items() if value is not None},
            weights=None if weights is None else self.path / weights,
            best_evaluation=self._best_evaluation(rank, final, metric),
        )

    def _best_evaluation(self, rank: int, final: FinalResult, metric: Metric) -> BestEvaluation | None:
        best = best_of(rank, final, metric)
        value = None if best is None else compared_value(metric, best.metrics)
        if best is None or value is None:
            return None
        weights = None if best.weights is None else self.path / best.weights
        return BestEvaluation(best.iterations, value, dict(best.metrics), weights)


def _setting(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )
