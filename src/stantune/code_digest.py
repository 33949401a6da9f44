"""A digest of a function's code: the same for the same text, another one where it does something else."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_LENGTH = 16
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def digest(function: object) -> str:
    """Return a digest of a function and of the functions and classes of its own module that it names.

    Comments, docstrings, decorators and the layout do not count. Nor do other modules, data, or values of globals,
    which may be another one in each run (the time, a folder's name); what a closure holds counts where it is plain.
    """
    seen: dict[int, str] = {}
    return hashlib.sha256("\n".join(_lines(function, seen)).encode()).hexdigest()[:_LENGTH]


def _lines(thing: Any, seen: dict[int, str]) -> Iterator[str]:
    if id(thing) in seen:
        yield f"again {seen[id(thing)]}"
        return
    if isinstance(thing, functools.partial):
        yield f"partial {_text(thing.args)} {_text(thing.keywords)}"
        yield from _lines(thing.func, seen)
    elif isinstance(thing, MethodType | staticmethod | classmethod):
        yield from _lines(thing.__func__, seen)
    elif isinstance(thing, property):
        for each in (thing.fget, thing.fset):
            if each is not None:
                yield from _lines(each, seen)
    elif isinstance(thing, FunctionType):
        seen[id(thing)] = thing.__qualname__
        yield f"function {thing.__name__} {_text(thing.__defaults__)} {_text(thing.__kwdefaults__)}"
        yield from _code_of(thing)
        for name, value in _named(thing):
            yield f"name {name}"
            yield from _lines(value, seen)
    elif isinstance(thing, type):
        seen[id(thing)] = thing.__qualname__
        yield f"class {thing.__name__}({', '.join(base.__qualname__ for base in thing.__bases__)})"
        for base in thing.__bases__:
            if base.__module__ == thing.__module__:
                yield from _lines(base, seen)
        for name, value in vars(thing).items():
            if not name.startswith("__") or callable(value):
                yield f"attribute {name}"
                yield from _lines(value, seen)
    elif type(thing) in _PLAIN or type(thing) in (tuple, list, dict):
        yield _text(thing)
    elif callable(thing) and isinstance(type(thing).__call__, FunctionType):
        yield from _lines(type(thing).__call__, seen)
    else:
        yield type(thing).__qualname__


def _named(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield what a function names: what its closure holds, and functions and classes of its module."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            # It holds nothing yet.
            continue
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType | type) and value.__module__ == function.__module__:
            yield name, value


def _names(code: CodeType) -> set[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _code_of(function: FunctionType) -> Iterator[str]:
    """Yield a function's syntax tree as text; its bytecode, which differs between Pythons, where there is no source."""
    try:
        # Of the code, and not of the function, which would be that of what it wraps.
        tree = ast.parse(textwrap.dedent(inspect.getsource(function.__code__)))
        node = tree.body[0]
        if isinstance(node, ast.FunctionDef) and node.name == function.__code__.co_name:
            yield from _dumped(node)
            return
    except (OSError, TypeError, SyntaxError, IndexError):
        pass
    # A lambda has no source of its own, only lines that it stands on.
    yield from _bytecode(function.__code__)


def _dumped(node: object) -> Iterator[str]:
    # Not ast.dump, whose text changes from one Python to the next.
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                value = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if value in (None, []) or name in ("decorator_list", "type_comment", "kind"):
                continue
            yield f".{name}"
            yield from _dumped(value)
    elif isinstance(node, list):
        yield f"[{len(node)}"
        for each in node:
            yield from _dumped(each)
    else:
        yield repr(node)


def _bytecode(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _bytecode(constant)
        else:
            yield _text(constant)


def _text(value: Any) -> str:
    """Return plain values as text; of others their kind alone, since their text may hold an address."""
    if type(value) in _PLAIN:
        return repr(value)
    if type(value) in (tuple, list):
        return f"({', '.join(map(_text, value))})"
    if isinstance(value, frozenset | set):
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(key)}: {_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, ModuleType | type | FunctionType):
        return value.__name__
    return type(value).__qualname__
