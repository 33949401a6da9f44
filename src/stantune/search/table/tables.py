"""Writes trials into an Optuna study: few statements per step for a relational database, else by Optuna's API."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState, create_trial

# The layout of Optuna's tables that SqlTables knows; it is the same from Optuna 3.2 to 5.0.
_KNOWN_LAYOUT = "v3.2.0.a"


class ForeignChangeError(Exception):
    """The study is not as this program left it: another one wrote to it."""


class EndedTrial(NamedTuple):
    """A trial to close: the state it ends in, the metric's last value (None without one), its attributes."""

    trial_id: int
    state: TrialState
    value: float | None
    attributes: Mapping[str, Any]


class Tables(Protocol):
    """The writes to one study; each returns only when it is stored.

    All raise ForeignChangeError where another program has changed the trials written to, and whatever the
    storage raises.
    """

    def create(
        self,
        number: int,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
    ) -> int:
        """Add a running trial, which must get this number; return its id."""

    def record(self, trial_id: int, attributes: Mapping[str, Any], step: int | None, value: float) -> None:
        """Set attributes of a running trial and then, unless `step` is None, its intermediate value."""

    def close(self, ended: Sequence[EndedTrial]) -> None:
        """End trials, and see to it that all that was written so far survives a power cut."""

    def delete(self) -> None:
        """Delete the study with all its trials."""


def tables_for(storage: BaseStorage, study_id: int) -> Tables:
    """Choose how to write to the study."""
    if isinstance(storage, RDBStorage) and storage.get_current_version() == _KNOWN_LAYOUT:
        return SqlTables(storage, study_id)
    return ApiTables(storage, study_id)


class ApiTables:
    """Writes by the public methods of `optuna.storages.BaseStorage`, one transaction each.

    Slow on a relational database: each method looks everything up anew (22 ms a trial where SqlTables takes
    3 ms). It serves the storages that are none, and table layouts of Optuna versions yet to come.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        """Write to this study."""
        self._storage = storage
        self._study_id = study_id

    def create(
        self,
        number: int,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
    ) -> int:
        """See Tables; a trial that gets another number, since another program was faster, is marked as failed."""
        # Before anything is written: a trial too many stays, and the search could not be opened any more.
        there = self._storage.get_n_trials(self._study_id)
        if there != number:
            raise _misnumbered(there, number)
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(attributes),
        )
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=template)
        got = self._storage.get_trial(trial_id).number
        if got != number:
            self._storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
            raise _misnumbered(got, number)
        return trial_id

    def record(self, trial_id: int, attributes: Mapping[str, Any], step: int | None, value: float) -> None:
        """See Tables; the intermediate value comes last, so that a cut leaves no value without attributes."""
        for key, attribute in attributes.items():
            self._storage.set_trial_user_attr(trial_id, key, attribute)
        if step is not None:
            self._storage.set_trial_intermediate_value(trial_id, step, value)

    def close(self, ended: Sequence[EndedTrial]) -> None:
        """See Tables; a trial's state comes last."""
        for trial in ended:
            for key, attribute in trial.attributes.items():
                self._storage.set_trial_user_attr(trial.trial_id, key, attribute)
            values = None if trial.value is None else [trial.value]
            self._storage.set_trial_state_values(trial.trial_id, state=trial.state, values=values)

    def delete(self) -> None:
        """See Tables."""
        self._storage.delete_study(self._study_id)


def _misnumbered(there: int, number: int) -> ForeignChangeError:
    return ForeignChangeError(f"it has {there} trials where this search made {number}")


class SqlTables:
    """Writes to Optuna's relational tables directly, one transaction a call, as Optuna itself would."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        """Write to this study."""
        # Private to Optuna, hence imported only once the layout is known to be the right one.
        from optuna.storages._rdb import models

        self._models = models
        self._engine = storage.engine
        self._study_id = study_id
        studies, trials = models.StudyModel.__table__, models.TrialModel.__table__
        params, values = models.TrialParamModel.__table__, models.TrialValueModel.__table__
        attributes = models.TrialUserAttributeModel.__table__
        steps = models.TrialIntermediateValueModel.__table__
        # Built once: to build a statement takes SQLAlchemy longer than to run it.
        bind = sqlalchemy.bindparam
        own = trials.c.study_id == study_id
        self._lock = sqlalchemy.select(studies.c.study_id).where(studies.c.study_id == study_id).with_for_update()
        self._count = sqlalchemy.select(sqlalchemy.func.count(trials.c.trial_id)).where(own)
        self._count_from = self._count.where(trials.c.trial_id >= bind("last"))
        # Number and id of the trial that was added last, so that not all are counted for each.
        self._last: tuple[int, int] | None = None
        self._add_trial = trials.insert()
        self._touch = (
            trials.update()
            .where(trials.c.trial_id == bind("trial"), trials.c.state == TrialState.RUNNING)
            .values(state=bind("new_state"))
        )
        self._end = self._touch.values(datetime_complete=bind("at"))
        self._add_params = params.insert()
        self._add_values = values.insert()
        self._add_attributes = attributes.insert()
        self._drop_attributes = attributes.delete().where(
            attributes.c.trial_id == bind("trial"), attributes.c.key == bind("name")
        )
        self._add_step = steps.insert()
        self._drop_step = steps.delete().where(steps.c.trial_id == bind("trial"), steps.c.step == bind("at"))

    def create(
        self,
        number: int,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
    ) -> int:
        """See Tables; nothing is left behind where the number is taken."""
        with self._engine.begin() as connection:
            # The study's row is the lock by which Optuna, too, numbers trials (SQLite locks as a whole).
            if connection.execute(self._lock).first() is None:
                raise ForeignChangeError("it is gone")
            trial = {
                "study_id": self._study_id,
                "number": number,
                "state": TrialState.RUNNING,
                "datetime_start": self._now(),
            }
            key = connection.execute(self._add_trial, trial).inserted_primary_key
            assert key is not None
            # Counted after the insertion: only then does SQLite hold the lock.
            if not self._follows(connection, number):
                there = connection.execute(self._count).scalar_one() - 1
                if there != number:
                    raise _misnumbered(there, number)
            trial_id = int(key[0])
            if params:
                connection.execute(
                    self._add_params,
                    [
                        {
                            "trial_id": trial_id,
                            "param_name": name,
                            "param_value": distributions[name].to_internal_repr(value),
                            "distribution_json": distribution_to_json(distributions[name]),
                        }
                        for name, value in params.items()
                    ],
                )
            self._set_attributes(connection, trial_id, attributes)
        self._last = number, trial_id
        return trial_id

    def record(self, trial_id: int, attributes: Mapping[str, Any], step: int | None, value: float) -> None:
        """See Tables; all at once or nothing."""
        with self._engine.begin() as connection:
            self._set_running(connection, self._touch, {"trial": trial_id, "new_state": TrialState.RUNNING})
            self._set_attributes(connection, trial_id, attributes)
            if step is not None:
                kinds = self._models.TrialIntermediateValueModel.TrialIntermediateValueType
                connection.execute(self._drop_step, {"trial": trial_id, "at": step})
                connection.execute(
                    self._add_step,
                    {
                        "trial_id": trial_id,
                        "step": step,
                        "intermediate_value": value,
                        "intermediate_value_type": kinds.FINITE,
                    },
                )

    def close(self, ended: Sequence[EndedTrial]) -> None:
        """See Tables; all at once or nothing."""
        with self._engine.connect() as connection:
            sqlite = self._engine.dialect.name == "sqlite"
            if sqlite:
                # A commit under FULL syncs the whole log to the disk, so also what was written before.
                usual = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
                connection.exec_driver_sql("PRAGMA synchronous=FULL")
                connection.commit()
            try:
                with connection.begin():
                    self._close(connection, ended)
            except BaseException:
                # Not to be used again: it may be in the middle of the transaction still.
                connection.invalidate()
                raise
            if sqlite:
                connection.exec_driver_sql(f"PRAGMA synchronous={usual}")

    def delete(self) -> None:
        """See Tables; Optuna's own way loads every row first (40 s for 10 000 trials)."""
        trials = self._models.TrialModel.__table__
        ours = sqlalchemy.select(trials.c.trial_id).where(trials.c.study_id == self._study_id)
        with self._engine.begin() as connection:
            for table in reversed(self._models.BaseModel.metadata.sorted_tables):
                if table is not trials and "trial_id" in table.c:
                    connection.execute(table.delete().where(table.c.trial_id.in_(ours)))
                elif "study_id" in table.c:
                    connection.execute(table.delete().where(table.c.study_id == self._study_id))

    def _follows(self, connection: sqlalchemy.Connection, number: int) -> bool:
        """Tell whether the trial just added is known to be the only one since number - 1; ids rise under the lock.

        Where that one is not the last that was added here (it was written after all, say), nothing is known. It is
        counted, too: another program may have deleted it.
        """
        if self._last is None or self._last[0] != number - 1:
            return False
        both: int = connection.execute(self._count_from, {"last": self._last[1]}).scalar_one()
        return both == 2

    def _close(self, connection: sqlalchemy.Connection, ended: Sequence[EndedTrial]) -> None:
        kinds = self._models.TrialValueModel.TrialValueType
        now = self._now()
        for trial in ended:
            change = {"trial": trial.trial_id, "new_state": trial.state, "at": now}
            self._set_running(connection, self._end, change)
            self._set_attributes(connection, trial.trial_id, trial.attributes)
        values = [
            {"trial_id": trial.trial_id, "objective": 0, "value": trial.value, "value_type": kinds.FINITE}
            for trial in ended
            if trial.value is not None
        ]
        if values:
            connection.execute(self._add_values, values)

    def _set_running(
        self, connection: sqlalchemy.Connection, update: sqlalchemy.Update, change: Mapping[str, Any]
    ) -> None:
        # An UPDATE even where nothing changes: it takes the lock before it looks.
        if connection.execute(update, change).rowcount != 1:
            raise ForeignChangeError("a trial that this search was running is gone or was ended")

    def _set_attributes(self, connection: sqlalchemy.Connection, trial_id: int, attributes: Mapping[str, Any]) -> None:
        if attributes:
            connection.execute(self._drop_attributes, [{"trial": trial_id, "name": key} for key in attributes])
            connection.execute(
                self._add_attributes,
                [
                    {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                    for key, value in attributes.items()
                ],
            )

    def _now(self) -> datetime | None:
        # Local time up to Optuna 4, UTC from 5 on: the model's own setter knows.
        model = self._models.TrialModel
        column = sqlalchemy.inspect(model).get_property_by_column(model.__table__.c.datetime_start)
        now: datetime | None = getattr(model(datetime_start=datetime.now()), column.key)
        return now


class SqliteConnection(sqlite3.Connection):
    """A connection in write-ahead mode, in which neither a killed process nor a power cut damages the file.

    synchronous=NORMAL then keeps every transaction of a killed process; a power cut may take back the last
    ones, which leaves an earlier state of the same search. Where the file system has no write-ahead mode,
    SQLite's own FULL stays.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Connect as sqlite3.connect does."""
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode=WAL")
        if self.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            self.execute("PRAGMA synchronous=NORMAL")


def sqlite_factory() -> Callable[..., SqliteConnection]:
    """Return what connects to one database: the first time it may be made, later it must be there.

    A file that is gone for a while (moved, on a share that went away) must not be replaced by an empty one.
    """
    known = False

    def connect(database: str, *args: Any, **kwargs: Any) -> SqliteConnection:
        nonlocal known
        if known and database != ":memory:" and not os.path.exists(database):
            raise sqlite3.OperationalError("unable to open database file")
        connection = SqliteConnection(database, *args, **kwargs)
        known = True
        return connection

    return connect
