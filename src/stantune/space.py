"""A search space: named parameters, some of which exist under conditions only; it checks and parses settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, TypeAlias

from stantune.arguments import did_you_mean, shown, text
from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer, Parameter, fields_of
from stantune.plain_values import Choice, plain_value, same_value, shown_value, tupled

# What the name of a layer's weight decay ends with.
_OF_LAYERS = "_l2"
# Of each conditional parameter, its parents with the value or the values that each must have.
When: TypeAlias = "Mapping[str, Mapping[str, Choice | Iterable[Choice]]]"
_NOTHING = object()


class Space(Mapping[str, Parameter]):
    """An ordered, unchanging mapping of parameter names to their ranges, some of which exist under conditions only.

    Attributes:
        when: of each conditional parameter, the values that other parameters, its parents, must have for it to exist.
            A parent that does not exist itself has no value, so conditions nest.
    """

    def __init__(self, parameters: Mapping[str, Parameter], when: When | None = None) -> None:
        """Take `parameters` in their order; `when={"momentum": {"kind": "sgd"}, "width2": {"layers": (2, 3)}}`.

        A tuple that is a choice of the parent stands for this choice, and not for the values in it. Raises UsageError
        for a name that is neither a Python name nor the weight decay of a layer ("features.0_l2"), and for a condition
        that could never be met or would never be decided.
        """
        _check_mapping("the parameters of a space", parameters, "{'lr': Float(1e-4, 1, log=True)}")
        for name, parameter in parameters.items():
            if not isinstance(name, str) or not _is_name(name):
                raise UsageError(f"{shown(name)} cannot name a parameter: use letters, digits and underscores")
            text("a parameter's name", name)  # of a length
            if not isinstance(parameter, Float | Integer | Categorical):
                raise UsageError(f"{name} is {shown_value(parameter)}: give a Float, an Integer or a Categorical")
        self._parameters = dict(parameters)
        if when is not None:
            _check_mapping("the conditions of a space, `when`,", when, "{'momentum': {'optimizer': 'sgd'}}")
        self.when = {name: self._conditions(name, conditions) for name, conditions in (when or {}).items()}
        self._parents_first = self._sorted()

    def __getitem__(self, name: str) -> Parameter:
        """Return the parameter of that name (KeyError where there is none)."""
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order given."""
        return iter(self._parameters)

    def __len__(self) -> int:
        """Count the parameters."""
        return len(self._parameters)

    def __eq__(self, other: object) -> bool:
        """Tell whether names, ranges and conditions are the same."""
        return isinstance(other, Space) and (self._parameters, self.when) == (other._parameters, other.when)

    def __repr__(self) -> str:
        """Show the parameters as they would be written."""
        return f"Space({self._parameters!r}{f', when={self.when!r}' if self.when else ''})"

    def active(self, setting: Mapping[str, object]) -> list[str]:
        """Return the names of the parameters that exist in `setting`, in the space's order.

        What depends on a parent that `setting` lacks does not exist.
        """
        there: set[str] = set()
        for name in self._parents_first:
            conditions = self.when.get(name, {})
            if all(
                parent in there and tupled(setting.get(parent, _NOTHING)) in met for parent, met in conditions.items()
            ):
                there.add(name)
        return [name for name in self if name in there]

    def check(self, setting: Mapping[str, object], complete: bool = False) -> dict[str, Any]:
        """Return `setting` in the space's order, in plain values: whole numbers for Float parameters as floats.

        With `complete` every parameter that exists in it must be there. Raises UsageError, which names the parameter,
        the value and the nearest valid value or name, or says why the parameter does not exist here.
        """
        for name in setting:
            self._find(name)
        checked = {name: self[name].check(name, setting[name]) for name in self if name in setting}
        active = self.active(checked)
        for name in checked:
            if name not in active:
                raise UsageError(self._why_not(name, checked, active))
        missing = [name for name in active if name not in setting]
        if complete and missing:
            raise UsageError(f"the setting lacks {', '.join(missing)}: give a value for each parameter")
        return checked

    def check_value(self, name: str, value: object) -> Any:
        """Return the value of one parameter as `check` does, whether it exists or not; raises UsageError."""
        return self._find(name).check(name, value)

    def without(self, fixed: Mapping[str, object]) -> Space:
        """Return the space of what is left to choose where the parameters in `fixed` have these values.

        What depends on them exists there under the conditions that are left, or is left out. Raises UsageError where a
        value is not valid, or a fixed parameter cannot exist because of the others.
        """
        values = {name: self.check_value(name, value) for name, value in fixed.items()}
        # Of each parameter that can exist: what the parameters that are left must be for that.
        left: dict[str, dict[str, tuple[Choice, ...]]] = {}
        for name in self._parents_first:
            conditions: dict[str, tuple[Choice, ...]] = {}
            for parent, met in self.when.get(name, {}).items():
                if parent not in left or (parent in values and values[parent] not in met):
                    break
                # A fixed parent exists where what it depends on allows it; one that is left says so itself.
                for other, allowed in (left[parent] if parent in values else {parent: met}).items():
                    conditions[other] = tuple(value for value in conditions.get(other, allowed) if value in allowed)
            else:
                if all(conditions.values()):
                    left[name] = conditions
            if name in values and name not in left:
                raise UsageError(
                    f"{name} is fixed, but exists only where {condition_text(self.when[name])}, which the other fixed "
                    f"values rule out: leave {name} out"
                )
        names = [name for name in self if name in left and name not in values]
        return Space({name: self[name] for name in names}, {name: left[name] for name in names if left[name]})

    def in_order(self, names: Iterable[str]) -> Space:
        """Return this space with its parameters in another order: that of `names`, which has each of them once."""
        ordered = copy(self)
        ordered._parameters = {name: self[name] for name in names}
        ordered._parents_first = ordered._sorted()
        return ordered

    def parse(self, name: str, text: str) -> Any:
        """Read the value of one parameter from the command line (`--set NAME=TEXT`); raises UsageError."""
        return self._find(name).parse(name, text)

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Describe the space in plain values: per name the kind ("float", ...) and the fields of its class.

        A conditional parameter has its conditions as "when"; "step" is there only where it is given.
        """
        return {
            name: {"kind": type(parameter).__name__.lower(), **fields_of(parameter)}
            | ({"when": {parent: list(met) for parent, met in self.when[name].items()}} if name in self.when else {})
            for name, parameter in self.items()
        }

    def _find(self, name: str) -> Parameter:
        if name not in self._parameters:
            known = list(self)
            raise UsageError(
                f"there is no parameter {name!r}: the space has {', '.join(known) or 'none'}{did_you_mean(name, known)}"
            )
        return self._parameters[name]

    def _why_not(self, name: str, setting: Mapping[str, object], active: Sequence[str]) -> str:
        """Say why a parameter that is given does not exist: by the first condition that is not met."""
        parent = next(
            parent
            for parent, met in self.when[name].items()
            if parent not in active or setting.get(parent, _NOTHING) not in met
        )
        if parent not in setting:
            remedy = f"give {parent} as well, or leave {name} out"
        elif parent not in active:
            return self._why_not(parent, setting, active)
        else:
            remedy = f"here {parent} is {setting[parent]}, so leave {name} out"
        return f"{name} exists only where {condition_text(self.when[name])}: {remedy}"

    def _conditions(self, name: str, conditions: Mapping[str, object]) -> dict[str, tuple[Choice, ...]]:
        """Return the conditions of a parameter with their values as tuples."""
        if name not in self._parameters:
            raise UsageError(
                f"a condition is given for {shown(name)}, which is no parameter: the space has {', '.join(self)}"
                f"{did_you_mean(str(name), list(self))}"
            )
        _check_mapping(f"the condition of {name}", conditions, "{'optimizer': 'sgd'}")
        found = {}
        for parent, values in conditions.items():
            if parent not in self._parameters:
                raise UsageError(
                    f"{name} depends on {shown(parent)}, which is no parameter: the space has {', '.join(self)}"
                    f"{did_you_mean(str(parent), list(self))}"
                )
            if isinstance(self[parent], Float):
                raise UsageError(
                    f"{name} depends on {parent}, a Float, which hardly ever has one given value: make a condition on "
                    "an Integer or a Categorical"
                )
            met = _values_of(self[parent], values)
            if not met:
                raise UsageError(f"{name} depends on {parent}, but on none of its values: give at least one")
            try:
                found[parent] = tuple(self[parent].check(parent, value) for value in met)
            except UsageError as error:
                raise UsageError(f"{name} can never exist under one of its conditions: {error}") from None
        return found

    def _sorted(self) -> list[str]:
        """Return the names, parents before those that depend on them."""
        done: dict[str, None] = {}
        left = list(self)
        while left:
            free = [name for name in left if all(parent in done for parent in self.when.get(name, {}))]
            if not free:
                raise UsageError(f"{self._circle(left)}: let each depend on parameters that do not depend on it")
            done |= dict.fromkeys(free)
            left = [name for name in left if name not in done]
        return list(done)

    def _circle(self, undecided: Sequence[str]) -> str:
        """Name the parameters of a circle among those that are never decided, each of which depends on another one."""
        path = [undecided[0]]
        while path[-1] not in path[:-1]:
            path.append(next(parent for parent in self.when[path[-1]] if parent in undecided))
        return " depends on ".join(path[path.index(path[-1]) :])


def condition_text(conditions: Mapping[str, Iterable[Choice]]) -> str:
    """Say in words when a conditional parameter exists; "" where there are no conditions."""
    return " and ".join(f"{parent} is {' or '.join(map(str, met))}" for parent, met in conditions.items())


def _check_mapping(what: str, given: object, example: str) -> None:
    """Refuse what has no names (UsageError)."""
    if not isinstance(given, Mapping):
        verb = "is" if what.startswith("the condition of") else "are"
        raise UsageError(f"{what} {verb} {shown_value(given)}: give a mapping, such as {example}")


def _is_name(name: str) -> bool:
    """Tell whether a parameter can have this name: Python's, or LAYER_l2 of a layer inside of others, by its path."""
    # PyTorch numbers the layers of a Sequential, so that a part of a path may begin with a digit.
    path = name.endswith(_OF_LAYERS) and all(part and f"_{part}".isidentifier() for part in name.split("."))
    return name.isidentifier() or (path and name != _OF_LAYERS)


def _values_of(parent: Parameter, values: object) -> tuple[object, ...]:
    """Return the values that a condition names, of which it may name one by itself."""
    plain = plain_value(values)
    single = plain is None or isinstance(plain, bool | int | float | str) or not isinstance(plain, Iterable)
    if single or (isinstance(parent, Categorical) and any(same_value(choice, plain) for choice in parent.choices)):
        return (plain,)
    assert isinstance(plain, Iterable)
    if isinstance(plain, set | frozenset):
        # Its order differs between processes, and conditions belong to what a search is.
        return tuple(sorted(plain, key=lambda value: (len(repr(value)), repr(value))))
    return tuple(plain)
