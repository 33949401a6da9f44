"""What is to be known of a search besides its numbers: a sentence each, with what to do."""

from __future__ import annotations

from collections.abc import Sequence

from stantune.protocols import Metric, compared_value
from stantune.search.plan.hyperband import Bracket
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState

# A final training is clearly worse than its trial by so large a part of the error, and by so much at least where the
# metric is a share: a hundredth, or a point of a hundred.
_CLEARLY = 0.1
_LEAST = 0.01


def notes_of(settings: SearchSettings, state: SearchState, unit: str) -> list[str]:
    """Return all that is to be known of what a search has come to; parameters are in backticks."""
    notes = (
        one_setting(settings, state.plan),
        without_winner(state, unit),
        None if state.winner is None else _worse_than_its_trial(state, state.winner, unit),
    )
    return [note for note in notes if note is not None]


def one_setting(settings: SearchSettings, plan: Sequence[Bracket]) -> str | None:
    """Say that a plan tries a single setting, so that nothing is searched; None where it tries several."""
    if sum(bracket.rungs[0].trials for bracket in plan) > 1:
        return None
    whole, least, eta = settings.max_resource, settings.min_resource, settings.eta
    begin = "one setting is all that this search tries, "
    if whole < eta:
        return f"{begin}since `max_resource`={whole} is below `eta`={eta}; give `max_resource`={eta} or more"
    return (
        f"{begin}since it has one rung: `min_resource`={least} times `eta`={eta} is more than `max_resource`={whole}; "
        f"give `min_resource`={whole // eta} or less"
    )


def without_winner(state: SearchState, unit: str) -> str | None:
    """Say why a search that is over has nobody trained to the end; None where it has, or is not over."""
    if not state.complete:
        return None
    final = state.final
    if final is not None and final.diverged_at is None:
        return None
    if final is not None:
        which = "every final training" if len(state.finals) > 1 else "the final training"
        return f"{which} diverged, that of the best setting at {unit} {final.iterations}; {_remedy(state)}"
    diverged = sum(row.diverged_at is not None for row in state.rows)
    failed = sum(row.failed is not None for row in state.rows)
    if not state.rows or diverged + failed < len(state.rows):
        return None
    what = f"every trial diverged, all {diverged} of them"
    if failed:
        what = f"every trial was lost: {diverged} diverged and {failed} failed"
    return (
        f"nothing was found, since {what}; narrow the space to settings that train (lower learning rates, mostly), or "
        "try one first that is known to (`enqueue`)"
    )


def _worse_than_its_trial(state: SearchState, rank: int, unit: str) -> str | None:
    """Say that the winner is clearly worse than its trial was, and how far seeds are apart; None where it is not."""
    metric, ranked = state.metric, state.contenders
    apart: dict[int, tuple[float, float]] = {}
    for of, final in sorted(state.finals.items()):
        came = compared_value(metric, final.metrics)
        if came is not None:
            apart[of] = metric.loss(ranked[of].error), came
    if rank not in apart or not _is_clearly_worse(metric, *apart[rank]):
        return None
    trial, final_value = apart[rank]
    said = (
        f"the final training came to {metric.name} {metric.text(final_value)}, clearly worse than the "
        f"{metric.text(trial)} of its trial {ranked[rank].number} after {ranked[rank].iterations} {unit}s: another "
        "seed, another result"
    )
    if len(apart) > 1:
        distances = ", ".join(metric.text(abs(before - after)) for before, after in apart.values())
        said += f" (the {len(apart)} final trainings are {distances} from their trials)"
    return f"{said}; {_remedy(state)}"


def _is_clearly_worse(metric: Metric, trial: float, final: float) -> bool:
    """Tell whether `final` is worse by a tenth of the trial's error.

    What is lacking to a share that is maximised is its error; of other metrics the value itself is taken.
    """
    whole = 100.0 if metric.unit == "%" else 1.0
    share = 0 <= trial <= whole and (metric.unit == "%" or metric.direction == "maximize")
    size = whole - trial if share and metric.direction == "maximize" else abs(trial)
    return metric.loss(final) - metric.loss(trial) > max(_CLEARLY * size, _LEAST * whole if share else 0.0)


def _remedy(state: SearchState) -> str:
    """Say what makes the end less of a chance."""
    settings = sum(not standing.surpassed for standing in state.contenders)
    more = min(max(2 * len(state.finals), 3), settings)
    if more > len(state.finals):
        return f"train more settings in the end (`finalists`={more}), or longer (`max_resource`)"
    return "search longer (`max_resource`), and more settings"
