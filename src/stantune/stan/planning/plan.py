"""Which layer gets which patterns, and what that brings: from the times of the layers and the speed-up equation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from stantune.errors import UsageError
from stantune.stan.config import LayerPlan, Stan
from stantune.stan.entries.choice import Choice, cheapest
from stantune.stan.entries.entries import PATTERNS
from stantune.stan.planning.cost import IterationTimes, pays, speedup
from stantune.stan.planning.example import Example, Loss
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes, measure

# The Z that the planner chooses from; the smallest one that comes near the best keeps E fresh.
CYCLES = (1, 2, 4, 9, 19, 49, 99)
NEAR_BEST = 0.9
# A pattern must save this share of the layer's exact time. Below it lies the noise of the timing, and a layer that
# skips half of its work or more and saves less than this gives away accuracy for next to nothing.
WORTHWHILE = 0.25
# What all of it must bring, as a factor on the speed with every entry computed: for less no accuracy is given away.
# And what native kernels must bring against stock PyTorch: for less, timings being what they are, it might be a loss.
GAIN = 1.05


@dataclass(frozen=True)
class Plan:
    """What the planner measured and decided.

    Timings are not reproducible, so a plan is data: where a run is to be repeated or resumed, or shared by several
    processes, `stan` is stored and used again instead of planning anew.

    Attributes:
        stan: the settings in numbers: for rate="auto" its `plan`, `period`, `tolerance` and `rate` are the planner's.
        times: of whole iterations and of every convolution.
        predicted_speedup: of the whole run; None where nothing predicts it (memo fill, meProp, a rate that
            changes).
        reasons: why layers are left alone, by name, with the figures.
    """

    stan: Stan
    times: ModelTimes
    predicted_speedup: float | None
    reasons: Mapping[str, str]


def plan_for(
    model: nn.Module,
    stan: Stan,
    example: Example,
    *,
    loss: Loss | None = None,
    iterations: int | None = None,
    budget: float = 3.0,
) -> Plan:
    """Time the model's layers here and now, decide what rate="auto" leaves open, and predict the run's speed-up.

    The model is left as it was. The prediction is that of forward and backward pass alone, as in the source.

    Args:
        model: not accelerated.
        stan: the settings; where the rate is a number they stay as they are and only the speed-up is predicted.
        example: what the model is called with in a training iteration.
        loss: of what it returns, see `timing.measure`.
        iterations: N; by default `stan.iterations`, and a long run where that is None too.
        budget: seconds, see `timing.measure`.

    Raises:
        UsageError: an example that the model cannot be trained on.
    """
    times = measure(model, stan.layers, example, loss=loss, native=stan.native, budget=budget)
    return decide(fitted(times), stan, iterations)


def fitted(times: ModelTimes) -> ModelTimes:
    """Return the times with layers that together take no longer than the iteration that they are part of.

    Timed one by one, the layers of a small network seem to: each finds the caches cold, and the clock's own time is in
    each.
    """
    together = sum(layer.exact for layer in times.layers)
    if together <= times.exact_seconds:
        return times
    share = times.exact_seconds / together
    return times._replace(
        layers=tuple(
            layer._replace(
                t_f=layer.t_f * share,
                t_b=layer.t_b * share,
                patterns=tuple(each._replace(t_i=each.t_i * share, t_j=each.t_j * share) for each in layer.patterns),
            )
            for layer in times.layers
        )
    )


def decide(times: ModelTimes, stan: Stan, iterations: int | None = None) -> Plan:
    """Return the plan that follows from measured times: a pure function.

    For rate="auto" each layer keeps as candidates the patterns that save at least WORTHWHILE of its exact time and more
    than every pattern that computes more entries; Z is the smallest of CYCLES that reaches NEAR_BEST of the best
    speed-up; layers of which a cycle then costs more than it saves are left alone (the source's break-even), and all of
    them where they do not bring GAIN together. Where a run would then not be GAIN times as fast as with stock PyTorch,
    native kernels are left out, too, and the model stays what it was.

    Args:
        times: of `measure`, with the same or more layers than `stan` has.
        stan: the settings.
        iterations: N; by default `stan.iterations`, and a long run where that is None too.

    Raises:
        UsageError: a whole iteration takes no longer than what its layers save, so that it was measured wrongly.
    """
    iterations = stan.iterations if iterations is None else iterations
    if stan.rate != "auto":
        reasons = {layer.name: layer.reason for layer in times.layers if layer.reason}
        return Plan(stan, times, predict(times, stan, iterations), reasons)
    reasons = {}
    kept: dict[str, tuple[PatternTimes, ...]] = {}
    for layer in times.layers:
        candidates = _worthwhile(layer)
        if layer.reason:
            reasons[layer.name] = layer.reason
        elif not _wanted(layer, stan):
            reasons[layer.name] = f"not among layers={', '.join(stan.layers)}"
        elif not candidates:
            reasons[layer.name] = _too_little(layer)
        else:
            kept[layer.name] = candidates
    period = _period(times, stan, kept, iterations)
    for layer in times.layers:
        if layer.name in kept:
            best = max(kept[layer.name], key=lambda candidate: candidate.saved)
            t_e = _measuring(layer, kept[layer.name])
            if not pays(period, best.t_i, best.t_j, t_e):
                del kept[layer.name]
                reasons[layer.name] = (
                    f"saves {_ms(best.saved)} in each of {period} reduced iterations, and a refresh costs {_ms(t_e)}"
                )
    concrete = _concrete(stan, kept, period)
    return _settled(Plan(concrete, times, predict(times, concrete, iterations), reasons))


def checked(plan: Plan, refresh: float, reduced: float, iterations: int | None = None) -> Plan:
    """Return a plan with what its whole iterations really take, and without what then does not pay: a pure function.

    Layers are timed one by one. Where an iteration is short, what goes on between them counts, too.

    Args:
        plan: of `decide`, for rate="auto", with layers to reduce.
        refresh: seconds of an iteration that chooses entries.
        reduced: seconds of one that computes no others.
        iterations: N; by default the settings', and a long run where that is None too.
    """
    times, stan = plan.times, plan.stan
    cycle = IterationTimes(
        times.exact_seconds, max(refresh - times.exact_seconds, 0.0), times.exact_seconds - reduced, 0.0
    )
    run = speedup(cycle, stan.schedule, stan.iterations if iterations is None else iterations)
    return _settled(replace(plan, predicted_speedup=run * times.step_seconds / times.exact_seconds))


def _settled(plan: Plan) -> Plan:
    """Return a plan without reduced layers that do not bring GAIN, and without native ones that do not."""
    stan, times, predicted, reasons = plan.stan, plan.times, plan.predicted_speedup, dict(plan.reasons)
    if predicted is None:
        return plan
    exactly = times.step_seconds / times.exact_seconds
    if stan.plan and predicted < GAIN * exactly:
        gain = _shown(predicted / exactly)
        together = (
            f"of all layers together, a run would be {gain} times as fast as with every entry, and {GAIN} is asked"
        )
        off = _too_far_off(times, stan)
        reasons |= {line.layer: off.get(line.layer, together) for line in stan.plan}
        stan, predicted = replace(stan, rate=1.0, plan=()), exactly
    if times.native_seconds is not None and predicted < GAIN:
        hardly = f"a run would be {_shown(predicted)} times as fast as with stock PyTorch, and {GAIN} is asked"
        reasons |= {layer.name: hardly for layer in times.layers if not layer.reason and _wanted(layer, stan)}
        stan, predicted = replace(stan, rate=1.0, plan=(), native=False), 1.0
    return Plan(stan, times, predicted, reasons)


def _too_far_off(times: ModelTimes, stan: Stan) -> dict[str, str]:
    """Return of the layers that would now compute every entry, because each fill is too far off, that they would."""
    found = {}
    for layer in times.layers:
        candidates = layer.among(stan.patterns_of(layer.name)) if stan.chooses and _wanted(layer, stan) else ()
        least = min((candidate.error for candidate in candidates), default=0.0)
        if least > stan.allowed_error:
            found[layer.name] = f"its fill would be {least:.2f} off, and {stan.allowed_error:g} is allowed"
    return found


def _shown(factor: float) -> str:
    """Return a factor that is too small as text, never rounded up to what is asked."""
    return f"{min(factor, GAIN - 0.01):.2f}"


def predict(
    times: ModelTimes, stan: Stan, iterations: int | None = None, history: Sequence[Choice] = ()
) -> float | None:
    """Return the speed-up of a whole run under concrete settings.

    None for memo fill and meProp, which are not timed, and for a rate that changes in the course of the run.

    Where a layer draws its pattern, their mean counts. Where it chooses at each refresh, the mean over what it chose in
    `history`; where that says nothing of the layer, the choice that it would have made when it was measured. Choices
    change as the weights do, so that a prediction without a history is only as good as these few first iterations.

    Args:
        times: of `measure`, with the same or more layers than `stan` has.
        stan: the settings, with a numeric rate.
        iterations: N; by default `stan.iterations`, and a long run where that is None too.
        history: of the handle of a run, or of a part of it.

    Raises:
        UsageError: a whole iteration takes no longer than what its layers save, so that it was measured wrongly.
    """
    if stan.memo is not None or stan.meprop is not None or stan.rates:
        return None
    t_e = t_i = t_j = 0.0
    for layer in times.layers:
        if not _wanted(layer, stan):
            continue
        candidates = layer.among(stan.patterns_of(layer.name))
        drawn: Sequence[PatternTimes | None] = candidates
        if stan.chooses:
            t_e += _measuring(layer, candidates)
            drawn = _chosen(candidates, stan.allowed_error, [past for past in history if past.layer == layer.name])
        for candidate in drawn:
            if candidate is not None:
                t_i += candidate.t_i / len(drawn)
                t_j += candidate.t_j / len(drawn)
    iterations = stan.iterations if iterations is None else iterations
    try:
        saving = speedup(IterationTimes(times.exact_seconds, t_e, t_i, t_j), stan.schedule, iterations)
        # Under STAN exact iterations, too, are another matter than without it: native.
        return saving * times.step_seconds / times.exact_seconds
    except ValueError as error:
        raise UsageError(
            f"exact_seconds={times.exact_seconds} does not fit the times of the layers: {error}"
        ) from error


def _wanted(layer: LayerTimes, stan: Stan) -> bool:
    return any(fnmatchcase(layer.name, pattern) for pattern in stan.layers)


def _worthwhile(layer: LayerTimes) -> tuple[PatternTimes, ...]:
    """Return the candidates that save enough, and more than each one that computes more entries and errs less."""
    return tuple(
        candidate
        for candidate in layer.patterns
        if candidate.saved >= WORTHWHILE * layer.exact
        and candidate.saved > 0
        and all(
            candidate.saved > other.saved
            for other in layer.patterns
            if PATTERNS[other.name].rate > PATTERNS[candidate.name].rate
        )
    )


def _too_little(layer: LayerTimes) -> str:
    best = max(layer.patterns, key=lambda candidate: candidate.saved)
    return (
        f"saves {_ms(best.saved)} of {_ms(layer.exact)} a reduced iteration at best ({best.name}), less than "
        f"{WORTHWHILE:.0%}"
    )


def _period(times: ModelTimes, stan: Stan, kept: Mapping[str, tuple[PatternTimes, ...]], iterations: int | None) -> int:
    """Return Z, as if every layer always took its fastest candidate."""
    best = [max(candidates, key=lambda candidate: candidate.saved) for candidates in kept.values()]
    t_e = sum(_measuring(layer, kept[layer.name]) for layer in times.layers if layer.name in kept)
    one = IterationTimes(
        times.exact_seconds, t_e, sum(candidate.t_i for candidate in best), sum(candidate.t_j for candidate in best)
    )
    try:
        reached = {period: speedup(one, replace(stan, period=period).schedule, iterations) for period in CYCLES}
    except ValueError as error:
        raise UsageError(
            f"exact_seconds={times.exact_seconds} does not fit the times of the layers: {error}"
        ) from error
    return next(period for period in CYCLES if reached[period] >= NEAR_BEST * max(reached.values()))


def _concrete(stan: Stan, kept: Mapping[str, Sequence[PatternTimes]], period: int) -> Stan:
    plan = tuple(LayerPlan(name, tuple(candidate.name for candidate in kept[name])) for name in kept)
    rates = [PATTERNS[candidate.name].rate for candidates in kept.values() for candidate in candidates]
    return replace(stan, rate=min(rates, default=1.0), tolerance=stan.allowed_error, period=period, plan=plan)


def _measuring(layer: LayerTimes, candidates: Sequence[PatternTimes]) -> float:
    """Return t_e of some of a layer's patterns: each takes about as long."""
    return layer.t_e * len(candidates) / len(layer.patterns) if layer.patterns else 0.0


def _chosen(candidates: Sequence[PatternTimes], allowed: float, history: Sequence[Choice]) -> list[PatternTimes | None]:
    """Return what a layer chose at each refresh, None for all entries, or else the one thing it would choose now."""
    of = {PATTERNS[candidate.name]: candidate for candidate in candidates}
    chosen = [past.pattern for past in history]
    if not chosen:
        chosen = [cheapest({pattern: candidate.error for pattern, candidate in of.items()}, allowed)]
    return [None if pattern is None else of.get(pattern) for pattern in chosen]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
