"""Messages by their shapes: which fields there are, of which kind; what is none of them is refused on its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stantune.images.prototxt.syntax.text import Message, RefusalError, Scalar
from stantune.texts import brief

Plain = Literal["int", "long", "uint", "float", "bool", "string", "anything"]
_TRUE, _FALSE = ("true", "True", "t", "1"), ("false", "False", "f", "0")
_WANTED = {
    "int": "a whole number",
    "long": "a whole number",
    "uint": "a whole number of 0 or more",
    "float": "a finite number of 32 bits",
    "bool": "true or false",
    "string": "a text in quotes",
}
# As whole numbers in base 8 or 16 begin, and no float.
_NOT_DECIMAL = re.compile(r"-?0[0-9xX]")
# How alike a field of the shape is to be to one that it does not have, for a hint.
_NEAR = 0.75
_INFINITE = ("inf", "infinity", "nan")
# The largest number that Caffe, and what trains, can hold: float32's.
LARGEST = (2.0 - 2.0**-23) * 2.0**127


@dataclass(frozen=True)
class Enum:
    """Names and their numbers."""

    names: Mapping[str, int]


@dataclass(frozen=True)
class Shape:
    """A kind of message and its fields.

    Attributes:
        name: for messages.
        fields: by their names.
        called: what is put before its own `name`, where a message is told by that.
    """

    name: str
    fields: Mapping[str, Of]
    called: str = ""


@dataclass(frozen=True)
class Of:
    """What a field holds: "anything" is looked into by nobody, since what has it is refused or it says nothing."""

    kind: Plain | Enum | Shape
    default: Any = None
    repeated: bool = False


class Node:
    """A message read by its shape: `node["field"]` is its value, the default one where the file does not say."""

    def __init__(self, shape: Shape, line: int) -> None:
        self.shape = shape
        self.line = line
        self.values: dict[str, Any] = {}
        self.lines: dict[str, int] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        field = self.shape.fields[name]
        if field.repeated:
            return []
        return Node(field.kind, self.line) if isinstance(field.kind, Shape) else field.default

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def line_of(self, name: str) -> int:
        """Return where a field stands (the first of its values), or the message where the file does not say it."""
        return self.lines.get(name, self.line)

    def content(self, *left_out: str) -> Any:
        """Return all that is said, without lines, but for some fields: equal where two say the same."""
        return {name: _content(value) for name, value in self.values.items() if name not in left_out}


def _content(value: Any) -> Any:
    if isinstance(value, list):
        return [_content(each) for each in value]
    return value.content() if isinstance(value, Node) else value


def read(message: Message, shape: Shape) -> Node:
    """Return a message's fields by their kinds.

    Raises RefusalError for a field that its shape does not have, one that is given twice, or a value of another kind.
    """
    node = Node(shape, message.line)
    for field in message.fields:
        of = shape.fields.get(field.name)
        if of is None:
            near = difflib.get_close_matches(field.name, shape.fields, n=1, cutoff=_NEAR)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise RefusalError(field.line, f"{shape.name} has no field {brief(field.name)}{hint}; mend or remove it")
        value = _value(of.kind, field.name, field.value)
        node.lines.setdefault(field.name, field.line)
        if of.repeated:
            node.values.setdefault(field.name, []).append(value)
        elif field.name in node.values:
            raise RefusalError(field.line, f"{field.name} is given a second time in {shape.name}; remove one")
        else:
            node.values[field.name] = value
    return node


def _value(kind: Plain | Enum | Shape, name: str, value: Scalar | Message) -> Any:
    if kind == "anything":
        return None
    if isinstance(kind, Shape):
        if isinstance(value, Scalar):
            raise RefusalError(value.line, f"{name} is {brief(repr(value.text))}; give fields in braces")
        try:
            return read(value, kind)
        except RefusalError as error:
            raise RefusalError(error.line, f"{_called(kind, value)}{error.words}") from None
    if isinstance(value, Message):
        wanted = ", ".join(kind.names) if isinstance(kind, Enum) else _WANTED[kind]
        raise RefusalError(value.line, f"{name} has fields in braces; give {brief(wanted)}")
    found = _enumerated(kind, value) if isinstance(kind, Enum) else _plain(kind, value)
    if found is None:
        wanted = f"one of {', '.join(kind.names)}" if isinstance(kind, Enum) else _WANTED[kind]
        quotes = ", without quotes" if value.kind == "text" else ""
        raise RefusalError(value.line, f"{name} is {brief(repr(value.text))}; give {wanted}{quotes}")
    return found


def _called(kind: Shape, value: Message) -> str:
    names = [field.value for field in value.fields if kind.called and field.name == "name"]
    given = next((name.text for name in names if isinstance(name, Scalar)), None)
    return "" if given is None else f"{kind.called} {brief(repr(given))}: "


def _enumerated(kind: Enum, value: Scalar) -> str | None:
    if value.kind == "word":
        return value.text if value.text in kind.names else None
    number = _whole(value)
    return next((name for name, own in kind.names.items() if own == number), None)


def _plain(kind: Plain, value: Scalar) -> Any:
    if kind == "string":
        return value.text if value.kind == "text" else None
    if kind == "bool":
        known = value.kind != "text" and value.text in (*_TRUE, *_FALSE)
        return value.text in _TRUE if known else None
    if kind == "float":
        return _real(value)
    number = _whole(value)
    low, high = {"uint": (0, 2**32), "int": (-(2**31), 2**31), "long": (-(2**63), 2**63)}[kind]
    return number if number is not None and low <= number < high else None


def _whole(value: Scalar) -> int | None:
    if value.kind != "number":
        return None
    sign, digits = (-1, value.text[1:]) if value.text.startswith("-") else (1, value.text)
    try:
        if digits.lower().startswith("0x"):
            return sign * int(digits, 16)
        return sign * int(digits, 8 if len(digits) > 1 and digits.startswith("0") else 10)
    except ValueError:
        return None


def _real(value: Scalar) -> float | None:
    if value.kind == "text" or _NOT_DECIMAL.match(value.text):
        return None
    if value.kind == "word" and value.text.lower().lstrip("-") not in _INFINITE:
        return None
    number = float(value.text.rstrip("fF") if value.kind == "number" else "inf")
    return number if abs(number) <= LARGEST else None
