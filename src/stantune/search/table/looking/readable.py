"""Readable: a storage whose searches say in people's words what they are; for those who look, and change nothing."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any, NoReturn

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from stantune.search.table.attributes import BEFORE, BRACKET, FINAL, IDENTITY, METRIC_NAMES
from stantune.search.table.looking.notes import study_note, study_title, trial_attributes, unit_of

# Of the searches' own attributes, and, in storages that searches share, of their names; a directory comes behind it.
_OURS = "stantune:"
_SHARED = "stantune "
# What tables raise that no search wrote so; they are shown as they are.
_ODD = (KeyError, TypeError, ValueError, AttributeError)
# Where Optuna's dashboard looks for a study's note: its version, and the text in parts.
_NOTE_VERSION, _NOTE = "dashboard:note_ver", "dashboard:note_str:0"


class Readable(BaseStorage):
    """Another storage, to be read: names, notes and attributes of searches are made as they are asked for.

    So they are there for searches that run, and for those of before, and no table holds them. Other studies are as they
    are. Whatever would write raises PermissionError.
    """

    def __init__(self, storage: BaseStorage) -> None:
        """Read from this one."""
        self._storage = storage

    def get_study_id_from_name(self, study_name: str) -> int:
        """See BaseStorage: by the title as well, which Optuna's own functions ask by."""
        for study in self.get_all_studies():
            if study.study_name == study_name:
                return study._study_id
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """See BaseStorage: its title."""
        name = self._storage.get_study_name_from_id(study_id)
        return _title(
            name, self._storage.get_study_user_attrs(study_id), self._storage.get_study_system_attrs(study_id)
        )

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See BaseStorage."""
        return self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See BaseStorage: without a search's own, which its note tells."""
        return _without_ours(self._storage.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See BaseStorage: with a note."""
        users = self._storage.get_study_user_attrs(study_id)
        return _with_note(users, self._storage.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        """See BaseStorage."""
        return [_readable(study) for study in self._storage.get_all_studies()]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See BaseStorage; as it is."""
        return self._storage.get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See BaseStorage: with attributes in words."""
        identity = self._storage.get_study_user_attrs(study_id).get(IDENTITY)
        unit = unit_of(identity) if isinstance(identity, dict) else ""
        return [_trial(trial, unit) for trial in self._storage.get_all_trials(study_id, deepcopy, states)]

    def _refused(self, *arguments: Any, **named: Any) -> NoReturn:
        raise PermissionError("a search is changed by itself alone")

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = _refused
    create_new_trial = set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refused
    set_trial_user_attr = set_trial_system_attr = _refused


def _readable(study: FrozenStudy) -> FrozenStudy:
    shown = copy.copy(study)
    shown.study_name = _title(study.study_name, study.user_attrs, study.system_attrs)
    shown.user_attrs = _without_ours(study.user_attrs)
    shown.system_attrs = _with_note(study.user_attrs, study.system_attrs)
    return shown


def _title(name: str, users: dict[str, Any], system: dict[str, Any]) -> str:
    try:
        title = study_title(users[IDENTITY], _metric(system))
    except _ODD:
        return name
    return f"{title}, in {name.removeprefix(_SHARED)}" if name.startswith(_SHARED) else title


def _with_note(users: dict[str, Any], system: dict[str, Any]) -> dict[str, Any]:
    if IDENTITY not in users:
        return system
    named = {METRIC_NAMES: [_metric(system)], **system}
    try:
        note = study_note(users[IDENTITY], users, _metric(system))
    except _ODD:
        return named
    # It is another one with each final training that is over.
    return named | {_NOTE_VERSION: 1 + sum(name.startswith(FINAL) for name in users), _NOTE: note}


def _metric(system: dict[str, Any]) -> str:
    names = system.get(METRIC_NAMES)
    return str(names[0]) if names else BEFORE


def _without_ours(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if not name.startswith(_OURS)}


def _trial(trial: FrozenTrial, unit: str) -> FrozenTrial:
    if BRACKET not in trial.user_attrs:
        return trial
    shown = copy.copy(trial)
    try:
        shown.user_attrs = _without_ours(trial.user_attrs) | trial_attributes(trial.user_attrs, unit)
    except _ODD:
        return trial
    return shown
