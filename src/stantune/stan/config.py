"""Stan: what the user asks of the accelerator, in one object."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, NamedTuple

from stantune.arguments import MOST_SEED, names, number, one_of, shown, text, truth, whole
from stantune.errors import UsageError
from stantune.stan.entries.entries import PATTERNS, PLANE, ROUND, Pattern, choose_patterns
from stantune.stan.layers.meprop import MeProp
from stantune.stan.schedule import Schedule

# The course of a rate of "annealed": from which share of the run on, which rate (ours). An exact end wins back much of
# what sparing loses. benchmarks/trainings/annealing.py compares other courses.
ANNEALED = ((Fraction(0), 0.25), (Fraction(1, 3), 0.5), (Fraction(2, 3), 1.0))
# What a layer may lose in a reduced iteration where the rate is "auto": ||Y - fill(Y)|| / ||Y|| (ours).
AUTO_TOLERANCE = 0.5


@dataclass(frozen=True)
class Memo:
    """Settings of the memo fill: a skipped entry receives what it had when its sample last passed (ours).

    Attributes:
        samples: how many samples there are; their ids are 0 … samples - 1.
        epoch: iterations in an epoch; cycles are counted in epochs.
        budget: bytes that may be held, None for half of the memory that is free, which differs from time to time: a
            search wants a number.
        dtype: "bf16" or "fp32": how values are kept.
        positions: "grid": the pattern's drawn grid; "changed": of each sample the entries that changed most between its
            last two visits.

    Raises:
        UsageError: a value outside its range.
    """

    samples: int
    epoch: int
    budget: int | None = None
    dtype: Literal["bf16", "fp32"] = "bf16"
    positions: Literal["grid", "changed"] = "grid"

    def __post_init__(self) -> None:
        for name in ("samples", "epoch", "budget"):
            if name != "budget" or self.budget is not None:
                object.__setattr__(self, name, whole(f"memo.{name}", getattr(self, name), 1))
        one_of("memo.dtype", self.dtype, ("bf16", "fp32"))
        one_of("memo.positions", self.positions, ("grid", "changed"))


@dataclass(frozen=True)
class LayerPlan:
    """What the planner decided for one layer: the names of the patterns that pay there; none leaves it alone."""

    layer: str
    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.patterns:
            if name not in PATTERNS:
                raise UsageError(f"the plan of layer {self.layer!r}: no pattern is called {name!r}")


class RateFrom(NamedTuple):
    """From iteration `start` on, reduced iterations compute the share `rate` of the entries."""

    start: int
    rate: float


@dataclass(frozen=True)
class Stan:
    """Settings of STAN.

    Attributes:
        rate: share of the entries that a reduced iteration computes: 1/2, 1/4, or 1 for all. "auto" measures the model
            on this machine and lets each layer choose anew at every refresh, under `tolerance`, among what pays there.
            "annealed" begins with 1/4, goes on with 1/2 and ends exactly, a third of `iterations` each, see ANNEALED.
            Pairs (start, rate) change it in the course of the run, each from its iteration on, the first from 0 on;
            they become a tuple of RateFrom.
        pattern: "rows" or "columns" (1/2), "blocks" (one of each 2x2, 1/4), or "auto": columns at 1/2, blocks at 1/4.
        period: Z, reduced iterations after each exact one (a refresh); None for no refresh. In epochs under `memo`.
        pretrain: p_t, exact iterations at the start.
        tail: exact iterations at the end of a run of `iterations`.
        iterations: N, length of the run; needed for a tail, and for "annealed" but where a Problem is trained: that is
            as long as its training.
        layers: names of the layers to accelerate, as shell patterns ("features.*"); every convolution by default.
        seed: of the grids' offsets.
        tolerance: at each refresh a layer takes its cheapest pattern, no cheaper than `rate`, whose relative error
            ||Y - fill(Y)|| / ||Y|| on the exact output Y is at most this, and computes all entries where none is
            (ours). None: the rate's patterns, always.
        memo: the memo fill instead of the neighbour fill.
        linear: names of nn.Linear layers that compute only some of their neurons too, as shell patterns (memo alone).
        meprop: meProp on the model's nn.Linear layers.
        plan: what the planner decided, layer by layer; layers that it does not name are left alone.
        offset_sets: how many sets of the layers' offsets the iterations draw from, a multiple of 4; None: each layer
            draws by itself. With few sets a deep network's steps can be recorded (`stan.graphs.GraphedStep`).
        native: whether batch norms, poolings, and convolutions that compute every entry are done by native kernels,
            too, where the rule of shapes and threads says that this pays. The planner says no where the whole model
            would be hardly faster for it.

    Raises:
        UsageError: a value outside its range, or two that contradict each other.
    """

    rate: float | Literal["auto", "annealed"] | Sequence[tuple[int, float]] = 0.5
    pattern: str = "auto"
    period: int | None = 1
    pretrain: int = 0
    tail: int = 0
    iterations: int | None = None
    layers: tuple[str, ...] = ("*",)
    seed: int = 0
    tolerance: float | None = None
    memo: Memo | None = None
    linear: tuple[str, ...] = ()
    meprop: MeProp | None = None
    plan: tuple[LayerPlan, ...] | None = None
    offset_sets: int | None = None
    native: bool = True

    def __post_init__(self) -> None:
        self._check_kinds()
        if isinstance(self.rate, str):
            if self.rate not in ("auto", "annealed"):
                raise UsageError(
                    f'rate={self.rate!r} is unknown; give a share of the entries, such as 0.5, or "auto", or "annealed"'
                )
            if self.pattern != "auto":
                raise UsageError(
                    f'pattern={self.pattern!r} is fixed, and rate="{self.rate}" chooses patterns; leave one out'
                )
        elif not isinstance(self.rate, float | int):
            object.__setattr__(self, "rate", _checked_rates(self.rate))
            for each in self.rates:
                choose_patterns(self.pattern, each.rate)
        else:
            choose_patterns(self.pattern, self.rate)
        if self.rate != "auto" and not isinstance(self.rate, float | int):
            for name in ("memo", "plan"):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"rate={_text(self.rate)} changes in the course of the run, and {name} is of one rate alone; "
                        f"leave out {name}, or give one rate"
                    )
        if self.tolerance is not None and self.tolerance <= 0:
            raise UsageError(f"tolerance={self.tolerance} is no relative error; give a number above 0, such as 0.3")
        if self.chooses and self.period is None:
            raise UsageError("patterns are chosen at a refresh, and period=None has none; give a number of iterations")
        if self.memo is not None and self.chooses:
            raise UsageError("the memo fill has a fixed rate; leave out memo, or rate='auto' and tolerance")
        if self.linear and self.memo is None:
            raise UsageError(
                f"linear={', '.join(self.linear)}: neurons have no neighbours to copy; give memo=Memo(...)"
            )
        if self.offset_sets is not None and (self.offset_sets < 1 or self.offset_sets % ROUND):
            raise UsageError(
                f"offset_sets={self.offset_sets} would not compute every position equally often; give a multiple of "
                f"{ROUND}, such as 16"
            )
        if self.iterations is not None and self.pretrain + self.tail > self.iterations:
            raise UsageError(
                f"pretrain={self.pretrain} and tail={self.tail} are more than iterations={self.iterations}; give less"
            )
        self.schedule  # noqa: B018  (its own checks, now and not in the first iteration)

    def _check_kinds(self) -> None:
        """Take each field as what it is for; raises UsageError where it is something else."""
        for name, least in (("period", 0), ("pretrain", 0), ("tail", 0), ("iterations", 0), ("offset_sets", 1)):
            value = getattr(self, name)
            if value is not None or name in ("pretrain", "tail"):
                object.__setattr__(self, name, whole(name, value, least))
        object.__setattr__(self, "seed", whole("seed", self.seed, most=MOST_SEED))
        object.__setattr__(self, "layers", names("layers", self.layers))
        object.__setattr__(self, "linear", names("linear", self.linear))
        if self.tolerance is not None:
            object.__setattr__(self, "tolerance", number("tolerance", self.tolerance))
        text("pattern", self.pattern)
        if isinstance(self.rate, bool):
            raise UsageError(f"`rate`={self.rate} is no number; give a share of the entries, such as 0.5")
        for name, kind in (("memo", Memo), ("meprop", MeProp)):
            if not isinstance(getattr(self, name), kind | None):
                raise UsageError(f"`{name}`={shown(getattr(self, name))} is no {kind.__name__}; give one, or None")
        truth("native", self.native)
        if self.plan is not None and not (
            isinstance(self.plan, tuple) and all(isinstance(line, LayerPlan) for line in self.plan)
        ):
            raise UsageError(f"`plan`={shown(self.plan)} is no tuple of LayerPlan; leave it to the planner")

    @cached_property
    def rates(self) -> tuple[RateFrom, ...]:
        """The rates of the run's stretches, none where one rate holds throughout.

        And none of "annealed" while nobody has said how many iterations there will be.
        """
        if self.rate == "annealed":
            return () if self.iterations is None else annealed(self.iterations)
        return () if isinstance(self.rate, float | int | str) else tuple(RateFrom(*each) for each in self.rate)

    @property
    def least_rate(self) -> float | Literal["auto"]:
        """The one rate, or the smallest of several."""
        if self.rate == "annealed":
            return min(rate for _, rate in ANNEALED)
        return self.rate if isinstance(self.rate, float | int | str) else min(rate for _, rate in self.rate)

    def rate_at(self, iteration: int) -> float | Literal["auto"]:
        """Return the rate that holds in this iteration."""
        return next((each.rate for each in reversed(self.rates) if each.start <= iteration), self.least_rate)

    @property
    def inexact(self) -> str | None:
        """Say why trainings are no exact ones at a rate of 1 either; None where they are."""
        if self.meprop is None or not self.meprop.top_k:
            return None
        return f"meProp keeps {self.meprop.top_k} components of each gradient"

    @property
    def spares_nothing(self) -> bool:
        """Tell whether every entry of every layer is computed in all iterations."""
        return self.least_rate == 1 and self.memo is None and self.inexact is None

    @property
    def chooses(self) -> bool:
        """Tell whether each layer chooses its pattern anew at every refresh."""
        return self.rate == "auto" or self.tolerance is not None

    @property
    def allowed_error(self) -> float:
        """The relative error that a chosen pattern may have."""
        return AUTO_TOLERANCE if self.tolerance is None else self.tolerance

    @cached_property
    def schedule(self) -> Schedule:
        """The phases of the run's iterations."""
        unit = 1 if self.memo is None else self.memo.epoch
        return Schedule(self.pretrain, self.period, self.tail, self.iterations, unit)

    @property
    def identity(self) -> dict[str, Any]:
        """All settings as plain values, to know again what a file was made with.

        What came later than the first files is named only where it is set, so that those are known again, too.
        """
        settings = asdict(self)
        if self.offset_sets is None:
            del settings["offset_sets"]
        if self.native:
            del settings["native"]
        if self.meprop is not None:
            settings["meprop"] = self.meprop.identity
        if self.rates:
            settings |= {"rate": self.least_rate, "rates": [list(each) for each in self.rates]}
        return settings

    @property
    def planned(self) -> dict[str, Any] | None:
        """What the planner decided, as plain values to be stored; None without a plan. See `with_plan`."""
        if self.plan is None:
            return None
        plan = {line.layer: list(line.patterns) for line in self.plan}
        return {"rate": self.rate, "period": self.period, "plan": plan} | ({} if self.native else {"native": False})

    def with_plan(self, planned: Mapping[str, Any]) -> Stan:
        """Return these settings with what was decided before: with another run's `planned`.

        A plan as pairs of a layer and its patterns, as the callbacks once kept it, is read too.
        """
        plan = tuple(LayerPlan(layer, tuple(patterns)) for layer, patterns in dict(planned["plan"]).items())
        return replace(
            self,
            rate=planned["rate"],
            period=planned["period"],
            tolerance=self.allowed_error,
            plan=plan,
            native=bool(planned.get("native", self.native)),
        )

    def patterns_of(self, layer: str, rate: float | Literal["auto"] | None = None) -> tuple[Pattern, ...]:
        """Return the patterns that the layer of this name may use; none where it computes every entry.

        A fixed rate draws from them, a tolerance chooses one of them.

        Args:
            layer: its name.
            rate: one of the run's; None for what it may use under any of them.
        """
        if rate is None:
            rates = dict.fromkeys(each.rate for each in self.rates) or (self.least_rate,)
            return tuple(dict.fromkeys(pattern for each in rates for pattern in self.patterns_of(layer, each)))
        names = tuple(PLANE)
        if self.plan is not None:
            names = next((line.patterns for line in self.plan if line.layer == layer), ())
        if rate == "auto":
            return tuple(PATTERNS[name] for name in names)
        if self.tolerance is not None and self.pattern == "auto":
            return tuple(PATTERNS[name] for name in names if rate <= PATTERNS[name].rate < 1)
        wanted = choose_patterns(self.pattern, rate)
        return tuple(pattern for pattern in wanted if pattern in {PATTERNS[name] for name in names})


def annealed(iterations: int) -> tuple[RateFrom, ...]:
    """Return the rates of ANNEALED in a run of so many iterations; a stretch that would have none is left out."""
    starts = {math.ceil(share * iterations): rate for share, rate in ANNEALED}
    return tuple(RateFrom(start, rate) for start, rate in starts.items())


def _checked_rates(rates: Sequence[tuple[int, float]]) -> tuple[RateFrom, ...]:
    """Return the rates of a run's stretches; raises UsageError where they are none."""
    remedy = "give pairs of an iteration and a rate, the first from 0 on, such as ((0, 0.25), (1000, 1.0))"
    try:
        checked = tuple(RateFrom(whole("start", start), float(number("rate", rate))) for start, rate in rates)
    except Exception:  # of what is no pair of numbers; a tensor or an object of the user's own may raise anything
        raise UsageError(f"rate={shown(rates)} is no course of a rate; {remedy}") from None
    starts = [each.start for each in checked]
    if not starts or starts[0] or starts != sorted(set(starts)):
        raise UsageError(f"rate={_text(checked)} does not begin at iteration 0 and ascend; {remedy}")
    return checked


def _text(rates: str | Sequence[tuple[int, float]]) -> str:
    if isinstance(rates, str):
        return f'"{rates}"'
    return f"({', '.join(f'({start}, {rate:g})' for start, rate in rates)})"
