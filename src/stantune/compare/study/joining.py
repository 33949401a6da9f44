"""A study that goes on: what it had before beside what is asked for now, so that nothing leaves its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stantune.compare.study.contract import StudiedProblem, StudiedSearch, StudySummary
from stantune.compare.study.numbers import summary_of
from stantune.errors import StantuneError, UsageError
from stantune.images.numbers_held_out import NOTE
from stantune.search.identity import said_alike
from stantune.search.settings import CODE
from stantune.search.table.differences import differences_between
from stantune.search.table.looking.look import look
from stantune.user_code.noted import as_noted

T = TypeVar("T")
# What a study's searches of one problem have alike: what a search has from its beginning, and with what it may go on
# otherwise, so that all of them have to.
_FROM_THE_BEGINNING = ("max_iterations", "min_iterations", "eta", "validation", "fixed")
# What of a search's identity is the problem's, in each way.
_PROBLEM = (
    *("metric", "direction", "unit", "space", "device", "batch-size", "iterations"),
    *("precision", "edition", "hold_out", NOTE, *CODE),
)
# What of that is named only where it is set.
_WHERE_SET = ("precision", "edition", "hold_out", NOTE)
_LATER = ("final_iterations", "brackets", "finalists", "final")
# With what its searches are run. It decides how long they take, which is compared; a search alone may go on with other
# workers.
_RUN_WITH = ("workers", "threads", "device", "precision")
# What it depends on how many times faster a way was predicted to be, besides what the problem is.
_PREDICTED_BY = ("max_iterations", "min_iterations", "eta", "brackets", "fixed", "threads", "device", "precision")


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
        trained = begun if _is_left(earlier[problem.name], problem, searches) else []
        for names, there in ((_FROM_THE_BEGINNING, begun), (_LATER, others), (_RUN_WITH, trained)):
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


def tell_as_before(before: StudySummary, problems: Sequence[StudiedProblem], searches: Sequence[StudiedSearch]) -> None:
    """Have problems that are asked for be told of as they were, as far as that holds for what is in the table.

    Where nothing is left to train, that is what their searches were run with. Where searches of just this problem were
    begun, it is what was predicted, unless another prediction would be made now.
    """
    earlier = {problem.name: problem for problem in before.problems}
    begun = {one.problem for one in (*kept(before, searches), *searches) if one.state != "waiting"}
    for problem in problems:
        if problem.name not in earlier or problem.name not in begun:
            continue
        there = earlier[problem.name]
        # Where nothing was noted, what is beside one another was run in ways that nobody knows.
        if not _is_left(there, problem, searches) or not _is_noted(_RUN_WITH[0], there):
            for name in _RUN_WITH:
                setattr(problem, name, getattr(there, name))
        if not _differing(there, problem, _PREDICTED_BY):
            problem.predicted.update(there.predicted)


def check_same(
    folder: Path,
    before: StudySummary,
    searches: Sequence[StudiedSearch],
    identities: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]],
    accept_changes: bool,
) -> None:
    """Raise UsageError where problems that are asked for are others than those of the searches that stand beside them.

    Args:
        folder: the study's.
        before: what it has come to by now.
        searches: those that are asked for; tables of these tell by themselves.
        identities: of each problem that is asked for, what gives what its searches depend on, its space among it, as it
            is where one with an identity was begun.
        accept_changes: whether its code may be another.
    """
    names = [name for name in _PROBLEM if not (accept_changes and name in CODE)]
    for one in kept(before, searches):
        if one.problem not in identities:
            continue
        try:
            there = said_alike(look(folder / one.directory).identity)
        except StantuneError:
            # Deleted, or damaged: the study has its numbers alone.
            continue
        here = json.loads(json.dumps(as_noted(identities[one.problem](there), there)))
        # Searches of earlier versions do not have all of them.
        both = [name for name in names if name in _WHERE_SET or (name in there and name in here)]
        differences = differences_between(
            {name: there.get(name) for name in both}, {name: here.get(name) for name in both}
        )
        if differences:
            changed = {line.partition(":")[0].partition(".")[0] for line in differences} <= {*CODE}
            raise UsageError(
                f"the study in {folder} has searches of another {one.problem} ({'; '.join(differences)}), and only "
                "like is compared with like; give the same problem, or another folder with `out`"
                + (", or say with `accept_changes` that the results may be compared" if changed else "")
            )


def check_order(folder: Path, searches: Sequence[StudiedSearch], orders: Mapping[str, Sequence[str]]) -> None:
    """Raise UsageError where searches would begin that draw parameters in another order than those that are there.

    By that order a seed has its settings, which are to be the same in all ways. What was begun goes on in its own.

    Args:
        folder: the study's.
        searches: all that it has, begun or not.
        orders: of each problem that is asked for, its parameters as they stand now.
    """
    for name, here in orders.items():
        its = [one for one in searches if one.problem == name]
        if all(one.state != "waiting" for one in its):
            continue
        there = next(filter(None, (_order_in(folder / one.directory) for one in its if one.state != "waiting")), [])
        # Where it has other parameters, it is another space, as others say.
        if there != list(here) and sorted(there) == sorted(here):
            raise UsageError(
                f"the study in {folder} has searches of {name} that draw its parameters in the order "
                f"{', '.join(there)}, and here they stand in the order {', '.join(here)}, in which a seed has other "
                "settings; put them in that order, or give another folder with `out`"
            )


def _order_in(directory: Path) -> list[str]:
    """Return the parameters of a search as it draws them; none where its table cannot be read."""
    try:
        return list(look(directory).identity.get("space", ()))
    except StantuneError:
        return []


def _differing(earlier: StudiedProblem, now: StudiedProblem, names: Sequence[str]) -> str:
    """Return in which settings searches of a problem differ, in words; "" where in none that was noted."""
    noted = [name for name in names if _is_noted(name, earlier)]
    found = [name for name in noted if getattr(earlier, name) != getattr(now, name)]
    return ", ".join(f"{name} {getattr(earlier, name)} in place of {getattr(now, name)}" for name in found)


def _is_noted(name: str, earlier: StudiedProblem) -> bool:
    """Tell whether a study has this of a problem: its first versions noted lengths alone, and later ones most."""
    if name in _RUN_WITH:
        return earlier.workers is not None
    return earlier.eta is not None or name.endswith("iterations")


def _is_left(earlier: StudiedProblem, now: StudiedProblem, searches: Sequence[StudiedSearch]) -> bool:
    """Tell whether anything is to be trained of what is asked for of a problem; done ones may have to go on."""
    states = {one.state for one in searches if one.problem == now.name}
    return bool(states - {"done"}) or bool(_differing(earlier, now, _LATER))


def _of(before: Sequence[T], asked: Sequence[T], key: Callable[[T], Hashable], used: Collection[object]) -> list[T]:
    """Return what is used of both, in the order in which it was first there, and as it is asked for now."""
    found = {key(one): one for one in before}
    found.update({key(one): one for one in asked})
    return [one for name, one in found.items() if name in used]
