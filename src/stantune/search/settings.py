"""What defines a search: two searches of one objective with equal settings have equal results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stantune.errors import UsageError
from stantune.protocols import Objective
from stantune.search.identity import said_alike
from stantune.search.plan import fidelity, finals, validation
from stantune.search.plan.hyperband import Bracket
from stantune.search.plan.measured import fewest_trials, is_open
from stantune.search.plan.plans import plan_of
from stantune.search.plan.values import WarmStart
from stantune.search.propose.sampler import Sampler, sampler_of
from stantune.seeds import derive
from stantune.texts import brief
from stantune.user_code.noted import as_noted

# Below this a rung costs more in evaluation than in training, and tells a lucky start from a good setting no better.
FEWEST_ITERATIONS = 25
MOST_BRACKETS = 5
# More are somebody's slip: no table of so many is ever filled, and to look at it takes minutes.
MOST_TRIALS = 10**6
MODES = ("sync", "async")
# What an identity calls the code of an objective, and what a problem is made of.
CODE = ("code", "made-of")
# What an earlier version did not note where it is noted now.
LATER = ("stan-iterations",)
# What an earlier version did not note, nor what it said of usual settings now: whether it was the same nobody knows.
PROCESS = "process"


def default_min_resource(max_resource: int, eta: int, unit: str = "iteration") -> int:
    """Return r such that there are at most five brackets (as in the Hyperband study) and no tiny rung.

    A rung of few iterations tells nothing; one of any other unit, an epoch say, may be the smallest there is. But two
    rungs there are wherever R has room for them: with one, a single setting would be tried.
    """
    fewest: int = max_resource // eta ** (MOST_BRACKETS - 1)
    smallest = FEWEST_ITERATIONS if unit == "iteration" else 1
    return max(fewest, min(smallest, max_resource // eta), 1)


@dataclass(frozen=True)
class SearchSettings:
    """All that a search's result depends on, besides its objective.

    Attributes:
        seed: of every random choice.
        max_resource: R, the length of a trial that is never dropped, in the objective's unit.
        min_resource: r, the least length before a trial may be dropped.
        eta: one of so many trials is promoted.
        plan_name: "hyperband", "wide" for one bracket from the lowest rung, or "measured" for brackets whose first rung
            is chosen while searching.
        brackets: how many of the brackets are run, from the one that drops most; None for all. Under "measured" how
            many there are in all; None for half as many as Hyperband has.
        variant: "algorithm1" or "table1": how the number of trials is rounded (Li et al., 2018).
        mode: "sync" for Hyperband, "async" for ASHA, which has one bracket.
        trials: how many settings ASHA and the wide bracket try; None for as many as cost what Hyperband's brackets do,
            or half of it.
        sampler: what proposes settings: "random", "tpe", "bohb", or one of the user's own.
        lag: what proposals of a model and ASHA's promotions see: what a search by so many workers would see, however
            many there are. Half as many workers hardly ever wait for a result, one never does; more lag means older
            observations.
        start: the earlier search that this one starts from, None where it starts from nothing.
        enqueue: settings that are tried first, in this order.
        fixed: parameters that have one value in all settings.
        rates: the share of the work that trainings do by rung, in place of the objective's own: the last one is that of
            the way to R, the one before it that of the way to the rung below, the first one's that of all lower rungs;
            none keeps the objective's.
        validation: "all": every rung compares trials by the whole validation set; "by-rung": by a part that grows with
            the rungs, the last one by all.
        finalists: so many of the best settings are trained exactly in the end, and more where all of them diverge (see
            `finals.with_substitutes`). The trial table does not depend on it.
        final: "scratch": they begin anew; "continue": the trials' own trainings are taken as they are; "none": there
            are no final trainings. The trial table does not depend on it.
        final_resource: how long final trainings are, where that is longer than R; None for R.
        threads: of each training; another number changes the last bits of its sums.
        device: where to train.
        process: what PyTorch was set to where the search was begun, as far as results depend on it and it is not usual.
    """

    seed: int
    max_resource: int
    min_resource: int
    eta: int = 3
    plan_name: str = "hyperband"
    brackets: int | None = None
    variant: str = "algorithm1"
    mode: str = "sync"
    trials: int | None = None
    sampler: str | Sampler = "random"
    lag: int = 16
    start: WarmStart | None = None
    enqueue: tuple[Mapping[str, Any], ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    validation: str = validation.ALL
    finalists: int = 1
    final: str = finals.SCRATCH
    final_resource: int | None = None
    threads: int = 1
    device: str = "cpu"
    process: Mapping[str, Any] = field(default_factory=dict)

    def plan(self) -> tuple[Bracket, ...]:
        """Return the brackets; raises UsageError where the numbers allow none."""
        return plan_of(
            self.plan_name,
            self.mode,
            self.max_resource,
            self.min_resource,
            self.eta,
            self.variant,
            self.brackets,
            self.trials,
            self.lag,
        )

    def check(self, objective: Objective) -> None:
        """Raise UsageError where these settings cannot be had, of this objective or at all."""
        if objective.length is not None and self.max_resource > objective.length:
            raise UsageError(
                f"`max_resource`={self.max_resource} is out of reach: a training of {objective.name} is "
                f"{objective.length} {objective.unit}s long; give at most that"
            )
        sampler_of(self.sampler)
        if self.lag < 1:
            raise UsageError(f"`lag`={self.lag} is too small; give about twice the number of workers, 1 or more")
        if self.finalists < 1:
            raise UsageError(f"`finalists`={self.finalists} leaves no setting to be trained in the end; give 1 or more")
        if self.finalists > MOST_TRIALS:
            raise UsageError(f"`finalists`={self.finalists} is more than any search has trials; give a few")
        self._check_mode()
        self._check_size()
        plan = self.plan()
        if len(self.enqueue) > (fewest := fewest_trials(plan)):
            raise UsageError(
                f"`enqueue` has {len(self.enqueue)} settings, but the search tries {fewest}"
                f"{' or more' if is_open(plan) else ''}; leave some out"
            )
        if self.rates and objective.rate is None:
            raise UsageError(
                f"`rates`={fidelity.text_of(self.rates)} say what STAN computes, and {objective.name} trains without; "
                "leave them out, or say how it is accelerated"
            )
        self.rates_from()
        self._check_final(objective)
        if self.validation not in validation.VALIDATION:
            raise UsageError(
                f"`validation`={brief(self.validation)} is unknown; give {' or '.join(validation.VALIDATION)}"
            )

    def validation_share(self, iterations: int) -> float:
        """Return by how much of the validation set trials are compared after so many iterations."""
        return 1.0 if self.validation == validation.ALL else validation.share_at(iterations, self.max_resource)

    def rates_from(self) -> tuple[tuple[int, float], ...]:
        """Return from which point of a trial each of `rates` holds; raises UsageError where they are too many."""
        if not self.rates:
            return ()
        return fidelity.rates_from(self.rates, self.max_resource, self.min_resource, self.eta)

    def identity(self, objective: Objective) -> dict[str, Any]:
        """Return all that the table depends on under the names that it keeps, for comparison with another's."""
        identity = {
            **objective.identity,
            "seed": self.seed,
            "max-iterations": self.max_resource,
            "min-iterations": self.min_resource,
            "eta": self.eta,
            "brackets": self.brackets or "all",
            "variant": self.variant,
            "sampler": sampler_of(self.sampler).name,
            "threads": self.threads,
            "device": self.device,
        }
        # Named where the result depends on them; so a search begun without them is known again.
        if self.rates:
            identity |= {"accelerate": f"stan:{fidelity.text_of(self.rates)}", "rate": None}
        if self.final == finals.CONTINUE:
            # Its weights are others than those of a training from scratch.
            identity["final"] = self.final
        if self.final_length != self.max_resource:
            identity["final-iterations"] = self.final_length
        if self.validation != validation.ALL:
            identity["validation"] = self.validation
        if own := dict(sampler_of(self.sampler).identity):
            identity["sampler-settings"] = own
        if self.mode == "async":
            identity |= {"mode": self.mode, "trials": self.plan()[0].rungs[0].trials}
        # "plan" is STAN's, of layers, where an objective has one.
        if self.plan_name == "wide":
            identity |= {"search-plan": self.plan_name, "trials": self.plan()[0].rungs[0].trials}
        if self.plan_name == "measured":
            identity |= {"search-plan": self.plan_name, "brackets": len(self.plan())}
        if self.mode == "async" or sampler_of(self.sampler).waits:
            identity["lag"] = self.lag
        if self.start is not None:
            identity["start-from"] = self.start.label
        if self.enqueue:
            identity["enqueue"] = [dict(setting) for setting in self.enqueue]
        if self.fixed:
            identity["fixed"] = dict(self.fixed)
        if self.process:
            identity[PROCESS] = dict(self.process)
        return said_alike(identity)

    def extends(self, there: Mapping[str, Any], objective: Objective, accept_changes: bool = False) -> bool:
        """Tell whether a search with the identity `there` may go on as this one, though it is not the same.

        - With fewer brackets: its trials are the first of this one's, with the same settings. Not so where proposals
          look at results: with more brackets they see others. Nor with another R, since the rungs then lie elsewhere.
        - With other code, where that is accepted; and where an earlier version did not note what the code was.
        - Where an earlier version did not note what it is now; what PyTorch was set to only where that is accepted.
        """
        before = {name: value for name, value in there.items() if name != "space"}
        here = as_noted(self.identity(objective), before)
        for name in CODE:
            if accept_changes or name not in before:
                before.pop(name, None)
                here.pop(name, None)
        for name in LATER:
            if name not in before:
                here.pop(name, None)
        if accept_changes and PROCESS not in before:
            here.pop(PROCESS, None)
        fewer, independent = before.get("brackets"), self.mode == "sync" and not sampler_of(self.sampler).waits
        if independent and isinstance(fewer, int) and fewer < len(self.plan()):
            here["brackets"] = fewer
        same: bool = json.loads(json.dumps(here)) == before
        return same

    def trial_seed(self, number: int) -> int:
        """Return the seed of a trial's weights, data order and grids."""
        return derive("trial", self.seed, number)

    def final_seed(self) -> int:
        """Return the seed of the final trainings, which begin from scratch; one for all, which compares settings."""
        return derive("final", self.seed)

    @property
    def finals(self) -> int:
        """How many final trainings there are at most."""
        return 0 if self.final == finals.NONE else self.finalists

    @property
    def final_length(self) -> int:
        """How long a final training is."""
        return self.final_resource or self.max_resource

    @property
    def final_trained(self) -> int:
        """How many iterations a final training trains."""
        return finals.trained_for(self.final, self.final_length)

    def _check_final(self, objective: Objective) -> None:
        """Raise UsageError where there are no such final trainings, or no weights to be taken as they are."""
        if self.final not in finals.FINAL:
            raise UsageError(f"`final`={brief(self.final)} is unknown; give {', '.join(finals.FINAL[:-1])} or none")
        if self.final == finals.NONE and self.finalists > 1:
            raise UsageError(
                f"`finalists`={self.finalists} asks for final trainings, and `final`=none for none; leave one away"
            )
        self._check_final_length(objective)
        if self.final != finals.CONTINUE:
            return
        if not getattr(objective, "can_continue", False):
            raise UsageError(
                f"`final`=continue takes the weights of a trial's checkpoint, and what {objective.name} keeps there "
                "only its own program knows; give scratch or none"
            )
        if inexact := getattr(objective, "inexact", None):
            raise UsageError(
                f"`final`=continue takes the best trial's weights as they are, and no training of {objective.name} is "
                f"exact: {inexact}; give scratch"
            )
        rate = self.rates[-1] if self.rates else objective.rate
        if rate not in (None, 1):
            raise UsageError(
                f"`final`=continue takes the best trial's weights as they are, and the way to `max_resource`="
                f"{self.max_resource} is not trained exactly throughout, but partly at a rate of {rate}; give rates by "
                "rung, the last of which is 1, or a rate of 1, or `final`=scratch"
            )

    def _check_final_length(self, objective: Objective) -> None:
        """Raise UsageError where final trainings of this length cannot be had."""
        length = self.final_resource
        if length is None:
            return
        if self.final != finals.SCRATCH:
            raise UsageError(
                f"`final_resource`={length} is of final trainings from scratch, and `final`={self.final} has none; "
                "leave one away"
            )
        if length < self.max_resource:
            raise UsageError(
                f"`final_resource`={length} is less than `max_resource`={self.max_resource}, and the winner is trained "
                "as long as any trial; give at least that"
            )
        if objective.length is not None and length > objective.length:
            raise UsageError(
                f"`final_resource`={length} is out of reach: a training of {objective.name} is {objective.length} "
                f"{objective.unit}s long; give at most that"
            )

    def _check_size(self) -> None:
        """Raise UsageError where there is no such plan, or one that nobody can go through to its end."""
        trials = sum(bracket.rungs[0].trials for bracket in self.plan())
        if trials > MOST_TRIALS:
            fewer = "a larger `min_resource`" if self.trials is None else "fewer `trials`"
            if self.plan_name == "measured" and self.brackets is not None:
                fewer = "fewer `brackets`"
            raise UsageError(f"this search would have {trials} trials, and {MOST_TRIALS} is the most; give {fewer}")

    def _check_mode(self) -> None:
        """Raise UsageError where there is no such mode, or something is asked for that it does not have."""
        if self.mode not in MODES:
            raise UsageError(f"`mode`={brief(self.mode)} is unknown; give {' or '.join(MODES)}")
        if self.mode == "async" and self.plan_name != "hyperband":
            raise UsageError(
                f"`plan`={brief(self.plan_name)} is for `mode`=sync, and `mode`=async has one wide bracket of its own; "
                "leave one of them out"
            )
        one_bracket = self.mode == "async" or self.plan_name == "wide"
        if not one_bracket and self.trials is not None:
            raise UsageError(
                f"`trials`={self.trials} is for `mode`=async and `plan`=wide; the numbers of Hyperband's trials follow "
                "from `max_resource`, `min_resource`, `eta` and `brackets`"
            )
        which = "`mode`=async" if self.mode == "async" else "`plan`=wide"
        if one_bracket and self.brackets is not None:
            raise UsageError(
                f"`brackets`={self.brackets} is for Hyperband, and {which} has one bracket; leave it out, and say with "
                "`trials` how many settings are tried"
            )
        if one_bracket and self.variant != "algorithm1":
            raise UsageError(
                f"`variant`={self.variant} rounds the numbers of Hyperband's trials; with {which} leave it out"
            )
