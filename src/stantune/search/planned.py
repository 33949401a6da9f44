"""What STAN's "auto" comes to in a search: planned once, when it begins, and the same ever after."""

from __future__ import annotations

from dataclasses import replace

from stantune.images.problems import Problem, Splits
from stantune.search.settings import SearchSettings
from stantune.search.table.directory import SearchDirectory
from stantune.search.table.store import Store
from stantune.training import planning


def settle(
    settings: SearchSettings, problem: Problem, splits: Splits, directory: SearchDirectory | None = None
) -> SearchSettings:
    """Return the settings with a plan in place of "auto": the directory's search's, or one that is made now.

    Raises:
        StoreError: the trial table cannot be used.
        StantuneError: the problem's own setting diverges at once.
    """
    if settings.stan is None or settings.stan.rate != "auto":
        return settings
    before = None
    if directory is not None and directory.may_hold_search():
        there = Store.identity_of(directory.url, directory.study)
        before = there if there is not None and there.get("plan") is not None else None
    stan = planning.settle(
        settings.stan,
        problem,
        {},
        splits,
        before,
        iterations=settings.max_iterations,
        seed=settings.seed,
        device=settings.device,
    )
    return replace(settings, stan=stan)
