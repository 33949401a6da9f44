"""What a layer is made by, as data: a call that is carried out, or written as Python, and both give the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from stantune.images.nets import caffe
from stantune.images.prototxt.layers import fillers, modules


class _Home(NamedTuple):
    """A function or a class, the module that Python of it imports it from, and the name that it imports."""

    thing: Any
    module: str
    name: str


def _own(module: Any, *names: str) -> dict[str, _Home]:
    return {name: _Home(getattr(module, name), module.__name__, name) for name in names}


# By what they are called in Python; nothing else is ever called for a file.
_THINGS: Mapping[str, _Home] = {
    "partial": _Home(partial, "functools", "partial"),
    **{
        f"nn.{name}": _Home(getattr(nn, name), "torch", "nn")
        for name in (
            "AvgPool2d",
            "Conv2d",
            "Dropout",
            "ELU",
            "Flatten",
            "LeakyReLU",
            "Linear",
            "LocalResponseNorm",
            "MaxPool2d",
            "PReLU",
            "ReLU",
            "Sigmoid",
            "Softmax",
            "Tanh",
        )
    },
    **_own(caffe, "CaffeBatchNorm2d", "WithinChannelLRN", "filled", "gaussian_", "xavier_"),
    **_own(fillers, "constant_", "msra_", "normal_", "uniform_", "unit_ball_", "fan_xavier_"),
    **_own(modules, "Concat", "Eltwise", "Scale"),
}


@dataclass(frozen=True)
class Named:
    """A function as it is, uncalled."""

    what: str


@dataclass(frozen=True)
class Chosen:
    """A keyword of the network; `own` is what the file says, for a setting that does not."""

    keyword: str
    own: float


@dataclass(frozen=True)
class Call:
    """A call of one of the known functions and classes."""

    what: str
    arguments: tuple[Value, ...] = ()
    options: tuple[tuple[str, Value], ...] = ()


Value: TypeAlias = "Call | Named | Chosen | int | float | bool | str | tuple[Any, ...]"


def call(what: str, *arguments: Value, **options: Value) -> Call:
    """Return a call as it would be written."""
    assert what in _THINGS, f"{what} is not known"
    return Call(what, arguments, tuple(options.items()))


def carried_out(value: Value, setting: Mapping[str, float]) -> Any:
    """Return what a call returns, its arguments first; keywords of the network are taken from the setting."""
    if isinstance(value, Call):
        arguments = [carried_out(each, setting) for each in value.arguments]
        return _THINGS[value.what].thing(
            *arguments, **{name: carried_out(each, setting) for name, each in value.options}
        )
    if isinstance(value, Named):
        return _THINGS[value.what].thing
    return setting.get(value.keyword, value.own) if isinstance(value, Chosen) else value


def chosen_in(value: Value) -> list[Chosen]:
    """Return the keywords of the network that a call takes."""
    if isinstance(value, Chosen):
        return [value]
    if not isinstance(value, Call):
        return []
    return [one for each in (*value.arguments, *(option for _, option in value.options)) for one in chosen_in(each)]


def imports_of(value: Value) -> set[tuple[str, str]]:
    """Return modules and names that Python of a call imports."""
    if isinstance(value, Named):
        return {_THINGS[value.what][1:]}
    if not isinstance(value, Call):
        return set()
    inner = (*value.arguments, *(option for _, option in value.options))
    return {_THINGS[value.what][1:]}.union(*(imports_of(each) for each in inner))


def written(value: Value, open_keywords: frozenset[str] = frozenset()) -> str:
    """Return a call as Python; a keyword in `open_keywords` has no default of its own, but each layer's."""
    if isinstance(value, Call):
        arguments = [written(each, open_keywords) for each in value.arguments]
        arguments += [f"{name}={written(each, open_keywords)}" for name, each in value.options]
        return f"{value.what}({', '.join(arguments)})"
    if isinstance(value, Named):
        return value.what
    if isinstance(value, Chosen):
        keyword = value.keyword
        return f"{value.own!r} if {keyword} is None else {keyword}" if keyword in open_keywords else keyword
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(text: str) -> str:
    """Return a text as Python has it, in double quotes."""
    return json.dumps(text)
