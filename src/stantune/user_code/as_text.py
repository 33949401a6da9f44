"""Code and plain values as text: the same in each process, and of code under each Python."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from stantune.user_code.changes import node_of

PLAIN = (type(None), bool, int, float, complex, str, bytes)
CONTAINERS = (tuple, list, dict, set, frozenset)
# What is deeper is told by its kind alone.
DEPTH = 40


def code_of(function: FunctionType) -> Iterator[str]:
    """Yield a function's syntax tree as text; its bytecode, which differs between Pythons, where there is no source."""
    node = node_of(function)
    yield from _bytecode(function.__code__) if node is None else dumped(node)


def dumped(node: object) -> Iterator[str]:
    """Yield a syntax tree as text, without docstrings, and without the decorators of definitions."""
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
            yield from dumped(value)
    elif isinstance(node, list):
        yield f"[{len(node)}"
        for each in node:
            yield from dumped(each)
    else:
        yield repr(node)


def _bytecode(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _bytecode(constant)
        else:
            yield text_of(constant)


def text_of(value: Any, depth: int = 0) -> str:
    """Return plain values as text; of others their kind alone, since their text may hold an address."""
    if type(value) is int:
        # Python refuses to write one of thousands of digits, but not in this way.
        return repr(value) if value.bit_length() < 10_000 else hex(value)
    if type(value) in PLAIN:
        return repr(value)
    if depth > DEPTH:
        return type(value).__qualname__
    text = functools.partial(text_of, depth=depth + 1)
    if type(value) in (tuple, list):
        return f"({', '.join(map(text, value))})"
    if isinstance(value, frozenset | set):
        return f"{{{', '.join(sorted(map(text, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{text(key)}: {text(each)}' for key, each in value.items())}}}"
    if isinstance(value, ModuleType | type | FunctionType):
        return value.__name__
    return type(value).__qualname__


def is_plain(value: Any, depth: int = 0) -> bool:
    """Tell whether the text of a value says all of it."""
    kind = type(value)
    if kind in PLAIN:
        return True
    if kind not in CONTAINERS or depth > DEPTH:
        return False
    if kind is dict:
        return all(is_plain(key, depth + 1) and is_plain(each, depth + 1) for key, each in value.items())
    return all(is_plain(each, depth + 1) for each in value)
