"""stantune: hyper-parameter search in which every trial trains with fewer computations, and the winner is as good."""

from __future__ import annotations

from importlib import import_module

# True to type checkers. Not typing's: under `python -m stantune` that may be any file of the working folder.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from stantune.compare.study.result import StudyResult
    from stantune.compare.study.study import study
    from stantune.errors import NoEffectWarning, StantuneError, UsageError
    from stantune.images.data import Dataset, ImageFolder, Normalise, Split, from_torch
    from stantune.images.loading import load
    from stantune.images.objective import ProblemObjective
    from stantune.images.problem.built_in import Problem
    from stantune.images.prototxt.reading import from_caffe
    from stantune.images.solving.measures import Measure
    from stantune.images.solving.solver import Cosine, Fixed, Inv, Multiplier, MultiStep, OneCycle, Solver, Step, WarmUp
    from stantune.objectives.command.objective import CommandObjective
    from stantune.objectives.function.objective import FunctionObjective, objective
    from stantune.objectives.function.run import Run
    from stantune.objectives.lightning.objective import LightningObjective
    from stantune.outcome import Cost, Outcome
    from stantune.parameters import Categorical, Float, Integer
    from stantune.protocols import Conditions, Metric, Objective, Place, Prepared, Segment, Trainer
    from stantune.search.propose.sampler import Asked, OptunaSampler, Sampler
    from stantune.search.results.result import SearchResult, TrialResult
    from stantune.search.telling.loggers import LoggedSearch, LoggedSegment, LoggedTraining, Logger
    from stantune.search.workers.executors import Ended, Executor, Failure
    from stantune.search.workers.order import Order
    from stantune.space import Space
    from stantune.stan.config import Stan
    from stantune.stan.surgery import accelerate_, restore_
    from stantune.training.train import run
    from stantune.tuning.ask_and_tell import OpenSearch, open_search
    from stantune.tuning.tune import tune

# Where each public name lives. It is imported when it is first used, so that `import stantune` does no work.
_HOME = {
    "Asked": "search.propose.sampler",
    "Categorical": "parameters",
    "CommandObjective": "objectives.command.objective",
    "Conditions": "protocols",
    "Cosine": "images.solving.solver",
    "Cost": "outcome",
    "Dataset": "images.data",
    "Ended": "search.workers.executors",
    "Executor": "search.workers.executors",
    "Failure": "search.workers.executors",
    "Fixed": "images.solving.solver",
    "Float": "parameters",
    "FunctionObjective": "objectives.function.objective",
    "ImageFolder": "images.data",
    "Integer": "parameters",
    "Inv": "images.solving.solver",
    "LightningObjective": "objectives.lightning.objective",
    "LoggedSearch": "search.telling.loggers",
    "LoggedSegment": "search.telling.loggers",
    "LoggedTraining": "search.telling.loggers",
    "Logger": "search.telling.loggers",
    "Measure": "images.solving.measures",
    "Metric": "protocols",
    "MultiStep": "images.solving.solver",
    "Multiplier": "images.solving.solver",
    "NoEffectWarning": "errors",
    "Normalise": "images.data",
    "Objective": "protocols",
    "OneCycle": "images.solving.solver",
    "OpenSearch": "tuning.ask_and_tell",
    "OptunaSampler": "search.propose.sampler",
    "Order": "search.workers.order",
    "Outcome": "outcome",
    "Place": "protocols",
    "Prepared": "protocols",
    "Problem": "images.problem.built_in",
    "ProblemObjective": "images.objective",
    "Run": "objectives.function.run",
    "Sampler": "search.propose.sampler",
    "SearchResult": "search.results.result",
    "Segment": "protocols",
    "Solver": "images.solving.solver",
    "Space": "space",
    "Split": "images.data",
    "Stan": "stan.config",
    "StantuneError": "errors",
    "Step": "images.solving.solver",
    "StudyResult": "compare.study.result",
    "Trainer": "protocols",
    "TrialResult": "search.results.result",
    "UsageError": "errors",
    "WarmUp": "images.solving.solver",
    "accelerate_": "stan.surgery",
    "from_caffe": "images.prototxt.reading",
    "from_torch": "images.data",
    "load": "images.loading",
    "objective": "objectives.function.objective",
    "open_search": "tuning.ask_and_tell",
    "restore_": "stan.surgery",
    "run": "training.train",
    "study": "compare.study.study",
    "tune": "tuning.tune",
}
__all__ = [
    "Asked",
    "Categorical",
    "CommandObjective",
    "Conditions",
    "Cosine",
    "Cost",
    "Dataset",
    "Ended",
    "Executor",
    "Failure",
    "Fixed",
    "Float",
    "FunctionObjective",
    "ImageFolder",
    "Integer",
    "Inv",
    "LightningObjective",
    "LoggedSearch",
    "LoggedSegment",
    "LoggedTraining",
    "Logger",
    "Measure",
    "Metric",
    "MultiStep",
    "Multiplier",
    "NoEffectWarning",
    "Normalise",
    "Objective",
    "OneCycle",
    "OpenSearch",
    "OptunaSampler",
    "Order",
    "Outcome",
    "Place",
    "Prepared",
    "Problem",
    "ProblemObjective",
    "Run",
    "Sampler",
    "SearchResult",
    "Segment",
    "Solver",
    "Space",
    "Split",
    "Stan",
    "StantuneError",
    "Step",
    "StudyResult",
    "Trainer",
    "TrialResult",
    "UsageError",
    "WarmUp",
    "accelerate_",
    "from_caffe",
    "from_torch",
    "load",
    "objective",
    "open_search",
    "restore_",
    "run",
    "study",
    "tune",
]


if not TYPE_CHECKING:  # so that type checkers find a misspelt name

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'stantune' has no attribute {name!r}")
        return getattr(import_module(f"stantune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
