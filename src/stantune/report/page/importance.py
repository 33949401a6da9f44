"""Which parameters matter: Optuna's fANOVA of the trials that were measured in the same rung."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import isfinite
from typing import Any

from stantune.protocols import Metric
from stantune.report.page.contract import Importance
from stantune.search.plan.values import TrialRow
from stantune.texts import brief

# A forest of more trials takes long and says no more; of fewer it says nothing.
MOST, FEWEST = 500, 10


def importance_of(rows: Sequence[TrialRow], space: Mapping[str, Any], metric: Metric) -> Importance | str:
    """Return the importance of the parameters that all settings have, or why there is none."""
    at = Counter(stop for row in rows if not row.duplicate for stop in row.errors)
    if not at or max(at.values()) < FEWEST:
        return f"of fewer than {FEWEST} trials in one rung nobody can say which parameters matter"
    # The rung with the most results: values of different rungs cannot be compared.
    stop = min(stop for stop, count in at.items() if count == max(at.values()))
    measured = [row for row in rows if stop in row.errors and not row.duplicate]
    measured = measured[:: -(-len(measured) // MOST)]
    names = [
        name
        for name in space
        if all(name in row.params for row in measured) and len({repr(row.params[name]) for row in measured}) > 1
    ]
    if len(names) < 2:
        return "fewer than two parameters differ between all settings"
    if len({row.errors[stop] for row in measured}) < 2:
        return f"all trials have the same {metric.name}"
    if find_spec("sklearn") is None:
        return "that needs scikit-learn, which is not installed; pip install 'stantune[report]'"
    try:
        shares = _fanova(measured, stop, {name: space[name] for name in names})
    except (RuntimeError, ValueError) as error:
        # Its trees are of float32, in which values may be none or all the same.
        return f"fANOVA has none for such values ({brief(error)})"
    if not all(map(isfinite, shares.values())):
        return f"the values of {metric.name} are too far apart for fANOVA"
    return Importance(names=list(shares), shares=list(shares.values()), iterations=stop, trials=len(measured))


def _fanova(rows: Sequence[TrialRow], stop: int, space: Mapping[str, Any]) -> dict[str, float]:
    import numpy as np
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    from stantune.search.propose.sampling import optuna_quiet, to_optuna

    with optuna_quiet(), np.errstate(over="ignore", invalid="ignore"):
        study = optuna.create_study()
        distributions = {name: _distribution(described) for name, described in space.items()}
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params=to_optuna({name: row.params[name] for name in space}),
                    distributions=distributions,
                    value=row.errors[stop],
                )
                for row in rows
            ]
        )
        return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def _distribution(described: Mapping[str, Any]) -> Any:
    """Return Optuna's distribution for a parameter as a table describes it."""
    from stantune.parameters import Categorical, Float, Integer
    from stantune.search.propose.sampling import from_optuna, to_distribution

    if described["kind"] == "categorical":
        return to_distribution(Categorical(tuple(from_optuna({"": each})[""] for each in described["choices"])))
    kind = Float if described["kind"] == "float" else Integer
    ends = {name: described[name] for name in ("low", "high", "log", "step") if name in described}
    return to_distribution(kind(**ends))
