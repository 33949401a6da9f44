"""Which globals functions change, and what of them they leave as it is."""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
from collections.abc import Collection, Iterator
from types import CodeType, FunctionType
from typing import Any, TypeAlias

from stantune.user_code.globals import variable_of

# How globals are read.
LOADS = ("LOAD_GLOBAL", "LOAD_NAME")
# Methods that change a list, a dict or a set.
_SETS = ("difference", "intersection", "symmetric_difference")
_LISTS = {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"}
_CHANGING = _LISTS | {"popitem", "setdefault", "update", "add", "discard"} | {f"{name}_update" for name in _SETS}
# Variables that are changed: those of which nothing but items under known keys is, with these; others with None.
Changed: TypeAlias = dict[str, frozenset[Any] | None]


def changed_by(function: FunctionType) -> Changed:
    """Return which globals a function changes, as far as its code tells."""
    node = node_of(function)
    if node is None:
        return dict.fromkeys(globals_of(function.__code__, ("STORE_GLOBAL",)))
    names = globals_of(function.__code__, (*LOADS, "STORE_GLOBAL"))
    return {name: keys for name, keys in changed_within(node).items() if name in names}


def noted_by(function: FunctionType) -> Changed:
    """Return what a function changes of what its closure holds, as far as its code tells: a count, or a cache."""
    node = node_of(function)
    if node is None:
        return dict.fromkeys(globals_of(function.__code__, ("STORE_DEREF",)))
    return changed_within(node)


def changed_within(function: ast.AST) -> Changed:
    """Return the variables that a function's code gives a value, or changes, its own among them."""
    found: Changed = {}
    # A comprehension has variables of its own.
    targets = (each.target for each in ast.walk(function) if isinstance(each, ast.comprehension))
    inner = {id(node) for target in targets for node in ast.walk(target)}
    for node in ast.walk(function):
        given = isinstance(getattr(node, "ctx", None), ast.Store | ast.Del) and id(node) not in inner
        if given or (isinstance(node, ast.Attribute) and node.attr in _CHANGING):
            key = _key(node)
            keys = None if key is None else frozenset({key.value})
            found = both(found, dict.fromkeys(variable_of(node), keys))
    # What is used in another way than by its items may be changed by whom it is given to.
    items = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Subscript) and _key(node)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in found and id(node) not in items:
            found[node.id] = None
    return found


def both(one: Changed, other: Changed) -> Changed:
    """Return what is changed where both changes are made."""
    merged = {**one, **other}
    for name in one.keys() & other.keys():
        before, after = one[name], other[name]
        merged[name] = None if before is None or after is None else before | after
    return merged


def unchanged(value: Any, keys: frozenset[Any] | None) -> Iterator[Any]:
    """Yield what is left of a variable's value where that under these keys is changed; nothing of one changed whole.

    What such a dict holds of lists and the like may be changed by other names, and is not left.
    """
    if keys is None or (keys and type(value) is not dict):
        return
    if keys:
        value = {key: each for key, each in value.items() if key not in keys and type(each) not in (list, dict, set)}
    yield value


def _key(target: Any) -> ast.Constant | None:
    """Return the key by which an item of a variable is meant, or something in that item; None where none is said."""
    outer = None
    while isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
        outer, target = target, target.value
    key = outer.slice if isinstance(outer, ast.Subscript) else None
    return key if isinstance(key, ast.Constant) else None


def globals_of(code: CodeType, operations: Collection[str]) -> frozenset[str]:
    """Return the names of globals alone, of those that come up in such operations."""
    inner = [globals_of(constant, operations) for constant in code.co_consts if isinstance(constant, CodeType)]
    names = (each.argval for each in dis.get_instructions(code) if each.opname in operations)
    return frozenset(names).union(*inner)


def node_of(function: FunctionType) -> ast.FunctionDef | None:
    """Return a function's syntax tree; a lambda has no source of its own, only lines that it stands on."""
    try:
        # Of the code, and not of the function, which would be that of what it wraps.
        tree = ast.parse(textwrap.dedent(inspect.getsource(function.__code__)))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in tree.body[:1]:
        if isinstance(node, ast.FunctionDef) and node.name == function.__code__.co_name:
            return node
    return None
