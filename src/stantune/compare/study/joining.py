"""A study that goes on: what it had before beside what is asked for now, so that nothing leaves its table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

from stantune.compare.study.contract import StudiedProblem, StudiedSearch, StudySummary
from stantune.compare.study.numbers import summary_of
from stantune.errors import UsageError

T = TypeVar("T")
# What a study's searches of one problem have alike: what a search has from its beginning, and with what it may go on
# otherwise, so that all of them have to.
_FROM_THE_BEGINNING = ("max_iterations", "min_iterations", "eta", "validation", "fixed")
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
