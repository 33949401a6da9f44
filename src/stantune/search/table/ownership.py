"""A study as one search's own: made or found in a storage, and known again by its identity."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from stantune.errors import StoreError, UsageError
from stantune.protocols import Metric
from stantune.search.identity import said_alike
from stantune.search.plan.values import WarmStart
from stantune.search.propose.sampling import optuna_quiet
from stantune.search.table.attributes import ACCEPTED, IDENTITY, METRIC_NAMES, OWNER, START
from stantune.search.table.differences import another_search, differences_between
from stantune.search.table.storages.messages import foreign_sentence, gone_sentence
from stantune.search.table.storages.opening import study_named
from stantune.search.table.storages.retry import ask
from stantune.user_code.noted import as_noted

# What may be asked of another search's identity.
Extends: TypeAlias = Callable[[Mapping[str, Any]], bool]
# Trials of an earlier search in one attribute: some databases hold no longer texts than 64 KB.
_START_PART = 50
_DIRECTIONS = {"minimize": StudyDirection.MINIMIZE, "maximize": StudyDirection.MAXIMIZE}


def made_or_found(storage: BaseStorage, name: str, where: str, metric: Metric, begun: bool) -> int:
    """Return the id of the study of this name, which is made where there is none.

    `where` names the place. Raises StoreError where the search was `begun` before and its study is gone, and UsageError
    where the storage takes another study's name for this one.
    """
    if begun and ask(storage, lambda: _is_without(storage, name)):
        raise StoreError(gone_sentence(name, where))
    return ask(storage, lambda: _study(storage, name, where, metric))


def identify(
    storage: BaseStorage,
    study_id: int,
    name: str,
    where: str,
    metric: Metric,
    identity: Mapping[str, Any],
    start: WarmStart | None,
    extends: Extends,
    new: bool,
    owner: str | None,
) -> tuple[list[str], list[str]]:
    """Know the study again, or make it this search's.

    Return how it differs where it is one that this one extends, whose it stays until `adopt`; and the parameters in the
    order in which the search began to draw them. For the arguments see `Store.open`; `new` says that it has no trials
    and was not begun before. Raises UsageError where it is another search's, and StoreError where it is none of ours.
    """
    here = json.loads(json.dumps(identity))
    attributes = ask(storage, lambda: storage.get_study_user_attrs(study_id))
    there = attributes.get(IDENTITY)
    directions = ask(storage, lambda: storage.get_study_directions(study_id))
    turned = directions != [_DIRECTIONS[metric.direction]]

    def keep(key: str, value: Any) -> None:
        ask(storage, lambda: storage.set_study_user_attr(study_id, key, value))

    if there is None:
        # No identity and no trials: created just now, or by a search that was killed right there.
        if not new or turned:
            raise StoreError(foreign_sentence(name, where, "it was not made by a stantune search"))
        if owner is not None:
            keep(OWNER, owner)
        if start is not None:
            # The identity, which is written last, makes it count.
            head, trials = start.plain()
            keep(START, head)
            for part in range(0, len(trials), _START_PART):
                keep(f"{START}:{part // _START_PART:04d}", trials[part : part + _START_PART])
        # As Optuna itself keeps it: its dashboard and plots then name their axes.
        ask(storage, lambda: storage.set_study_system_attr(study_id, METRIC_NAMES, [metric.name]))
        keep(IDENTITY, here)
        return [], list(here["space"])
    there = said_alike(there)
    here = json.loads(json.dumps(as_noted(identity, there)))
    differences = differences_between(there, here)
    if turned:
        # Of an objective of the user's own whose identity says nothing of it.
        differences.append(f"direction: {directions[0].name.lower()} there, {metric.direction} here")
    if differences and (turned or there.get("space") != here["space"] or not extends(there)):
        raise another_search(name, where, differences)
    # JSON keeps the order of a space, and where two are compared it does not count.
    return differences, list(there["space"])


def adopt(storage: BaseStorage, study_id: int, identity: Mapping[str, Any], differences: list[str]) -> None:
    """Make a study that of the search that extends it, and note what was another before."""
    attributes = ask(storage, lambda: storage.get_study_user_attrs(study_id))
    accepted = [*attributes.get(ACCEPTED, []), differences]
    ask(storage, lambda: storage.set_study_user_attr(study_id, ACCEPTED, accepted))
    ask(storage, lambda: storage.set_study_user_attr(study_id, IDENTITY, json.loads(json.dumps(identity))))


def owner_of(storage: BaseStorage, study_id: int) -> str | None:
    """Return the mark of where a study was begun; None where it has none, as those of before and those elsewhere."""
    owner = storage.get_study_user_attrs(study_id).get(OWNER)
    return owner if isinstance(owner, str) else None


def _is_without(storage: BaseStorage, name: str) -> bool:
    try:
        study_named(storage, name)
    except KeyError:
        return True
    return False


def _study(storage: BaseStorage, name: str, where: str, metric: Metric) -> int:
    try:
        with optuna_quiet():
            return storage.create_new_study([_DIRECTIONS[metric.direction]], name)
    except DuplicatedStudyError:
        with suppress(KeyError):
            return study_named(storage, name)
    other = storage.get_study_name_from_id(storage.get_study_id_from_name(name))
    raise UsageError(
        f"{where} does not tell the study {name!r} from {other!r}, which is another search's; choose another directory "
        "with `out`, or a database that tells upper from lower case"
    )
