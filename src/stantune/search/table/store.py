"""The trial table, kept in an Optuna study so that a search killed at any moment goes on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from stantune.errors import StoreError
from stantune.loss_curve import LossCurve
from stantune.outcome import Cost
from stantune.protocols import Metric
from stantune.search.plan.hyperband import Bracket, place_of
from stantune.search.plan.measured import Choices
from stantune.search.plan.values import Ending, FinalResult, SegmentFailure, TakeOver, TrialRow, WarmStart, setting_key
from stantune.search.propose.sampling import to_distribution, to_optuna
from stantune.search.table.attributes import (
    BRACKET,
    COST,
    DIVERGED_AT,
    END,
    FAILED,
    FAILURES,
    FINAL,
    LOSSES,
    METRICS,
    NUMBER,
    SHARE,
    STARTED_FROM,
    TAKEN,
)
from stantune.search.table.ownership import Extends, adopt, identify, made_or_found, owner_of
from stantune.search.table.rows import STATES, finals_of, is_of, row_of, state_of
from stantune.search.table.storages.messages import foreign_sentence, one_sentence
from stantune.search.table.storages.opening import connect, mend, release
from stantune.search.table.storages.retry import RetryingTables, ask, insist
from stantune.search.table.tables import EndedTrial, tables_for
from stantune.space import Space
from stantune.texts import plain


class Store:
    """The trial table of one search: written through to an Optuna study, read from memory.

    One process at a time may write to a study. Of each step what commits it is written last (or all of it
    at once), so that a process killed between any two writes leaves a table to go on from: a segment that
    was cut is not in it, one that was recorded is. What a kill leaves undone is the closing of trials; the
    search's loop makes up for it, because it calls `close` with all `endings` each time.

    In Optuna's terms: the intermediate value of a step is that of the metric after so many iterations, as it was
    measured, and the study's direction the metric's; a finished trial is COMPLETE, a dropped or diverged one PRUNED,
    each with its last value; one that failed for good is FAIL; the attributes tell bracket, cause of end, the iteration
    of a divergence, costs and other metrics. In the rows it is what the metric calls a loss: the lower the better.

    Attributes:
        study_name: the study's.
        where: the storage, as messages may show it.
        space: of the settings, with its parameters in the order in which the search began to draw them, wherever they
            stand now.
        extended: the study is that of a search with fewer brackets, say, whose table this one may go on with; it is
            this one's after `adopt`.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study_name: str,
        identity: Mapping[str, Any],
        space: Space,
        where: str,
        metric: Metric,
        start: WarmStart | None = None,
        extends: Extends = lambda there: False,
        begun: bool = False,
        plan: Sequence[Bracket] | None = None,
        owner: str | None = None,
    ) -> None:
        """Create or load the study in `storage`; `where` names the place in messages. See `open`."""
        self._metric = metric
        self.study_name = study_name
        self.where = where
        self._storage = storage
        self._distributions = {name: to_distribution(parameter) for name, parameter in space.items()}
        self._rows: list[TrialRow] = []
        self._choices = None if plan is None else Choices(plan)
        # Of each setting, the first trial of each bracket that has it.
        self._firsts: dict[str, dict[int, int]] = {}
        self._trial_ids: list[int] = []
        self._ended: set[int] = set()
        with one_sentence(where, study_name, reads=True):
            self._study_id = made_or_found(storage, study_name, where, metric, begun)
            tables = ask(storage, lambda: tables_for(storage, self._study_id))
            self._tables = RetryingTables(tables, storage, self._study_id)
            found = ask(storage, lambda: storage.get_all_trials(self._study_id, deepcopy=False))
            trials = sorted(found, key=lambda trial: trial.number)
            new = not trials and not begun
            given = {**identity, "space": space.as_json()}
            self._differences, order = identify(
                storage, self._study_id, study_name, where, metric, given, start, extends, new, owner
            )
            self.space = space.in_order(order)
            self._identity = {**identity, "space": self.space.as_json()}
            self.extended = bool(self._differences)
        for trial in trials:
            self._load(trial, space)

    @classmethod
    def open(
        cls,
        url: str,
        study_name: str,
        identity: Mapping[str, Any],
        space: Space,
        metric: Metric,
        start: WarmStart | None = None,
        extends: Extends = lambda there: False,
        begun: bool = False,
        plan: Sequence[Bracket] | None = None,
        owner: str | None = None,
    ) -> Store:
        """Create the study at an SQLAlchemy URL, or load it and go on.

        `identity` (plain values, also nested) is all that makes this search what it is; the space is added
        to it. `metric` is what trials are compared by, and `start` is kept in a new study, for `start_of`.
        `extends` tells of another identity whether its table is the beginning of this search's, which then may take
        it over. `begun` says that the search was begun before: where its study is gone, no other one is made.
        `plan` are its brackets, for what trials may hold, and `owner` is kept in a new study, for `owner`. Raises
        UsageError where the study was begun with another identity, naming each difference, and StoreError
        where the storage cannot be used or holds what no search of ours wrote.
        """
        mend(url)
        storage, where = connect(url)
        try:
            return cls(storage, study_name, identity, space, where, metric, start, extends, begun, plan, owner)
        except BaseException:
            release(storage)
            raise

    def __enter__(self) -> Store:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the storage."""
        self.release()

    def release(self) -> None:
        """Give up the connections; nothing may be written after this."""
        release(self._storage)

    def adopt(self) -> None:
        """Make the study that was another search's, which this one extends, this one's. Raises StoreError."""
        with one_sentence(self.where, self.study_name):
            adopt(self._storage, self._study_id, self._identity, self._differences)

    def owner(self) -> str | None:
        """Return the mark of where the study was begun; None where it has none. Raises StoreError."""
        with one_sentence(self.where, self.study_name, reads=True):
            return insist(self._storage, lambda again: owner_of(self._storage, self._study_id))

    def rows(self) -> list[TrialRow]:
        """Return the trial table in the order of the numbers, as of the last write."""
        return list(self._rows)

    def row(self, number: int) -> TrialRow:
        """Return one row of the table, which is there."""
        return self._rows[number]

    def create(self, number: int, params: Mapping[str, Any], bracket: int, started_from: int | None = None) -> None:
        """Add trial `number`, which must be the next one; `started_from` is as in TrialRow. Raises StoreError."""
        assert number == len(self._rows), f"trial {number} created where {len(self._rows)} is next"
        attributes: dict[str, Any] = {NUMBER: number, BRACKET: bracket}
        if started_from is not None:
            attributes[STARTED_FROM] = started_from
        with one_sentence(self.where, self.study_name):
            trial_id = self._tables.create(
                number, to_optuna(params), {name: self._distributions[name] for name in params}, attributes
            )
        self._trial_ids.append(trial_id)
        self._append(TrialRow(number, bracket, dict(params), started_from=started_from))

    def record(
        self,
        number: int,
        iterations: int,
        metrics: Mapping[str, float],
        cost: Cost | None = None,
        share: float = 1.0,
        losses: LossCurve | None = None,
    ) -> None:
        """Record what a trial has reached after `iterations`, the end of a rung.

        `metrics` holds the value that is compared, and what else was measured. `cost` is what the segment cost; it
        comes back as `TrialRow.costs[iterations]`. `share` is how much of the validation set it was measured by.
        `losses` are those of the training so far. Recording the same again replaces it. Raises StoreError.
        """
        # What else was measured has names of the user's own.
        metrics = plain(metrics)
        value = float(metrics[self._metric.name])
        assert math.isfinite(value), f"trial {number} has the value {value}: record a divergence"
        row, noted = self._rows[number], cost or Cost()
        attributes: dict[str, Any] = {f"{COST}{iterations}": asdict(noted)}
        attributes |= _noted_losses(iterations, losses)
        if len(metrics) > 1:
            attributes[f"{METRICS}{iterations}"] = dict(metrics)
        if share < 1:
            attributes[f"{SHARE}{iterations}"] = share
        with one_sentence(self.where, self.study_name):
            self._tables.record(self._trial_ids[number], attributes, iterations, value)
        self._rows[number] = replace(
            row,
            errors={**row.errors, iterations: self._metric.loss(value)},
            metrics={**row.metrics, iterations: dict(metrics)},
            costs={**row.costs, iterations: noted},
            losses=_with(row.losses, iterations, losses),
            shares={**row.shares, iterations: share} if share < 1 else row.shares,
        )

    def record_divergence(
        self, number: int, iterations: int, at: int, cost: Cost | None = None, losses: LossCurve | None = None
    ) -> None:
        """Record that a trial diverged at iteration `at` on its way to `iterations`, the end of a rung.

        `cost` and `losses` are as in `record`. Raises StoreError.
        """
        row, noted = self._rows[number], cost or Cost()
        # In this order: where attributes are written one by one, the divergence is what commits.
        attributes = {f"{COST}{iterations}": asdict(noted), **_noted_losses(iterations, losses), DIVERGED_AT: at}
        with one_sentence(self.where, self.study_name):
            self._tables.record(self._trial_ids[number], attributes, None, math.nan)
        self._rows[number] = replace(
            row,
            diverged_at=at,
            costs={**row.costs, iterations: noted},
            losses=_with(row.losses, iterations, losses),
        )

    def take_over(self, take_over: TakeOver) -> None:
        """Record a result that was taken over, as `record` and `record_divergence` do. Raises StoreError."""
        number, stop = take_over.number, take_over.stop
        attributes: dict[str, Any] = {f"{TAKEN}{stop}": take_over.source}
        row, taken = self._rows[number], {**self._rows[number].taken, stop: take_over.source}
        with one_sentence(self.where, self.study_name):
            if take_over.error is not None:
                metrics = self._rows[take_over.source].metrics.get(stop, {})
                if len(metrics) > 1:
                    attributes[f"{METRICS}{stop}"] = dict(metrics)
                of_source = self._rows[take_over.source].shares
                shares = {stop: of_source[stop]} if stop in of_source else {}
                attributes |= {f"{SHARE}{at}": share for at, share in shares.items()}
                self._tables.record(self._trial_ids[number], attributes, stop, self._metric.loss(take_over.error))
                self._rows[number] = replace(
                    row,
                    taken=taken,
                    errors={**row.errors, stop: take_over.error},
                    metrics={**row.metrics, stop: metrics},
                    shares={**row.shares, **shares},
                )
            else:
                attributes |= {DIVERGED_AT: take_over.diverged_at}
                self._tables.record(self._trial_ids[number], attributes, None, math.nan)
                self._rows[number] = replace(row, taken=taken, diverged_at=take_over.diverged_at)

    def record_failure(self, number: int, failure: SegmentFailure, for_good: bool) -> None:
        """Record that a segment of a trial failed, and if so, the trial for good. Raises StoreError."""
        row, cause = self._rows[number], failure.cause
        failures = (*row.failures, failure)
        attributes: dict[str, Any] = {FAILURES: [list(each[: 2 + each.damaged]) for each in failures]}
        if for_good:
            attributes[FAILED] = cause
        with one_sentence(self.where, self.study_name):
            self._tables.record(self._trial_ids[number], attributes, None, math.nan)
        self._rows[number] = replace(row, failures=failures, failed=cause if for_good else None)

    def close(self, endings: Mapping[int, Ending]) -> None:
        """Close the trials that ended; those closed before are passed over. Raises StoreError.

        When this returns, all that was recorded survives a power cut: what the trials that go on do not need
        (the checkpoints of the dropped) may be deleted.
        """
        ended = []
        for number in sorted(endings.keys() - self._ended):
            row, ending = self._rows[number], endings[number]
            has_value = bool(row.errors) and ending != "failed"
            ended.append(
                EndedTrial(
                    self._trial_ids[number],
                    STATES[ending],
                    self._metric.loss(row.errors[max(row.errors)]) if has_value else None,
                    {END: f"failed: {row.failed}" if ending == "failed" else ending},
                )
            )
        if ended:
            with one_sentence(self.where, self.study_name):
                self._tables.close(ended)
            self._ended.update(endings)

    def set_final(self, rank: int, final: FinalResult) -> None:
        """Keep what a final training came to, in place of an earlier one. Raises StoreError."""
        self._keep_final(rank, plain(final.plain()))

    def drop_final(self, rank: int) -> None:
        """Forget what a final training came to. Raises StoreError."""
        # A study's attributes cannot be deleted.
        self._keep_final(rank, None)

    def finals(self) -> dict[int, FinalResult]:
        """Return what the final trainings came to, by their finalists' ranks. Raises StoreError."""
        with one_sentence(self.where, self.study_name, reads=True):
            found = insist(self._storage, lambda again: self._storage.get_study_user_attrs(self._study_id))
            return finals_of(found, self._metric, self._rows)

    def _keep_final(self, rank: int, told: Any) -> None:
        # The best one's has the name that it had when there was no other.
        name = f"{FINAL}:{rank}" if rank else FINAL
        with one_sentence(self.where, self.study_name):
            insist(self._storage, lambda again: self._storage.set_study_user_attr(self._study_id, name, told))

    def _load(self, trial: FrozenTrial, space: Space) -> None:
        # Outside of what takes all for damage: the rows that it is of are sound.
        plan = None if self._choices is None else self._choices.plan(self._rows)
        with one_sentence(self.where, self.study_name, reads=True):
            attributes, number = trial.user_attrs, len(self._rows)
            ours = attributes.get(NUMBER) == trial.number == number and BRACKET in attributes
            if not ours or not is_of(trial, space, self._distributions):
                raise self._foreign(f"its trial {trial.number} was added by another program")
            if trial.state != TrialState.RUNNING and trial.state != state_of(attributes.get(END)):
                raise self._foreign(f"its trial {trial.number} was ended by another program")
            row = row_of(trial, self._metric, self._rows, space, plan)
        self._append(row)
        self._trial_ids.append(trial._trial_id)
        if trial.state != TrialState.RUNNING:
            self._ended.add(number)

    def _append(self, row: TrialRow) -> None:
        """Add a row, and tell it which earlier trials have the same setting."""
        firsts = self._firsts.setdefault(setting_key(row.params), {})
        self._rows.append(replace(row, equals=tuple(firsts.values())) if firsts else row)
        firsts.setdefault(self._place(row), row.number)

    def _place(self, row: TrialRow) -> int:
        """Return what tells the bracket of a row: its place in the plan, or s where no plan is known."""
        if self._choices is None:
            return row.bracket
        place = place_of(self._choices.plan(self._rows), row.number)
        return row.bracket if place is None else place

    def _foreign(self, what: str) -> StoreError:
        return StoreError(foreign_sentence(self.study_name, self.where, what))


def _noted_losses(iterations: int, losses: LossCurve | None) -> dict[str, Any]:
    """Return what is written of a training's losses; nothing where it told none."""
    return {f"{LOSSES}{iterations}": losses.plain()} if losses is not None and losses.means else {}


def _with(noted: Mapping[int, LossCurve], iterations: int, losses: LossCurve | None) -> Mapping[int, LossCurve]:
    return {**noted, iterations: losses} if losses is not None and losses.means else noted
