"""Reads the pickles that CIFAR-10 batches come in, without running them.

A pickle is a program, and Python's own reader runs it. Even where it may call nothing but the functions that make up
NumPy's arrays, it calls them with arguments of its choice, and some of those make NumPy read memory that is not its
own. Here a call is written down and never made: whoever reads the batch finds the array's bytes in it and checks them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from stantune.images.data.fetching.unpacking import UnsoundError

# What rebuilds a NumPy array, by pickle protocol; the module was renamed in NumPy 2.
RECONSTRUCT = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
FROM_BUFFER = frozenset({"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"})
DTYPE = "numpy.dtype"
_ADMITTED = RECONSTRUCT | FROM_BUFFER | {DTYPE, "numpy.ndarray"}
# A byte string of Python 2 is text where it is as short as this, and an array's bytes where it is longer.
_SHORT = 255
_LONG_BYTES = 8


class Call:
    """A call that a pickle asks for: the function's name, its arguments, and the state that the result would get."""

    __slots__ = ("arguments", "function", "state")

    def __init__(self, function: str, arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.state: Any = None


class _Name:
    """A function or class that a pickle names."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def unpickled(content: bytes, most_steps: int) -> Any:
    """The value of a pickle of protocol 2 to 5: None, numbers, text, bytes (as memoryview), lists, tuples,
    dictionaries of text, and Call.

    It takes time and memory in proportion to its length and at most `most_steps` operations. Raises UnsoundError
    where it is cut short, damaged or longer, or asks for what no batch needs.
    """
    reader = _Reader(content)
    try:
        for _ in range(most_steps):
            code = reader.number(1)
            if code == _STOP:
                return reader.stack.pop()
            if code not in _STEPS:
                raise UnsoundError(f"is altered (its pickle has an operation {code:#04x}, which no batch needs)")
            _STEPS[code](reader)
    except (IndexError, KeyError):
        raise UnsoundError("is altered (not a sound pickle: it uses a value that it does not have)") from None
    raise UnsoundError(f"is altered (not a batch: its pickle has more than {most_steps} operations)")


class _Reader:
    """The state of a pickle's program: its stack, the stacks below the marks, and the values that it keeps."""

    def __init__(self, content: bytes) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.kept: dict[int, Any] = {}
        self._content = memoryview(content)
        self._at = 0

    def take(self, size: int) -> memoryview:
        """The next bytes of the pickle."""
        end = self._at + size
        if end > len(self._content):
            raise UnsoundError("is cut short (its pickle ends early)")
        taken, self._at = self._content[self._at : end], end
        return taken

    def number(self, size: int, signed: bool = False) -> int:
        """A number of so many bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> str:
        """The text up to the end of the line."""
        text = bytearray()
        while (byte := self.number(1)) != ord("\n"):
            text.append(byte)
            if len(text) > _SHORT:
                raise UnsoundError("is altered (not a sound pickle: a name without an end)")
        return text.decode("latin-1")

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        found, self.stack = self.stack, self.below.pop()
        return found


def _mark(reader: _Reader) -> None:
    reader.below.append(reader.stack)
    reader.stack = []


def _text(reader: _Reader, width: int, encoding: str) -> None:
    """Text of Python 3, or a byte string of Python 2, whose text is in ASCII wherever we need it."""
    taken = reader.take(reader.number(width))
    if encoding == "latin-1" and len(taken) > _SHORT:
        reader.stack.append(taken)
        return
    try:
        reader.stack.append(str(taken, encoding, "surrogatepass" if encoding == "utf-8" else "strict"))
    except UnicodeDecodeError:
        raise UnsoundError("is altered (not a sound pickle: a text that is none)") from None


def _long(reader: _Reader) -> None:
    size = reader.number(1)
    if size > _LONG_BYTES:
        raise UnsoundError(f"is altered (its pickle has a number of {size} bytes, which no batch needs)")
    reader.stack.append(reader.number(size, signed=True))


def _tuple(reader: _Reader, size: int) -> None:
    if len(reader.stack) < size:
        raise IndexError
    taken = tuple(reader.stack[-size:])
    del reader.stack[-size:]
    reader.stack.append(taken)


def _append(reader: _Reader, values: list[Any]) -> None:
    if not isinstance(reader.stack[-1], list):
        raise UnsoundError("is altered (not a sound pickle: it appends to what is no list)")
    reader.stack[-1].extend(values)


def _set(reader: _Reader, values: list[Any]) -> None:
    entries = reader.stack[-1]
    # Text alone: to find any other key takes a hash of it, and that of nested tuples takes for ever.
    if not isinstance(entries, dict) or len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
        raise UnsoundError("is altered (not a batch: its pickle has other keys than text)")
    entries.update(zip(values[::2], values[1::2], strict=True))


def _name(reader: _Reader, module: Any, name: Any) -> None:
    wanted = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
    if wanted not in _ADMITTED:
        shown = wanted if wanted.replace(".", "").isidentifier() and len(wanted) <= 100 else "what has no name"
        raise UnsoundError(f"is altered (its pickle asks for {shown}, which no CIFAR-10 batch holds)")
    reader.stack.append(_Name(wanted))


def _call(reader: _Reader) -> None:
    arguments, function = reader.stack.pop(), reader.stack.pop()
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise UnsoundError("is altered (not a sound pickle: it calls what is no function)")
    reader.stack.append(Call(function.name, arguments))


def _build(reader: _Reader) -> None:
    state, made = reader.stack.pop(), reader.stack[-1]
    if not isinstance(made, Call):
        raise UnsoundError("is altered (not a sound pickle: it gives a state to what has none)")
    made.state = state


def _keep(reader: _Reader, place: int) -> None:
    reader.kept[place] = reader.stack[-1]


def _pushing(value: Callable[[_Reader], Any]) -> Callable[[_Reader], None]:
    def step(reader: _Reader) -> None:
        found = value(reader)  # first: to find a tuple's values changes what the stack is
        reader.stack.append(found)

    return step


_STOP = ord(".")
_STEPS: dict[int, Callable[[_Reader], None]] = {
    ord(code): step
    for code, step in {
        "\x80": lambda reader: reader.take(1),  # the protocol's number
        "\x95": lambda reader: reader.take(8),  # a frame's length
        "(": _mark,
        "N": _pushing(lambda reader: None),
        "\x88": _pushing(lambda reader: True),
        "\x89": _pushing(lambda reader: False),
        "K": _pushing(lambda reader: reader.number(1)),
        "M": _pushing(lambda reader: reader.number(2)),
        "J": _pushing(lambda reader: reader.number(4, signed=True)),
        "\x8a": _long,
        "G": _pushing(lambda reader: struct.unpack(">d", reader.take(8))[0]),
        "U": lambda reader: _text(reader, 1, "latin-1"),
        "T": lambda reader: _text(reader, 4, "latin-1"),
        "\x8c": lambda reader: _text(reader, 1, "utf-8"),
        "X": lambda reader: _text(reader, 4, "utf-8"),
        "\x8d": lambda reader: _text(reader, 8, "utf-8"),
        "C": _pushing(lambda reader: reader.take(reader.number(1))),
        "B": _pushing(lambda reader: reader.take(reader.number(4))),
        "\x8e": _pushing(lambda reader: reader.take(reader.number(8))),
        "\x96": _pushing(lambda reader: reader.take(reader.number(8))),
        "]": _pushing(lambda reader: []),
        "}": _pushing(lambda reader: {}),
        ")": _pushing(lambda reader: ()),
        "t": _pushing(lambda reader: tuple(reader.marked())),
        "\x85": lambda reader: _tuple(reader, 1),
        "\x86": lambda reader: _tuple(reader, 2),
        "\x87": lambda reader: _tuple(reader, 3),
        "a": lambda reader: _append(reader, [reader.stack.pop()]),
        "e": lambda reader: _append(reader, reader.marked()),
        "s": lambda reader: _set(reader, [reader.stack.pop(-2), reader.stack.pop()]),
        "u": lambda reader: _set(reader, reader.marked()),
        "q": lambda reader: _keep(reader, reader.number(1)),
        "r": lambda reader: _keep(reader, reader.number(4)),
        "\x94": lambda reader: _keep(reader, len(reader.kept)),
        "h": _pushing(lambda reader: reader.kept[reader.number(1)]),
        "j": _pushing(lambda reader: reader.kept[reader.number(4)]),
        "c": lambda reader: _name(reader, reader.line(), reader.line()),
        "\x93": lambda reader: _name(reader, *reversed((reader.stack.pop(), reader.stack.pop()))),
        "R": _call,
        "b": _build,
    }.items()
}
