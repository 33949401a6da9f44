"""The network that a search trained, made again to look at its layers: from its result, or from what its table says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stantune.protocols import Objective
from stantune.report.page.contract import Entries
from stantune.report.page.sections.entries import entries_of
from stantune.search.results.contract import SearchSummary

if TYPE_CHECKING:
    from stantune.images.objective import ProblemObjective


def entries_of_result(objective: Objective, summary: SearchSummary, directory: Path) -> Entries | str | None:
    """Return what the winner's layers compute, why that cannot be shown, or None where nobody would ask."""
    if objective.rate is None:
        return None
    from stantune.images.objective import ProblemObjective

    return _entries(objective, summary, directory) if isinstance(objective, ProblemObjective) else None


def entries_of_table(identity: Mapping[str, Any], summary: SearchSummary, directory: Path) -> Entries | str | None:
    """Return the same of a search whose objective is not at hand: of a built-in problem whose data are here."""
    # Of functions and the like nobody knows the layers.
    if summary.accelerate == "none" or not {"layers", "pattern", "batch-size"} <= identity.keys():
        return None
    if identity.get("rate") == 1 and not identity.get("rates"):
        return "every entry is computed, in all layers"
    if "made-of" in identity:
        return "the problem is one of your own; `SearchResult.report()`, which has it at hand, shows them"
    from stantune.images.data import data_root, is_present
    from stantune.images.objective import ProblemObjective
    from stantune.images.problem.built_in import built_in
    from stantune.images.stan_settings import stan_of

    problem = built_in(summary.problem)
    if problem is None:
        return f"this version knows no problem {summary.problem}"
    if isinstance(problem.data, str) and not is_present(problem.data):
        return (
            f"the data set {problem.data} is not in {data_root()}; name the folder that has it by $STANTUNE_DATA, or "
            f"fetch it by `stantune data fetch {problem.data}`"
        )
    # By rung, and by the course of a run: what the least rate computes is looked at.
    rate = min(each.rate for each in summary.rates if not isinstance(each.rate, str))
    return _entries(ProblemObjective(problem, stan_of(identity, rate)), summary, directory)


def _entries(objective: ProblemObjective, summary: SearchSummary, directory: Path) -> Entries | str | None:
    final = summary.final
    if final is None or final.weights is None:
        return "there are no weights of a winner yet"
    return entries_of(objective, final.params, directory / final.weights, summary.seed)
