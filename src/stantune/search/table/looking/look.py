"""What a search's directory holds, for those who look at it without its objective, while it runs or afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from stantune.errors import StantuneError, StoreError, UsageError
from stantune.outcome import Cost, total
from stantune.protocols import Metric
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.last_run import LastRun
from stantune.search.plan import finals
from stantune.search.plan.coordinator import ready_jobs
from stantune.search.plan.hyperband import Bracket
from stantune.search.plan.measured import Choices
from stantune.search.plan.plans import plan_of
from stantune.search.plan.values import FinalResult, TrialRow
from stantune.search.table.attributes import BEFORE, BRACKET, IDENTITY, METRIC_NAMES
from stantune.search.table.rows import finals_of, row_of
from stantune.search.table.storages.messages import damaged_sentence, one_sentence
from stantune.search.table.storages.opening import reading, without_password
from stantune.search.table.storages.retry import insist
from stantune.search.table.studies import metric_of


@dataclass(frozen=True)
class Seen:
    """A search as it was when it was looked at.

    Attributes:
        directory: where it is kept.
        identity: all that its result depends on, as its table has it.
        plan: its brackets.
        rows: the trial table.
        finals: the final trainings that are over and count, by rank.
        metric: what trials are compared by.
        run: what is known of its last run; None where nothing is.
        running: whether a process works on it now.
    """

    directory: SearchDirectory
    identity: Mapping[str, Any]
    plan: tuple[Bracket, ...]
    rows: list[TrialRow]
    finals: Mapping[int, FinalResult]
    metric: Metric
    run: LastRun | None
    running: bool

    @property
    def problem(self) -> str:
        """What is searched, by its name."""
        return str(self.identity.get("problem", ""))

    @property
    def unit(self) -> str:
        """What iterations are called."""
        return str(self.identity.get("unit") or (self.run.unit if self.run else "iteration"))

    @property
    def whole(self) -> int:
        """R."""
        return int(self.identity["max-iterations"])

    @property
    def final_trained(self) -> int:
        """How many iterations a final training trains."""
        return finals.trained_for(self.final_training, int(self.identity.get("final-iterations", self.whole)))

    @property
    def final_training(self) -> str:
        """Where final trainings begin, of those that there are."""
        return _final_training(self.identity)

    @property
    def trials_planned(self) -> int:
        """Trials of the whole plan."""
        return sum(bracket.rungs[0].trials for bracket in self.plan)

    @cached_property
    def cost(self) -> Cost:
        """What the trials took, and the final trainings that count."""
        return total(
            [cost for row in self.rows for cost in row.costs.values()] + [f.cost for f in self.finals.values()]
        )

    @property
    def finalists(self) -> int:
        """How many final trainings there are to be."""
        return self.run.finalists if self.run else max(len(self.finals), 1)

    @property
    def finals_left(self) -> int:
        """How many final trainings are not over; they begin when all trials are."""
        asked = finals.with_substitutes(self.finalists, self.finals)
        wanted: Iterable[int] = range(asked)
        if self.trials_over:
            wanted = [final.rank for final in finals.finals_of(self.rows, asked, self.whole, self.final_training)]
        return sum(rank not in self.finals for rank in wanted)

    @cached_property
    def trials_over(self) -> bool:
        """Whether no trial is to be trained any more."""
        return not ready_jobs(self.plan, self.rows)

    @property
    def state(self) -> Literal["running", "interrupted", "done"]:
        """Say in a word where it is: "running", "interrupted" (also by a kill), "done"."""
        if self.running:
            return "running"
        return "done" if self.trials_over and not self.finals_left else "interrupted"


def look(path: Path, storage: str | None = None) -> Seen:
    """Look at the search in a directory; nothing is written, so it need not be allowed.

    Args:
        path: the directory.
        storage: the URL of its storage, which is needed where that has a password.

    Raises:
        UsageError: there is no search.
        StantuneError: it cannot be read, or holds what no search writes.
    """
    directory = SearchDirectory.begun(path, storage)
    nothing: StantuneError = UsageError(f"there is no search in {path}; give the directory of one, as `out` named it")
    if not directory.may_hold_search():
        raise nothing
    run, running, where = LastRun.read(directory.run), directory.in_use(), without_password(directory.url)
    if running:
        nothing = StantuneError(f"the search in {path} is beginning and has no table yet; look again in a moment")
    with reading(directory.url, directory.study) as found:
        if found is None:
            raise nothing
        there, study = found
        attributes = insist(there, lambda again: there.get_study_user_attrs(study), begun=False)
        if IDENTITY not in attributes:
            raise nothing
        identity = attributes[IDENTITY]
        names = there.get_study_system_attrs(study).get(METRIC_NAMES)
        name, turned = names[0] if names else BEFORE, metric_of(there, study).direction
        metric = Metric(name, turned, _unit_of(name, run))
        try:
            brackets = _plan_of(identity)
        except (UsageError, KeyError, TypeError, ValueError) as error:
            raise StoreError(damaged_sentence(where, error)) from error
        found_trials = insist(there, lambda again: there.get_all_trials(study, deepcopy=False), begun=False)
        trials = sorted(found_trials, key=lambda trial: trial.number)
    rows, choices = list[TrialRow](), Choices(brackets)
    for trial in trials:
        # One that is being made has no attributes yet.
        if BRACKET in trial.user_attrs:
            # Outside of what takes all for damage: the rows that it is of are sound.
            plan = choices.plan(rows)
            with one_sentence(where, directory.study, reads=True):
                rows.append(row_of(trial, metric, rows, plan=plan))
    with one_sentence(where, directory.study, reads=True):
        there_are = finals_of(attributes, metric, rows)
        # Where no run tells how many were asked for, all that are there are.
        asked = run.finalists if run else len(there_are)
        whole, how = int(identity["max-iterations"]), _final_training(identity)
        counted = finals.that_count(there_are, rows, whole, asked, how)
    return Seen(directory, identity, choices.plan(rows), rows, counted, metric, run, running)


def _plan_of(identity: Mapping[str, Any]) -> tuple[Bracket, ...]:
    """Return the plan of a search, from its identity."""
    most, least, eta = (int(identity[name]) for name in ("max-iterations", "min-iterations", "eta"))
    name, mode, brackets = identity.get("search-plan", "hyperband"), identity.get("mode", "sync"), identity["brackets"]
    return plan_of(
        name,
        mode,
        most,
        least,
        eta,
        identity["variant"],
        None if brackets == "all" else int(brackets),
        int(identity["trials"]) if mode == "async" or name == "wide" else None,
        int(identity["lag"]) if mode == "async" else 1,
    )


def _final_training(identity: Mapping[str, Any]) -> str:
    return str(identity.get("final", finals.SCRATCH))


def _unit_of(metric: str, run: LastRun | None) -> str:
    """Return the unit of the metric's values; searches of before noted none, and measured errors in percent."""
    if run is not None:
        return run.metric_unit
    return "%" if metric == BEFORE else ""
