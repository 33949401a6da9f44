"""A study that goes on: what it had before beside what is asked for now, so that nothing leaves its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stantune.compare.study.contract import StudiedProblem, StudiedSearch, StudySummary
from stantune.compare.study.numbers import summary_of
from stantune.errors import StantuneError, UsageError
from stantune.search.settings import CODE
from stantune.search.table.differences import differences_between
from stantune.search.table.looking.look import look
from stantune.user_code.noted import as_noted

T = TypeVar("T")
# What a study's searches of one problem have alike: what a search has from its beginning, and with what it may go on
# otherwise, so that all of them have to.
_FROM_THE_BEGINNING = ("max_iterations", "min_iterations", "eta", "validation", "fixed")
# What of a search's identity is the problem's, in each way.
_PROBLEM = ("metric", "direction", "unit", "space", *CODE)
_LATER = ("final_iterations", "brackets", "finalists", "final")


def joined(before: StudySummary, asked: StudySummary) -> StudySummary:
    """Return a study's result with what it had before and nobody asks for now, as far as that was begun."""
    searches = [*kept(before, asked.searches), *asked.searches]
    problems = _of(before.problems, asked.problems, lambda one: one.name, {one.problem for one in searches})
    ways = _of(before.ways, asked.ways, str, {one.way for one in searches})
    seeds = _of(before.seeds, asked.seeds, int, {one.seed for one in searches})
    names = [problem.name for problem in problems]
    searches.sort(key=lambda one: (seeds.index(one.seed), names.index(one.problem), ways.index(one.way)))
    return summary_of(problems, ways, seeds, searches)


def kept(before: StudySummary, asked: Sequence[StudiedSearch]) -> list[StudiedSearch]:
    """Return the searches that a study had begun, and that are none of those that are asked for."""
    now = {(one.problem, one.way, one.seed) for one in asked}
    return [one for one in before.searches if (one.problem, one.way, one.seed) not in now and one.state != "waiting"]


def check_joinable(
    folder: Path, before: StudySummary, problems: Sequence[StudiedProblem], searches: Sequence[StudiedSearch]
) -> None:
    """Raise UsageError where searches that are asked for would stand beside others than their like.

    Args:
        folder: the study's.
        before: what it has come to by now.
        problems: those that are asked for.
        searches: those that are asked for.
    """
    others = kept(before, searches)
    begun = [*others, *(one for one in searches if one.state != "waiting")]
    earlier = {problem.name: problem for problem in before.problems}
    for problem in problems:
        if problem.name not in earlier:
            continue
        for names, there in ((_FROM_THE_BEGINNING, begun), (_LATER, others)):
            differing = _differing(earlier[problem.name], problem, names)
            if differing and any(one.problem == problem.name for one in there):
                raise UsageError(
                    f"the study in {folder} has searches of {problem.name} with {differing}, and only like is compared "
                    "with like; give the same settings, or another folder with `out`"
                )
    directories = {one.directory for one in others}
    for one in searches:
        if one.directory in directories:
            raise UsageError(
                f"the study in {folder} has another search in {one.directory}, where that of {one.problem} would be; "
                "rename the problem, or choose another folder with `out`"
            )


def check_same(
    folder: Path,
    before: StudySummary,
    searches: Sequence[StudiedSearch],
    identities: Mapping[str, Mapping[str, Any]],
    accept_changes: bool,
) -> None:
    """Raise UsageError where problems that are asked for are others than those of the searches that stand beside them.

    Args:
        folder: the study's.
        before: what it has come to by now.
        searches: those that are asked for; tables of these tell by themselves.
        identities: of each problem that is asked for, what its searches depend on, its space among it.
        accept_changes: whether its code may be another.
    """
    names = [name for name in _PROBLEM if not (accept_changes and name in CODE)]
    for one in kept(before, searches):
        if one.problem not in identities:
            continue
        try:
            there = look(folder / one.directory).identity
        except StantuneError:
            # Deleted, or damaged: the study has its numbers alone.
            continue
        here = json.loads(json.dumps(as_noted(identities[one.problem], there)))
        # Searches of earlier versions do not have all of them.
        both = [name for name in names if name in there and name in here]
        differences = differences_between({name: there[name] for name in both}, {name: here[name] for name in both})
        if differences:
            changed = {line.partition(":")[0].partition(".")[0] for line in differences} <= {*CODE}
            raise UsageError(
                f"the study in {folder} has searches of another {one.problem} ({'; '.join(differences)}), and only "
                "like is compared with like; give the same problem, or another folder with `out`"
                + (", or say with `accept_changes` that the results may be compared" if changed else "")
            )


def _differing(earlier: StudiedProblem, now: StudiedProblem, names: Sequence[str]) -> str:
    """Return in which settings searches of a problem differ, in words; "" where in none that was noted."""
    # A study's first versions noted lengths alone.
    noted = [name for name in names if earlier.eta is not None or name.endswith("iterations")]
    found = [name for name in noted if getattr(earlier, name) != getattr(now, name)]
    return ", ".join(f"{name} {getattr(earlier, name)} in place of {getattr(now, name)}" for name in found)


def _of(before: Sequence[T], asked: Sequence[T], key: Callable[[T], Hashable], used: Collection[object]) -> list[T]:
    """Return what is used of both, in the order in which it was first there, and as it is asked for now."""
    found = {key(one): one for one in before}
    found.update({key(one): one for one in asked})
    return [one for name, one in found.items() if name in used]
