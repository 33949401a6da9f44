"""STAN's settings of a search of images: the usual ones, how its identity notes them, and those of such a note."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stantune.images.problem.built_in import Problem, is_built_in
from stantune.stan.config import LayerPlan, Memo, Stan
from stantune.stan.layers.meprop import MeProp

# How long the run is that a tail is the end of; "iterations" is the problem's own number.
RUN = "stan-iterations"


def usual(problem: Problem) -> Stan:
    """Return how the trials of a problem are trained where nobody says how.

    What sparing entries costs a network is known of built-in ones alone, of which half are computed; in others all are,
    by native kernels, in whatever convolutions a setting's network has.
    """
    return Stan(rate=0.5, layers=problem.stan_layers) if is_built_in(problem) else Stan(rate=1)


def noted(stan: Stan | None) -> dict[str, Any]:
    """Return all of STAN's settings that a result depends on, as plain values, None where trials train exactly.

    The seed is not among them: each trial has its own.
    """
    return {
        "accelerate": "none" if stan is None else "stan",
        "rate": stan and stan.least_rate,
        "pattern": stan and stan.pattern,
        "tolerance": stan and stan.tolerance,
        "layers": stan and list(stan.layers),
        "plan": None if stan is None or stan.planned is None else stan.planned["plan"],
        "period": stan and stan.period,
        "pretrain": stan and stan.pretrain,
        "tail": stan and stan.tail,
        **(_later(stan) if stan else {}),
    }


def _later(stan: Stan) -> dict[str, Any]:
    """Return what came later: it is named only where it is set, so that searches from before are known again."""
    # In JSON's kinds, since it is compared with what was read from JSON.
    plain = json.loads(json.dumps(stan.identity))
    found = {name: plain[name] for name in ("memo", "meprop", "linear") if getattr(stan, name)}
    # `Stan.identity` itself names these only where they are set.
    found |= {name: plain[name] for name in ("rates", "offset_sets", "native") if name in plain}
    return found | ({RUN: stan.iterations} if stan.tail else {})


def stan_of(identity: Mapping[str, Any], rate: float | None = None) -> Stan:
    """Return the settings that a search noted.

    Args:
        identity: of a search under STAN, as it was read from JSON.
        rate: the one to take, where the search has rates by rung and STAN none of its own.
    """
    rates = tuple((start, share) for start, share in identity.get("rates", ()))
    plan, memo, meprop = (identity.get(name) for name in ("plan", "memo", "meprop"))
    return Stan(
        rate=rate or rates or identity["rate"],
        pattern=identity["pattern"],
        period=identity["period"],
        pretrain=identity["pretrain"],
        tail=identity["tail"],
        # Before it was noted it was the command's, which trains so long.
        iterations=identity.get(RUN, identity.get("max-iterations")) if identity["tail"] else None,
        layers=tuple(identity["layers"]),
        tolerance=identity["tolerance"],
        memo=None if memo is None else Memo(**memo),
        linear=tuple(identity.get("linear", ())),
        # Before it was a choice, the bias's gradient was always that of the kept components.
        meprop=None if meprop is None else MeProp(**{"sparse_bias": True, **meprop, "layers": tuple(meprop["layers"])}),
        plan=None if plan is None else tuple(LayerPlan(name, tuple(patterns)) for name, patterns in plan.items()),
        offset_sets=identity.get("offset_sets"),
        native=identity.get("native", True),
    )
