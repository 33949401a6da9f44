"""Finds the earlier search that a new one starts from, or what a search that goes on was started from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from stantune.arguments import shown
from stantune.errors import UsageError
from stantune.protocols import Objective
from stantune.search.directory.directory import SearchDirectory
from stantune.search.plan.values import WarmStart
from stantune.search.propose.given import fixed_values, past_of
from stantune.search.propose.warm_start import warm_start
from stantune.search.settings import SearchSettings
from stantune.search.table import studies


def starting_from(
    settings: SearchSettings,
    objective: Objective,
    directory: SearchDirectory,
    earlier: SearchDirectory,
    fresh: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> SearchSettings:
    """Return the settings with the search in `earlier` to start from.

    A search that was begun goes on from what it took then, whatever has become of the earlier one since; unless it is
    to be deleted, which is not done before this is known (`fresh`). `say` takes a line where nothing of it is of use.

    Raises:
        UsageError: there is no search in `earlier`, or none that a search of this problem can start from.
        StoreError: a trial table cannot be used.
    """
    start, fixed = _start(settings, objective, directory, earlier, fresh), fixed_values(objective.space, settings.fixed)
    if fixed and not past_of(objective.space.without(fixed), fixed, start.trials):
        values = " and ".join(f"{name}={shown(value)}" for name, value in fixed.items())
        say(f"note: no setting of the search in {start.path} has {values}; nothing is taken from it")
    return replace(settings, start=start)


def _start(
    settings: SearchSettings, objective: Objective, directory: SearchDirectory, earlier: SearchDirectory, fresh: bool
) -> WarmStart:
    kept = None if fresh or not directory.may_hold_search() else studies.start_of(directory.url, directory.study)
    path = str(earlier.path.resolve())
    if earlier.path.resolve() == directory.path.resolve():
        raise UsageError(f"`start_from`={earlier.path} is this search's own directory; name another one with `out`")
    if kept is not None and kept.path == path:
        return kept
    there = studies.table_of(earlier.url, earlier.study) if earlier.may_hold_search() else None
    if there is None:
        raise UsageError(f"`start_from`={earlier.path}: there is no search; give the directory of one")
    identity, rows = there
    label = label_of(identity)
    if kept is not None and kept.label == label:
        return kept
    if identity.get("problem") != objective.name:
        raise UsageError(
            f"`start_from`={earlier.path}: that is a search of {identity.get('problem')}, and this one is of "
            f"{objective.name}; start from one of the same problem"
        )
    metric = objective.metric
    compared = studies.compared_by(earlier.url, earlier.study)
    if compared is not None and compared != (metric.name, metric.direction):
        raise UsageError(
            f"`start_from`={earlier.path}: that search compares trials by {compared[0] or 'another metric'} "
            f"({compared[1]}), and this one by {metric.name} ({metric.direction}); start from one with the same metric"
        )
    best = min(settings.eta, settings.plan()[0].rungs[0].trials)
    whole = int(identity["max-iterations"])
    fixed = fixed_values(objective.space, settings.fixed)
    return warm_start(path, label, rows, identity["space"], objective.space, best, whole, fixed)


def label_of(identity: Mapping[str, Any]) -> str:
    """Say which search it is: all that its results depend on, in a few letters, wherever it lies."""
    digest = blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{identity.get('problem')} with seed {identity.get('seed')} ({digest})"
