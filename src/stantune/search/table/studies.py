"""What a search's study says to others than the search itself, asked by URL and name; and its end."""

from __future__ import annotations

from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from stantune.protocols import Metric
from stantune.search.plan.values import TrialRow, WarmStart
from stantune.search.table.attributes import BEFORE, BRACKET, IDENTITY, METRIC_NAMES, START
from stantune.search.table.ownership import owner_of
from stantune.search.table.rows import row_of
from stantune.search.table.storages.opening import mend, reading
from stantune.search.table.storages.retry import ask, is_damage
from stantune.search.table.tables import tables_for


def metric_of(storage: BaseStorage, study_id: int) -> Metric:
    """Return a metric with the direction of a study, under no name."""
    maximized = storage.get_study_directions(study_id) == [StudyDirection.MAXIMIZE]
    return Metric("", "maximize" if maximized else "minimize")


def identity_of(url: str, study_name: str) -> dict[str, Any] | None:
    """Return the identity that the study was begun with; None where there is no such study. Raises StoreError."""
    with reading(url, study_name) as found:
        identity: dict[str, Any] | None = None
        if found is not None:
            storage, study_id = found
            identity = ask(storage, lambda: storage.get_study_user_attrs(study_id)).get(IDENTITY)
        return identity


def start_of(url: str, study_name: str) -> WarmStart | None:
    """Return what the study's search was started from; None where there is none, or no study. Raises StoreError."""
    with reading(url, study_name) as found:
        attributes = {} if found is None else ask(found[0], lambda: found[0].get_study_user_attrs(found[1]))
        if START not in attributes or IDENTITY not in attributes:
            return None
        parts = sorted(key for key in attributes if key.startswith(f"{START}:"))
        return WarmStart.from_plain(attributes[START], [trial for key in parts for trial in attributes[key]])


def table_of(url: str, study_name: str) -> tuple[dict[str, Any], list[TrialRow]] | None:
    """Return identity and trial table of a search, running or not; None where there is none. Raises StoreError."""
    with reading(url, study_name) as found:
        if found is None:
            return None
        storage, study_id = found
        attributes = ask(storage, lambda: storage.get_study_user_attrs(study_id))
        if IDENTITY not in attributes:
            return None
        trials = ask(storage, lambda: storage.get_all_trials(study_id, deepcopy=False))
        metric = ask(storage, lambda: metric_of(storage, study_id))
        rows: list[TrialRow] = []
        for trial in sorted(trials, key=lambda trial: trial.number):
            if BRACKET in trial.user_attrs:
                rows.append(row_of(trial, metric, rows))
        return attributes[IDENTITY], rows


def compared_by(url: str, study_name: str) -> tuple[str, str] | None:
    """Return name and direction of the metric of a search; None where there is none. Raises StoreError."""
    with reading(url, study_name) as found:
        if found is None:
            return None
        storage, study_id = found
        names = storage.get_study_system_attrs(study_id).get(METRIC_NAMES)
        return (names[0] if names else BEFORE), metric_of(storage, study_id).direction


def begun_by(url: str, study_name: str) -> str | None:
    """Return the mark of where a study was begun; None where it has none that can be read, or there is no study.

    Raises StoreError.
    """
    with reading(url, study_name) as found:
        if found is None:
            return None
        try:
            return ask(found[0], lambda: owner_of(*found))
        except Exception as error:
            # Where an attribute is damaged, to delete the study is the remedy; all else may be another one's study.
            if is_damage(error):
                return None
            raise


def delete(url: str, study_name: str) -> bool:
    """Delete the study with all its trials; return whether there was one. Raises StoreError."""
    mend(url)
    with reading(url, study_name) as found:
        if found is not None:
            ask(found[0], lambda: tables_for(*found).delete())
        return found is not None
