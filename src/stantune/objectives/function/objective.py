"""FunctionObjective: a function of your own as an objective, and the decorator that makes it one."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal

import cloudpickle

from stantune.errors import UsageError
from stantune.objectives.preparing import check_told, chosen_threads
from stantune.process.alone import found
from stantune.protocols import Conditions, Metric, Place, Prepared
from stantune.space import Space
from stantune.user_code.digest import digest
from stantune.user_code.files import check_unchanged

if TYPE_CHECKING:
    from stantune.objectives.function.run import Run
    from stantune.objectives.function.trainer import FunctionTrainer
    from stantune.stan.config import Stan


@dataclass(frozen=True)
class FunctionObjective:
    """Searches the settings of a function that trains; see protocols.Objective. It can still be called.

    Attributes:
        function: takes a Run, and returns metrics or the compared number.
        space: its parameters.
        metric: what is compared.
        unit: what `Run.steps` counts.
        length: the longest training, in this unit; None where there is no end.
        name: for messages and default directories; the function's own by default.
        stan: what `Run.accelerate` does; None for nothing.
        source: FILE.py:NAME, by which other processes find the function; None where it travels itself.

    Raises:
        UsageError: it is no function of a Run, or something else is out of its range.
    """

    function: Callable[[Run], object]
    space: Space
    metric: Metric
    unit: str = "epoch"
    length: int | None = None
    name: str = ""
    stan: Stan | None = None
    source: str | None = None
    can_continue: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        _check_function(self.function)
        if not self.name:
            object.__setattr__(self, "name", name_of(self.function))
        check_told(self.name, self.space, self.metric, self.unit, self.length)
        if self.stan is not None and self.stan.least_rate == "auto":
            raise UsageError(
                f"a rate of auto is measured on one network, and each setting of {self.name} may have its own; give "
                "Stan a number, such as 0.5"
            )

    @property
    def modules(self) -> tuple[str, ...]:
        """What its trainer takes long to import."""
        return ("stantune.objectives.function.trainer",)

    def __call__(self, run: Run) -> object:
        """Call the function."""
        return self.function(run)

    @property
    def rate(self) -> float | Literal["auto"] | None:
        """The share of the work that `Run.accelerate` leaves; None for all."""
        return None if self.stan is None else self.stan.least_rate

    @property
    def inexact(self) -> str | None:
        """Why no training is exact, at whatever rate; None where that depends on the rate."""
        return None if self.stan is None else self.stan.inexact

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The name, what is compared, STAN's settings, and a digest of the code."""
        identity: dict[str, Any] = {
            "problem": self.name,
            "metric": self.metric.name,
            "direction": self.metric.direction,
            "unit": self.unit,
            "accelerate": "none" if self.stan is None else "stan",
            "rate": self.rate,
            "code": digest(self.function),
        }
        if self.stan is not None:
            settings = {name: value for name, value in self.stan.identity.items() if name not in ("rate", "seed")}
            # In JSON's kinds, since it is compared with what was read from JSON.
            identity["stan"] = json.loads(json.dumps(settings))
        return identity

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective: there is nothing to decide but the number of threads."""

        def default() -> int:
            import torch

            return found().threads or torch.get_num_threads()

        return Prepared(self, chosen_threads(conditions, self.name, default))

    def trainer(self, place: Place) -> FunctionTrainer:
        """See Objective."""
        from stantune.objectives.function.trainer import FunctionTrainer

        return FunctionTrainer(self.function, self.name, self.metric, self.identity, self.stan, place)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the function where another process finds it by its source."""
        # The identity goes along, so that it is what it was here.
        state = {"identity": self.identity} | vars(self)
        if self.source is not None:
            del state["function"]
        else:
            _by_value_where_lost(self.function)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Find the function again; raises UsageError where its file was changed meanwhile."""
        if "function" not in state:
            from stantune.objectives.choose import load_source

            found = load_source(state["source"])
            state["function"] = found.function if isinstance(found, FunctionObjective) else found
            # What it trains goes into a table by the code that travelled.
            check_unchanged(state["source"], state["identity"]["code"], digest(state["function"]))
        vars(self).update(state)


def objective(
    *,
    space: Space,
    minimize: str | None = None,
    maximize: str | None = None,
    unit: str = "epoch",
    max_resource: int | None = None,
    name: str | None = None,
) -> Callable[[Callable[[Run], object]], FunctionObjective]:
    """Make a function an objective: what `tune` would be told of it is said where it is defined.

    ```python
    @st.objective(space=st.Space({"lr": st.Float(1e-4, 1, log=True)}), maximize="f1", max_resource=27)
    def train(run): ...
    ```

    Args:
        space: the function's parameters.
        minimize: the metric that is compared, where less is better.
        maximize: the same, where more is better.
        unit: what `Run.steps` counts.
        max_resource: the longest training, in this unit.
        name: the function's own by default.

    Raises:
        UsageError: neither or both of `minimize` and `maximize`, or something is out of its range.
    """

    def decorate(function: Callable[[Run], object]) -> FunctionObjective:
        what = name or name_of(function)
        return FunctionObjective(function, space, compared(what, minimize, maximize), unit, max_resource, what)

    return decorate


def compared(what: str, minimize: str | None, maximize: str | None) -> Metric:
    """Return the metric that is asked for; raises UsageError unless it is exactly one."""
    if minimize and maximize:
        raise UsageError(
            f"`minimize`={minimize} and `maximize`={maximize} are two metrics, and trials of {what} are compared by "
            "one; give that one alone"
        )
    if minimize:
        return Metric(minimize, "minimize")
    if maximize:
        return Metric(maximize, "maximize")
    raise UsageError(
        f"nothing says by which metric the trials of {what} are compared; name one that it returns with `minimize` or "
        "`maximize`"
    )


def name_of(function: object) -> str:
    """Return what a function is called; "objective" where it has no name."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return "objective" if name == "<lambda>" else str(name)


def _check_function(function: object) -> None:
    """Raise UsageError unless this can be called with a Run and return metrics."""
    if not callable(function):
        raise UsageError(f"{function!r} is nothing that trains; give a function of a Run")
    what = name_of(function)
    if isinstance(function, type):
        raise UsageError(f"{what} is a class; give a function of a Run, or an object that can be called with one")
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise UsageError(f"{what} does not return but yield or await; give a function that returns its metrics")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise UsageError(
            f"{what}{inspect.signature(function)} cannot be called with a Run alone; give a function of one argument, "
            "run, and take the parameters from run.params"
        ) from None
    except ValueError:
        # One of those that have no signature.
        return


def _by_value_where_lost(function: object) -> None:
    """Have modules travel themselves, a function's or a method's, that another process could not import by name."""
    while isinstance(function, functools.partial):
        function = function.func
    # A method may be of another module than what it is called on.
    parts = (function.__func__, function.__self__) if isinstance(function, MethodType) else (function,)
    for part in parts:
        name = getattr(part if isinstance(part, FunctionType | type) else type(part), "__module__", None)
        module = sys.modules.get(name or "__main__")
        if name not in (None, "__main__") and module is not None and not can_be_imported(str(name)):
            cloudpickle.register_pickle_by_value(module)


def can_be_imported(name: str) -> bool:
    """Tell whether a module would be found by name, had it not been imported; a file may be loaded in other ways."""
    package, _, _ = name.rpartition(".")
    where = getattr(sys.modules.get(package), "__path__", None) if package else None
    if package and where is None:
        return False
    for finder in sys.meta_path:
        find: Callable[..., importlib.machinery.ModuleSpec | None] | None = getattr(finder, "find_spec", None)
        if find is not None and find(name, where) is not None:
            return not package or can_be_imported(package)
    return False
