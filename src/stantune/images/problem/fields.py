"""What each field of a problem may be: a value as it is meant, or one sentence that says what to give."""

from __future__ import annotations

import inspect
import numbers
import traceback
from collections.abc import Callable
from typing import Any

from stantune.arguments import function, names, number, one_of, shown, text, whole
from stantune.errors import StantuneError, UsageError, words_of
from stantune.images.data import Dataset, Normalise
from stantune.images.data.fetching.catalog import describe
from stantune.images.data.holding_out import HOW
from stantune.images.solving.measures import Measure
from stantune.images.solving.solver import Solver
from stantune.space import Space
from stantune.texts import one_line

# What an augmentation is called with.
IMAGES = ("images", "ids", "generator")


def checked_fields(problem: Any) -> dict[str, Any]:
    """Return the fields of a problem that are held as another kind than they may be given in: 60.0 as 60.

    Raises UsageError, which names the problem and the field, for a value of another kind.
    """
    try:
        name = text("name", problem.name)
    except UsageError as error:
        raise UsageError(f"a problem's {error}") from None
    try:
        return {"name": name, **_numbers(problem), **_plain(problem)}
    except UsageError as error:
        raise UsageError(f"problem {name!r}: {error}") from None


def sees_setting(augment: Callable[..., Any]) -> bool:
    """Tell whether an augmentation has a parameter called `setting`, which it is then given."""
    try:
        return "setting" in inspect.signature(augment).parameters
    except ValueError:  # of some functions in C nobody knows the parameters
        return False


def loaded(name: str, data: Callable[[Any], Any], root: Any) -> Dataset:
    """Return the data set that a problem's function makes.

    Args:
        name: the problem's.
        data: the function.
        root: the directory that it is given, or None.

    Raises UsageError where it fails or returns anything else; errors of this package pass as they are.
    """
    try:
        dataset = data(root)
    except StantuneError:
        raise
    except Exception as error:
        # A mistake of the function, told by its own line: the frame below ours.
        at = traceback.extract_tb(error.__traceback__)[:2][-1]
        raise UsageError(
            f"problem {name!r}: its data cannot be loaded ({one_line(words_of(error))}, in {at.filename}, line "
            f"{at.lineno}); mend that"
        ) from error
    if not isinstance(dataset, Dataset):
        raise UsageError(
            f"problem {name!r}: data returned {_kind(dataset)}; have it return Dataset(name, train=(inputs, targets), "
            "test=(inputs, targets))"
        )
    return dataset


def _numbers(problem: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        field: whole(field, getattr(problem, field), 1) for field in ("iterations", "batch_size", "edition")
    }
    for field in ("full_iterations", "course"):
        value = getattr(problem, field)
        found[field] = None if value is None else whole(field, value, 1)
    found["validation"] = _validation(problem.validation)
    found["hold_out_seed"] = whole("hold_out_seed", problem.hold_out_seed)
    found["label_smoothing"] = smoothing = number("label_smoothing", problem.label_smoothing)
    if not 0 <= smoothing <= 1:
        raise UsageError(f"`label_smoothing`={shown(smoothing)} is no share; give a number from 0 to 1")
    return found


def _validation(value: Any) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        share = float(value)
        if not 0 < share < 1:
            raise UsageError(
                f"`validation`={share} is no share of the samples; give one above 0 and below 1, or a whole number of "
                "them"
            )
        return share
    return whole("validation", value, 1)


def _plain(problem: Any) -> dict[str, Any]:
    one_of("hold_out", problem.hold_out, HOW)
    kinds: dict[str, tuple[Any, str]] = {
        "space": (Space, "Space({'lr': Float(1e-4, 1, log=True)})"),
        "solver": (Solver, "Solver(lr=0.1)"),
        "normalise": (Normalise, "Normalise(scale=1 / 255)"),
        "recordable": (bool, "True or False"),
        "loss": (str | Callable, "a loss by name, or a function (outputs, targets) -> scalar"),
        "measure": (str | Measure | Callable | None, "a measure by name, a Measure, or a function"),
        "augment": (Callable | None, "a function (images, ids, generator) -> images, or None"),
    }
    for field, (kind, remedy) in kinds.items():
        value = getattr(problem, field)
        if not isinstance(value, kind):
            raise UsageError(f"`{field}` is {_kind(value)}; give {remedy}")
    for field in ("loss", "measure"):
        if not isinstance(getattr(problem, field), str | Measure | None):
            function(field, getattr(problem, field), ("outputs", "targets"))
    if problem.augment is not None:
        function("augment", problem.augment, IMAGES, **({"setting": {}} if sees_setting(problem.augment) else {}))
    _check_data(problem.data)
    return {"stan_layers": names("stan_layers", problem.stan_layers)}


def _check_data(data: Any) -> None:
    if isinstance(data, str):
        describe(data)
    elif not isinstance(data, Dataset) and not callable(data):
        raise UsageError(
            f"`data` is {_kind(data)}; give the name of a built-in data set, Dataset(name, train=(inputs, targets), "
            "test=(inputs, targets)), or a function that returns one"
        )
    elif not isinstance(data, Dataset):
        try:
            inspect.signature(data).bind(None)
        except TypeError:
            raise UsageError(
                "`data` is called with a directory, or None, and takes something else; give it one parameter, as in "
                "def data(root)"
            ) from None
        except ValueError:
            # Of some functions in C nobody knows the parameters.
            pass


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeio' else 'a'} {name}"
