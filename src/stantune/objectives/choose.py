"""From whatever is given (a function, a Problem, an Objective, a name, FILE.py:NAME) to the objective searched."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import cloudpickle

from stantune.arguments import path, shown
from stantune.errors import UsageError
from stantune.objectives.function.objective import FunctionObjective, compared, name_of
from stantune.objectives.told import ToldObjective
from stantune.protocols import Objective
from stantune.space import Space
from stantune.user_code.files import load_file

if TYPE_CHECKING:
    from stantune.images.objective import ProblemObjective
    from stantune.images.problem.built_in import Problem
    from stantune.stan.config import Stan


def objective_of(
    thing: object,
    space: Space | None = None,
    *,
    unit: str | None = None,
    minimize: str | None = None,
    maximize: str | None = None,
    name: str | None = None,
    stan: Stan | None = None,
    precision: str | None = None,
    resize: object = None,
    compile: bool = False,
) -> Objective:
    """Return what is to be searched.

    Args:
        thing: a function of a Run, a Problem, an Objective; None for a search by ask and tell.
        space: a function's parameters.
        unit: what a function's resource counts; "epoch" by default.
        minimize: a function's metric that is compared, where less is better.
        maximize: the same, where more is better.
        name: of a function's search; its own by default.
        stan: how it is accelerated; None as it says itself, and for a function or a Problem not at all.
        precision: in what numbers a Problem is trained; None as PyTorch is set.
        resize: how small a Problem's images are in the first part of a trial: "1/2:1/3"; None for whole ones.
        compile: whether a Problem's network is compiled.

    Raises:
        UsageError: something is missing, or says what the thing says itself.
    """
    given = {"space": space, "unit": unit, "minimize": minimize, "maximize": maximize, "name": name}
    # How a Problem is trained: parameter, value, and what does the same in code of one's own.
    trained = {
        "precision": (precision, "use torch.autocast"),
        "compile": (compile or None, "call torch.compile"),
        "resize": (resize, "make images small"),
    }
    problem = as_problem(thing)
    if problem is not None:
        _refuse(given, f"problem {problem.name}")
        return _trained(_of_problem(problem, stan), trained)
    if _is_objective(thing):
        assert isinstance(thing, Objective)
        _refuse(given, f"objective {thing.name}")
        return _trained(_accelerated(thing, stan), trained)
    what = name or ("search" if thing is None else name_of(thing))
    if not callable(thing) and thing is not None:
        raise UsageError(
            f"{thing!r} is nothing that can be searched; give a function of a Run, a Problem or an Objective"
        )
    if space is None:
        raise UsageError(f"`space` is missing: say which parameters {what} has, as a Space")
    _refuse_trained(what, trained)
    metric = compared(what, minimize, maximize)
    if thing is None:
        return ToldObjective(what, space, metric, unit or "epoch")
    return FunctionObjective(thing, space, metric, unit or "epoch", name=what, stan=stan)


def find_objective(source: str | Problem, stan: Stan | None = None, data: Path | None = None) -> Objective:
    """Return the objective that is called so on the command line.

    Args:
        source: a built-in problem's name, FILE.py:NAME, or FILE.py where the file has just one: a Problem, an
            Objective, or a function with `@stantune.objective`; or a Problem that was made already, of Caffe's files.
        stan: how it is accelerated; None as it says itself, and for a Problem not at all.
        data: where a Problem's data sets are kept.

    Raises:
        UsageError: there is none; the message names what there is.
    """
    if data is not None:
        # Absolute, so that processes with other working folders find the same; ~ is in none of them.
        data = path("data", data).absolute()
    if not isinstance(source, str):
        return _of_problem(source, stan, data)
    if not _names_file(source):
        from stantune.images.problem.built_in import called

        return _of_problem(called(source), stan, data, source)
    found, source = _loaded(os.path.expanduser(source))
    file, _, attribute = source.rpartition(":")
    source = f"{Path(file).absolute()}:{attribute}"
    problem = as_problem(found)
    if problem is not None:
        return _of_problem(problem, stan, data, source)
    assert isinstance(found, Objective)
    if isinstance(found, FunctionObjective):
        found = replace(found, source=source)
    if data is not None and _is_of_problem(found):
        found = replace(cast(Any, found), data=data)
    return _accelerated(found, stan)


def as_problem(thing: object) -> Problem | None:
    """Return a thing that is a Problem; None for any other."""
    # Where nobody has imported them, it is none; the module of the class, which all that make one import.
    problems = sys.modules.get("stantune.images.problem.problem")
    return thing if problems is not None and isinstance(thing, problems.Problem) else None


def _is_of_problem(thing: object) -> bool:
    objectives = sys.modules.get("stantune.images.objective")
    return objectives is not None and isinstance(thing, objectives.ProblemObjective)


def load_source(source: str) -> Any:
    """Return what FILE.py:NAME names, its file run anew.

    Its folder can be imported from, as that of a script can.

    Raises:
        UsageError: there is no such file or name in it, or it cannot be run.
    """
    file, _, attribute = source.rpartition(":")
    module = _module(Path(file))
    try:
        return getattr(module, attribute)
    except AttributeError:
        there = ", ".join(_searchable(module)) or "nothing that can be searched"
        raise UsageError(f"{file} has nothing called {attribute!r}; it has {there}") from None


def _loaded(source: str) -> tuple[Any, str]:
    """Return what a source names, and the source with the name in it."""
    if ":" in Path(source).name:
        found = load_source(source)
        if as_problem(found) is None and not _is_objective(found):
            remedy = "put @stantune.objective(space=..., minimize=...) above it" if callable(found) else "name one"
            raise UsageError(f"{source} is a {type(found).__name__} and no Problem or Objective; {remedy}")
        return found, source
    there = _searchable(_module(Path(source)))
    if len(there) != 1:
        have = (
            f"{len(there)} of them ({', '.join(there)}); give {source}:NAME"
            if there
            else "none; put @stantune.objective(space=..., minimize=...) above a function, or make a Problem"
        )
        raise UsageError(
            f"{source} is taken where it has one Problem, Objective or function with @stantune.objective, and it has "
            f"{have}"
        )
    ((attribute, found),) = there.items()
    return found, f"{source}:{attribute}"


def _names_file(source: str) -> bool:
    from stantune.images.problem.facts import names_built_in

    return not names_built_in(source) and (source.endswith(".py") or ":" in source)


def _searchable(module: ModuleType) -> dict[str, Any]:
    """Return the Problems and Objectives that a module has, each under its first name, but for those of its own use."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        new = all(value is not other for other in found.values())
        if new and not name.startswith("_") and (as_problem(value) is not None or _is_objective(value)):
            found[name] = value
    return found


def _module(path: Path) -> ModuleType:
    # What was given beside it, relative to here, is looked at later.
    module = load_file(path.resolve(), "stantune_source")
    # No other process finds it by its name.
    cloudpickle.register_pickle_by_value(module)
    return module


def _is_objective(thing: object) -> bool:
    return isinstance(thing, Objective) and not isinstance(thing, type)


def _of_problem(
    problem: Problem, stan: Stan | None, data: Path | None = None, source: str | None = None
) -> ProblemObjective:
    from stantune.images.objective import ProblemObjective

    return ProblemObjective(problem, stan, data, source)


def _accelerated(objective: Any, stan: Stan | None) -> Objective:
    """Return an objective with other settings of STAN; raises UsageError where it has none."""
    if stan is None:
        made: Objective = objective
    elif is_dataclass(objective) and any(field.name == "stan" and field.init for field in fields(objective)):
        made = cast(Objective, replace(cast(Any, objective), stan=stan))
    else:
        raise UsageError(f"objective {objective.name} has no `stan` that could be replaced; leave `stan` away")
    return made


def _trained(objective: Any, how: Mapping[str, tuple[Any, str]]) -> Objective:
    """Return an objective that trains so; raises UsageError where it says that itself."""
    given = {name: value for name, (value, _) in how.items() if value is not None}
    known = {field.name for field in fields(objective) if field.init} if is_dataclass(objective) else set()
    _refuse_trained(objective.name, {name: each for name, each in how.items() if name not in known})
    made: Objective = cast(Objective, replace(cast(Any, objective), **given)) if given else objective
    return made


def _refuse_trained(what: str, how: Mapping[str, tuple[Any, str]]) -> None:
    """Raise UsageError where something is given of how a Problem is trained, and this is none."""
    for parameter, (value, remedy) in how.items():
        if value is not None:
            # As it is told on a command line; a value of another kind may have no text at all.
            said = "" if value is True else f"={value if isinstance(value, str) else shown(value)}"
            raise UsageError(
                f"`{parameter}`{said} says how a Problem is trained, and {what} says that itself; leave it away, and "
                f"{remedy} there"
            )


def _refuse(given: Mapping[str, object], what: str) -> None:
    """Raise UsageError where something is given that the thing itself says."""
    for parameter, value in given.items():
        if value is not None:
            shown = "" if isinstance(value, Space) else f"={value}"
            raise UsageError(f"`{parameter}`{shown} is for a function, and {what} says that itself; leave it away")
