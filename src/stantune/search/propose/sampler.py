"""What proposes settings: a protocol, the samplers of this package, and one that asks any sampler of Optuna."""

from __future__ import annotations

import difflib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from stantune.arguments import function, shown
from stantune.errors import UsageError
from stantune.search.plan.values import PastTrial
from stantune.search.propose.sampling import Model, optuna_quiet, sample, to_distribution, to_optuna, within
from stantune.seeds import derive
from stantune.space import Space

# Optuna's TPE draws its first ten trials at random.
STARTUP = 10
# Falkner et al. (2018): one trial of three is random, and a resource has enough observations from d + 3 on.
RANDOM_SHARE = 1 / 3
MORE_THAN_PARAMETERS = 3
# A model looks at so many observations at most; Optuna's time for a proposal grows with them.
MOST_OBSERVED = 250
# Optuna takes the best tenth of the observations, but at most 25, for good; so these are kept, and the newest others.
KEPT_BEST = 25
# With no more of those that have no error than this for each that has one, the best tenth has errors.
BAD_FOR_EACH_GOOD = 9
# A model is made anew when one result of sixteen is new, so that a long search makes a hundred or two.
RENEWED = 16


class Seen(NamedTuple):
    """A result that a proposal may look at.

    Attributes:
        number: of the trial.
        params: its setting, in the space that is asked for.
        resource: after how much training, in the objective's unit.
        loss: what is compared, the lower the better; None where the trial diverged or failed.
    """

    number: int
    params: Mapping[str, Any]
    resource: int
    loss: float | None


@dataclass(frozen=True)
class Asked:
    """What a proposal is made of, in plain values. It may depend on nothing else.

    Attributes:
        space: the parameters to be chosen; those that the search holds at a value are not among them.
        seed: the search's.
        number: of the trial that needs a setting.
        history: the results that the trial sees, in the order in which they come on paper; one of each rung that a
            trial has reached. Empty for a sampler that does not wait.
        resources: where trials are compared, rising: the ends of the rungs, the last of which is R.
        overtaken: of each of `resources`, the numbers of the trials in `history` that were not promoted to it, where
            others were.
        start: trials of an earlier search that this one starts from, older than all of `history`.
    """

    space: Space
    seed: int
    number: int
    history: tuple[Seen, ...] = ()
    resources: tuple[int, ...] = ()
    overtaken: Mapping[int, Sequence[int]] = field(default_factory=dict)
    start: tuple[PastTrial, ...] = ()

    def __post_init__(self) -> None:
        # Nobody adds to a tuple, so what was made of one may be kept with it.
        for name in ("history", "resources", "start"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


class Sampler(Protocol):
    """What proposes settings; `stantune.testing.check_sampler` tries whether one does all that is asked of it here.

    A proposal is a pure function of what was asked: not of what was asked before, of the time, or of a generator that
    goes on. Then one seed gives one result for any number of workers and kills. A sampler may remember what saves time.
    """

    @property
    def name(self) -> str:
        """The name that the trial table knows it by."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its proposals depend on besides what is asked, in plain values: its own settings."""
        ...

    @property
    def waits(self) -> bool:
        """Whether it looks at results. If not, no trial ever waits for one."""
        ...

    def propose(self, asked: Asked) -> Mapping[str, Any]:
        """Return a value for each parameter that exists in the setting."""
        ...


class RandomSampler:
    """Draws each setting at random, as Hyperband's paper does."""

    name = "random"
    identity: Mapping[str, Any] = {}
    waits = False

    def propose(self, asked: Asked) -> Mapping[str, Any]:
        """See Sampler."""
        return sample(asked.space, asked.seed, asked.number)


class _Observed(NamedTuple):
    """A setting as a model sees it; an infinite error is the worst."""

    params: Mapping[str, Any]
    error: float


class _ModelSampler:
    """Draws from a model of the results, which is made once for the proposals that see the same ones."""

    identity: Mapping[str, Any] = {}
    waits = True

    def __init__(self) -> None:
        # What the model was made of, and the model; None where there are too few results for one.
        self._made: tuple[tuple[object, ...], Model | None] = ((), None)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model behind, which is made again."""
        return {"_made": ((), None)}

    def renewed(self, results: int) -> int:
        """Return how many of the first `results` results a proposal looks at."""
        return results - results % max(1, results // RENEWED)

    def propose(self, asked: Asked) -> Mapping[str, Any]:
        """See Sampler."""
        of = (asked.space, asked.history, asked.resources, asked.overtaken, asked.start)
        # Once: searches in other threads may have the same sampler.
        made, model = self._made
        # By what they are, not by what is in them: to compare a long history takes longer than a proposal.
        if len(made) != len(of) or any(a is not b for a, b in zip(made, of, strict=True)):
            observed = self._observed(asked)
            sound = _sound(observed or [])
            model = Model(asked.space, _fewer(sound)) if sound else None
            self._made = of, model
        if model is None:
            return sample(asked.space, asked.seed, asked.number)
        return model.sample(asked.seed, asked.number)

    def _observed(self, asked: Asked) -> list[_Observed] | None:
        """Return what a model is made of, oldest first; None where the results are too few."""
        raise NotImplementedError


class TpeSampler(_ModelSampler):
    """Optuna's multivariate TPE."""

    name = "tpe"

    def _observed(self, asked: Asked) -> list[_Observed] | None:
        """Each trial once, by its error at the most training, as the search ranks them; one that diverged last."""
        errors: dict[int, _Observed] = {}
        for number, params, _, loss in asked.history:
            # Taken out first, so that the newest result comes last.
            errors.pop(number, None)
            errors[number] = _of(params, loss)
        observed = [_Observed(trial.params, trial.worth) for trial in asked.start] + list(errors.values())
        return observed if len(observed) >= STARTUP else None


class BohbSampler(_ModelSampler):
    """Model-based Hyperband in the manner of BOHB (Falkner et al., 2018), with Optuna's multivariate TPE."""

    name = "bohb"

    def propose(self, asked: Asked) -> Mapping[str, Any]:
        """See Sampler."""
        if random.Random(derive("share", asked.seed, asked.number)).random() < RANDOM_SHARE:
            return sample(asked.space, asked.seed, asked.number)
        return super().propose(asked)

    def _observed(self, asked: Asked) -> list[_Observed] | None:
        """Return the results at the largest number of iterations at which enough trials have an error.

        Ours are two additions. Who was not promoted that far counts as worse than all who were: among the promoted
        alone, of whom most are good, a model learns little of where the bad ones are. And an earlier search's result
        counts for the most iterations of this search that are not more than its own.
        """
        past: dict[int, list[_Observed]] = {resource: [] for resource in asked.resources}
        for trial in asked.start:
            counted = {_counts_for(at, asked.resources): error for at, error in trial.results.items()}
            for resource, error in counted.items():
                if resource:
                    past[resource].append(_of(trial.params, error))
        enough = len(asked.space) + MORE_THAN_PARAMETERS
        for resource in reversed(asked.resources):
            there = {seen.number: _of(seen.params, seen.loss) for seen in asked.history if seen.resource == resource}
            found = past[resource] + list(there.values())
            if sum(math.isfinite(observed.error) for observed in found) >= enough:
                params = {seen.number: seen.params for seen in asked.history}
                return [_of(params[number], None) for number in asked.overtaken.get(resource, ())] + found
        return None


# Their state is in the study's trials, where they find none: each proposal would be their first.
_STUDY_BOUND = ("CmaEsSampler", "GridSampler", "NSGAIISampler", "NSGAIIISampler", "QMCSampler")


class OptunaSampler:
    """Asks a sampler of Optuna: `OptunaSampler(lambda seed: optuna.samplers.GPSampler(seed=seed))`.

    For each proposal a study is made of the results that are seen, and a new sampler is asked, with a seed that
    depends on the search's and on the trial's number. In the study a trial that is seen is complete; its value is its
    loss at the most training it has had, and its losses before are its intermediate values. One that diverged or failed
    has the worst loss that any has. Trials of an earlier search come first.
    """

    waits = True

    def __init__(
        self,
        make: Callable[[int], optuna.samplers.BaseSampler],
        name: str | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a function that makes the sampler from a seed.

        Args:
            make: returns a new sampler; it must seed it with what it is given.
            name: in the trial table; "optuna:" and the sampler's class where None.
            identity: settings of the sampler that a search depends on, in plain values. Only you can know them.

        Raises:
            UsageError: it makes no sampler of Optuna, or one that must see all its own proposals come back.
        """
        if callable(make):
            function("make", make, ("seed",))
        made = make(0) if callable(make) else make
        kind = type(made).__name__
        if not isinstance(made, optuna.samplers.BaseSampler) or not callable(make):
            raise UsageError(
                "OptunaSampler takes a function that makes a sampler of Optuna from a seed, such as "
                f"`lambda seed: optuna.samplers.TPESampler(seed=seed)`, but it got or made a {kind}"
            )
        if kind in _STUDY_BOUND:
            raise UsageError(
                f"Optuna's {kind} keeps its state in a study, which is made anew for each proposal here, so it would "
                "never learn: give another one, such as TPESampler or GPSampler"
            )
        self._make = make
        self.name = name or f"optuna:{kind}"
        self.identity: Mapping[str, Any] = dict(identity or {})

    def propose(self, asked: Asked) -> Mapping[str, Any]:
        """See Sampler."""
        made = self._make(derive("optuna", asked.seed, asked.number) % 2**32)
        with optuna_quiet():
            study = optuna.create_study(sampler=made)
        study.add_trials(_as_trials(asked))
        trial, setting = study.ask(), dict[str, Any]()
        while fresh := [name for name in asked.space.active(setting) if name not in setting]:
            setting |= within(asked.space, {name: _suggest(trial, name, asked.space) for name in fresh})
        return asked.space.check(setting, complete=True)


BuiltIn: TypeAlias = RandomSampler | TpeSampler | BohbSampler
_BUILT_IN: Mapping[str, Callable[[], BuiltIn]] = {
    "random": RandomSampler,
    "tpe": TpeSampler,
    "bohb": BohbSampler,
}
SAMPLERS = tuple(_BUILT_IN)


def sampler_of(sampler: str | Sampler) -> Sampler:
    """Return the built-in sampler of that name, or a user's as it is.

    Raises:
        UsageError: there is none of that name, or the object lacks something that a sampler has.
    """
    if isinstance(sampler, str):
        if sampler not in _BUILT_IN:
            close = difflib.get_close_matches(sampler.lower(), SAMPLERS, n=1)
            raise UsageError(
                f"`sampler`={shown(sampler)} is unknown; give {' or '.join(SAMPLERS)}, or an object that proposes "
                "settings"
                f"{f'; the nearest is {close[0]}' if close else ''}"
            )
        return _BUILT_IN[sampler]()
    kind = type(sampler).__name__
    if isinstance(sampler, type):
        raise UsageError(f"`sampler` is the class {sampler.__name__}; give an object, {sampler.__name__}()")
    if isinstance(sampler, optuna.samplers.BaseSampler):
        raise UsageError(
            f"`sampler` is Optuna's {kind}, which goes on from proposal to proposal; give "
            f"OptunaSampler(lambda seed: {kind}(seed=seed))"
        )
    lacks = _lack_of(sampler)
    if lacks:
        raise UsageError(f"`sampler` is a {kind}, which {lacks}; see stantune.search.propose.sampler.Sampler")
    if sampler.name in _BUILT_IN and type(sampler) is not _BUILT_IN[sampler.name]:
        raise UsageError(f"the sampler {kind} is named {sampler.name!r}, as one of ours is; give it another name")
    return sampler


def _lack_of(sampler: object) -> str:
    """Say what an object lacks that a sampler has; "" where it lacks nothing."""
    if not callable(getattr(sampler, "propose", None)):
        return "has no method `propose(asked)`"
    name = getattr(sampler, "name", None)
    if not isinstance(name, str) or not name:
        return "has no `name`, a text that tells it from others"
    if not isinstance(getattr(sampler, "waits", None), bool):
        return "has no `waits`, true or false: whether it looks at results"
    identity = getattr(sampler, "identity", None)
    try:
        if isinstance(identity, Mapping) and _plain(dict(identity)):
            return ""
    except (TypeError, ValueError):
        pass
    return "has no `identity`, a dict of plain values that its proposals depend on; {} where they depend on none"


def _plain(identity: dict[str, Any]) -> bool:
    return all(isinstance(key, str) for key in identity) and bool(json.dumps(identity, allow_nan=False))


def _as_trials(asked: Asked) -> list[FrozenTrial]:
    """Return what is seen as Optuna's trials, in the order in which each has had its last result."""
    results = [(trial.params, dict(trial.results)) for trial in asked.start if trial.results]
    history: dict[int, tuple[Mapping[str, Any], dict[int, float | None]]] = {}
    for number, params, resource, loss in asked.history:
        _, before = history.pop(number, (params, {}))
        history[number] = params, {**before, resource: loss}
    results += history.values()
    losses = [loss for _, of in results for loss in of.values() if loss is not None and math.isfinite(loss)]
    if not losses:
        # Of nothing but lost trials no model is made; that they are alike says nothing of where the good ones are.
        return []
    distributions = {name: to_distribution(parameter) for name, parameter in asked.space.items()}
    trials = []
    for params, of in results:
        there = {resource: loss for resource, loss in of.items() if loss is not None and math.isfinite(loss)}
        lost = len(there) < len(of)
        trials.append(
            create_trial(
                state=TrialState.COMPLETE,
                params=to_optuna(params),
                distributions={name: distributions[name] for name in params},
                value=max(losses) if lost else there[max(there)],
                intermediate_values=there,
            )
        )
    return trials


def _suggest(trial: optuna.Trial, name: str, space: Space) -> Any:
    distribution = to_distribution(space[name])
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
        )
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
        )
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)


def _counts_for(iterations: int, resources: Sequence[int]) -> int:
    """Return the largest of a search's resources that is not more than these iterations; 0 where all are more."""
    return max((resource for resource in resources if resource <= iterations), default=0)


def _of(params: Mapping[str, Any], error: float | None) -> _Observed:
    return _Observed(params, math.inf if error is None else error)


def _sound(observed: list[_Observed]) -> list[_Observed]:
    """Return observations, in their order, of which the best tenth, from which TPE learns what is good, has errors.

    Of those without, the newest are kept; where none has an error there is nothing to learn.
    """
    lost = [place for place, each in enumerate(observed) if not math.isfinite(each.error)]
    most = BAD_FOR_EACH_GOOD * (len(observed) - len(lost))
    left_out = set(lost[: max(len(lost) - most, 0)])
    return [each for place, each in enumerate(observed) if place not in left_out]


def _fewer(observed: list[_Observed]) -> list[_Observed]:
    """Return at most MOST_OBSERVED observations, in their order: the best, and of the others the newest."""
    if len(observed) <= MOST_OBSERVED:
        return observed
    ranked = sorted(range(len(observed)), key=lambda place: (observed[place].error, place))
    newest = sorted(ranked[KEPT_BEST:])[KEPT_BEST - MOST_OBSERVED :]
    return [observed[place] for place in sorted((*ranked[:KEPT_BEST], *newest))]
