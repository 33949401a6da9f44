"""stantune: hyper-parameter search in which every trial trains with fewer computations, and the winner is as good."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stantune.errors import NoEffectWarning, StantuneError
    from stantune.images.data import Dataset, Normalise, Split
    from stantune.images.problems import Problem
    from stantune.images.solver import Fixed, Inv, Multiplier, MultiStep, Solver
    from stantune.space import Categorical, Float, Integer, Space
    from stantune.stan.config import Stan
    from stantune.stan.surgery import accelerate_, restore_
    from stantune.training.train import run

# Where each public name lives. It is imported when it is first used, so that `import stantune` does no work.
_HOME = {
    "Categorical": "space",
    "Dataset": "images.data",
    "Fixed": "images.solver",
    "Float": "space",
    "Integer": "space",
    "Inv": "images.solver",
    "MultiStep": "images.solver",
    "Multiplier": "images.solver",
    "NoEffectWarning": "errors",
    "Normalise": "images.data",
    "Problem": "images.problems",
    "Solver": "images.solver",
    "Space": "space",
    "Split": "images.data",
    "Stan": "stan.config",
    "StantuneError": "errors",
    "accelerate_": "stan.surgery",
    "restore_": "stan.surgery",
    "run": "training.train",
}
__all__ = [
    "Categorical",
    "Dataset",
    "Fixed",
    "Float",
    "Integer",
    "Inv",
    "MultiStep",
    "Multiplier",
    "NoEffectWarning",
    "Normalise",
    "Problem",
    "Solver",
    "Space",
    "Split",
    "Stan",
    "StantuneError",
    "accelerate_",
    "restore_",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stantune' has no attribute {name!r}")
    return getattr(import_module(f"stantune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
