"""What a search's table says in its own terms, in those of people: names, notes in Markdown, a trial's end in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stantune.outcome import Cost
from stantune.search.plan.finals import best_weights_of, weights_of
from stantune.search.plan.values import FinalResult
from stantune.search.table.attributes import BRACKET, COST, DIVERGED_AT, END, FAILURES, FINAL, METRICS, STARTED_FROM
from stantune.texts import brief

# Of the identity, what is said otherwise, or says nothing to people.
_NOT_SETTINGS = ("problem", "space", "code", "made-of", "metric", "direction", "unit")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~<>&$#])")


def study_title(identity: Mapping[str, Any], metric: str) -> str:
    """Return what is searched and how, in a line: "lenet, validation error, up to 600 iterations, seed 0"."""
    parts = [brief(identity.get("problem", "")), brief(metric)]
    if "max-iterations" in identity:
        parts.append(f"up to {brief(identity['max-iterations'])} {unit_of(identity)}s")
    if "seed" in identity:
        parts.append(f"seed {brief(identity['seed'])}")
    return ", ".join(part for part in parts if part)


def study_note(identity: Mapping[str, Any], attributes: Mapping[str, Any], metric: str) -> str:
    """Return a search's settings, its space and what its final trainings came to, in Markdown.

    Args:
        identity: the search's.
        attributes: the study's, among them the final trainings.
        metric: what trials are compared by.
    """
    settings = [
        (name, value) for name, value in sorted(_leaves(identity)) if name.partition(".")[0] not in _NOT_SETTINGS
    ]
    space = identity.get("space", {})
    parameters = [(name, _words(parameter)) for name, parameter in space.items()]
    return "\n\n".join(
        [
            f"# {_plain(identity.get('problem', ''))}",
            f"Trials are compared by their {_plain(metric)}.",
            *_finals(attributes, unit_of(identity)),
            *_table("Settings", ("setting", "value"), settings),
            *_table("Space", ("parameter", "values"), parameters),
        ]
    )


def trial_attributes(attributes: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """Return what is to be said of a trial beside its values: how it ended, its bracket, its time, other metrics.

    Args:
        attributes: the trial's, as the table has them.
        unit: what its iterations are called.
    """
    told: dict[str, Any] = {}
    measured = {int(name.removeprefix(METRICS)): value for name, value in attributes.items() if _is_of(name, METRICS)}
    if measured:
        told |= measured[max(measured)]
    end, at = attributes.get(END), attributes.get(DIVERGED_AT)
    if at is not None:
        told["outcome"] = f"diverged at {unit} {at}"
    elif end is not None:
        told["outcome"] = end
    told["bracket"] = attributes[BRACKET]
    told["seconds"] = round(sum(_seconds(value) for name, value in attributes.items() if _is_of(name, COST)), 2)
    if attributes.get(FAILURES):
        told["failed attempts"] = len(attributes[FAILURES])
    if STARTED_FROM in attributes:
        told["started from trial"] = attributes[STARTED_FROM]
    return told


def unit_of(identity: Mapping[str, Any]) -> str:
    """Return what a search's iterations are called."""
    return brief(identity.get("unit") or "iteration")


def _finals(attributes: Mapping[str, Any], unit: str) -> Iterator[str]:
    """Yield a section for each final training that is over, the best setting's first."""
    ranks = {
        name: name.removeprefix(FINAL).removeprefix(":") or "0"
        for name, told in attributes.items()
        if name.startswith(FINAL) and told is not None
    }
    for name, rank in sorted(ranks.items(), key=lambda item: item[1].zfill(9)):
        final, finalist = FinalResult.from_plain(attributes[name]), int(rank)
        of = f" of the setting in place {finalist + 1}" if len(ranks) > 1 else ""
        yield f"## Final training{of}"
        if final.diverged_at is not None:
            yield f"It diverged at {_plain(unit)} {final.diverged_at}."
        else:
            metrics = ", ".join(f"**{_plain(what)} {_value(value)}**" for what, value in final.metrics.items())
            kept = [file for file, there in _files(finalist, final) if there]
            weights = f" Weights: {', '.join(kept)}." if kept else ""
            yield f"{metrics} after {final.iterations} {_plain(unit)}s.{weights}"
        yield from _table("", ("parameter", "value"), list(final.params.items()))


def _files(rank: int, final: FinalResult) -> tuple[tuple[str, bool], ...]:
    return (weights_of(rank), final.kept), (best_weights_of(rank), final.best_kept)


def _table(title: str, head: tuple[str, str], rows: list[tuple[str, Any]]) -> Iterator[str]:
    if title and rows:
        yield f"## {title}"
    if rows:
        lines = [f"| {_plain(name)} | {_value(value)} |" for name, value in rows]
        yield "\n".join([f"| {' | '.join(head)} |", "|---|---|", *lines])


def _leaves(value: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is in nested mappings, under dotted names; what is not set is left out."""
    for key, one in value.items():
        whole = f"{name}.{key}" if name else str(key)
        if isinstance(one, Mapping):
            yield from _leaves(one, whole)
        elif one is not None:
            yield whole, one


def _words(parameter: Mapping[str, Any]) -> str:
    """Return a parameter of a space, as its JSON has it, in words."""
    if "choices" in parameter:
        words = f"one of {', '.join(map(str, parameter['choices']))}"
    else:
        words = f"{parameter['kind']}, {parameter['low']:g} to {parameter['high']:g}"
    if parameter.get("log"):
        words += ", logarithmic"
    if parameter.get("step") is not None:
        words += f", in steps of {parameter['step']:g}"
    met = [f"{name} is {' or '.join(map(str, values))}" for name, values in parameter.get("when", {}).items()]
    return words + (f", where {' and '.join(met)}" if met else "")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _plain(", ".join(map(str, value)))
    return _plain(f"{value:.6g}" if isinstance(value, float) else value)


def _plain(value: object) -> str:
    """Return a text that means nothing but itself in Markdown, whatever letters it has; brief, and on a line."""
    return _MARKDOWN.sub(r"\\\1", brief(value))


def _is_of(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name.removeprefix(prefix).isdecimal()


def _seconds(cost: Mapping[str, Any]) -> float:
    whole = Cost.from_plain(cost)
    return whole.training_seconds + whole.evaluation_seconds
