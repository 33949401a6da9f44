"""What defines a search: two searches with equal settings have equal results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stantune.errors import UsageError
from stantune.images.problems import Problem
from stantune.search.plan import fidelity
from stantune.search.plan.asha import async_plan
from stantune.search.plan.hyperband import Bracket, plan
from stantune.search.propose.warm_start import WarmStart
from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.training.trial import RateFrom

# Below this a rung costs more in evaluation than in training, and tells a lucky start from a good setting no better.
FEWEST_ITERATIONS = 25
MOST_BRACKETS = 5
SAMPLERS = ("random", "tpe", "bohb")
MODES = ("sync", "async")


def default_min_iterations(max_iterations: int, eta: int) -> int:
    """Return r such that there are at most five brackets (as in the Hyperband study) and no tiny rung."""
    fewest: int = max_iterations // eta ** (MOST_BRACKETS - 1)
    return max(fewest, min(FEWEST_ITERATIONS, max_iterations))


@dataclass(frozen=True)
class SearchSettings:
    """All that a search's result depends on.

    Attributes:
        seed: of every random choice.
        max_iterations: R, iterations of a trial that is never dropped.
        min_iterations: r, the least iterations before a trial may be dropped.
        eta: one of so many trials is promoted.
        brackets: how many of the brackets are run, from the one that drops most; None for all.
        variant: "algorithm1" or "table1": how the number of trials is rounded (Li et al., 2018).
        mode: "sync" for Hyperband, "async" for ASHA, which has one bracket.
        trials: how many settings ASHA tries; None for as many as cost what Hyperband's brackets do.
        sampler: what proposes settings: "random", "tpe" or "bohb".
        lag: what proposals of a model and ASHA's promotions see: what a search by so many workers would see, however
            many there are. Half as many workers hardly ever wait for a result, one never does; more lag means older
            observations.
        start: the earlier search that this one starts from, None where it starts from nothing.
        stan: STAN's settings for the trials, without a seed of its own; None trains exactly.
        rates: STAN's rates by rung in place of that of `stan`: the last one is that of the way to R, the one before it
            that of the way to the rung below, the first one's that of all lower rungs; none keeps that of `stan`.
        finalists: so many of the best settings are trained exactly in the end. The trial table does not depend on it.
        threads: of each training; another number changes the last bits of its sums.
        device: where to train.
    """

    seed: int
    max_iterations: int
    min_iterations: int
    eta: int = 3
    brackets: int | None = None
    variant: str = "algorithm1"
    mode: str = "sync"
    trials: int | None = None
    sampler: str = "random"
    lag: int = 16
    start: WarmStart | None = None
    stan: Stan | None = None
    rates: tuple[float, ...] = ()
    finalists: int = 1
    threads: int = 1
    device: str = "cpu"

    def plan(self) -> tuple[Bracket, ...]:
        """Return the brackets; raises UsageError where the numbers allow none."""
        if self.mode == "async":
            return async_plan(self.max_iterations, self.min_iterations, self.eta, self.lag, self.trials)
        return plan(self.max_iterations, self.min_iterations, self.eta, self.variant, self.brackets)

    def check(self, problem: Problem) -> None:
        """Raise UsageError where these settings cannot be had, of this problem or at all."""
        if self.max_iterations > problem.iterations:
            raise UsageError(
                f"--max-iterations {self.max_iterations} is out of reach: a training of {problem.name} is "
                f"{problem.iterations} iterations long; give at most that"
            )
        if self.sampler not in SAMPLERS:
            raise UsageError(f"--sampler {self.sampler} is unknown; give {' or '.join(SAMPLERS)}")
        if self.lag < 1:
            raise UsageError(f"--lag {self.lag} is too small; give about twice the number of workers, 1 or more")
        if self.finalists < 1:
            raise UsageError(f"--finalists {self.finalists} leaves no setting to be trained in the end; give 1 or more")
        self._check_mode()
        self.plan()
        self.rates_from()

    def rates_from(self) -> tuple[RateFrom, ...]:
        """Return from which iteration of a trial each of `rates` holds; raises UsageError where they are too many."""
        if not self.rates:
            return ()
        return fidelity.rates_from(self.rates, self.max_iterations, self.min_iterations, self.eta)

    def identity(self, problem: Problem) -> dict[str, Any]:
        """Return the settings under the names that the command line gives them, for comparison with a directory's."""
        stan = self.stan
        planned = stan and stan.planned
        identity = {
            "problem": problem.name,
            "iterations": problem.iterations,
            "batch-size": problem.batch_size,
            "seed": self.seed,
            "max-iterations": self.max_iterations,
            "min-iterations": self.min_iterations,
            "eta": self.eta,
            "brackets": self.brackets or "all",
            "variant": self.variant,
            "sampler": self.sampler,
            "accelerate": "none" if stan is None else fidelity.text_of(self.rates) if self.rates else "stan",
            "rate": None if self.rates else stan and stan.rate,
            "pattern": stan and stan.pattern,
            "tolerance": stan and stan.tolerance,
            "layers": stan and list(stan.layers),
            "plan": planned and planned["plan"],
            "period": stan and stan.period,
            "pretrain": stan and stan.pretrain,
            "tail": stan and stan.tail,
            "threads": self.threads,
            "device": self.device,
        }
        # Named where the result depends on them; so a search begun without them is known again.
        if self.mode == "async":
            identity |= {"mode": self.mode, "trials": self.plan()[0].rungs[0].trials}
        if self.mode == "async" or self.sampler != "random":
            identity["lag"] = self.lag
        if self.start is not None:
            identity["start-from"] = self.start.label
        return identity

    def trial_seed(self, number: int) -> int:
        """Return the seed of a trial's weights, data order and grids."""
        return derive("trial", self.seed, number)

    def final_seed(self) -> int:
        """Return the seed of the final trainings, which begin from scratch; one for all, which compares settings."""
        return derive("final", self.seed)

    def _check_mode(self) -> None:
        """Raise UsageError where there is no such mode, or something is asked for that it does not have."""
        if self.mode not in MODES:
            raise UsageError(f"--mode {self.mode} is unknown; give {' or '.join(MODES)}")
        if self.mode == "sync" and self.trials is not None:
            raise UsageError(
                f"--trials {self.trials} is for --mode async; the numbers of Hyperband's trials follow from "
                "--max-iterations, --min-iterations, --eta and --brackets"
            )
        if self.mode == "async" and self.brackets is not None:
            raise UsageError(
                f"--brackets {self.brackets} is for Hyperband, and --mode async has one bracket; leave it out, and say "
                "with --trials how many settings are tried"
            )
        if self.mode == "async" and self.variant != "algorithm1":
            raise UsageError(
                f"--variant {self.variant} rounds the numbers of Hyperband's trials; with --mode async leave it out"
            )
