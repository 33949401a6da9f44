"""What a module's globals are given by: the statements of its own source; and whether another module lies beside it."""

from __future__ import annotations

import ast
import functools
import importlib.util
import linecache
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stantune.user_code.module_paths import is_users

_PACKAGE = __name__.partition(".")[0]
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Given(NamedTuple):
    """A statement of a module that gives a global its value.

    Attributes:
        parts: it, behind the conditions that it stands under.
        names: what it names.
    """

    parts: tuple[ast.AST, ...]
    names: frozenset[str]


def folder_of(module: Mapping[str, Any]) -> Path | None:
    """Return the folder from which a module of the user's own is imported; None for an installed one, or for Python's.

    Args:
        module: its globals.
    """
    spec, file = module.get("__spec__"), module.get("__file__")
    name = str(spec.name if spec is not None else module.get("__name__", ""))
    if not isinstance(file, str) or name.partition(".")[0] == _PACKAGE:
        return None
    real = Path(file).resolve()
    above = name.count(".") + (real.stem == "__init__")
    return real.parents[above] if is_users(real) and above < len(real.parents) else None


def given(name: str, module: Mapping[str, Any]) -> Iterator[Given]:
    """Yield the statements at the top of a module that give a global its value, or change it."""
    for statement, under in _statements(_tree(module).body, ()):
        if name in _changed(statement):
            parts = (*under, statement)
            yield Given(parts, frozenset(_named(parts)) - {name})


def imported_from(name: str, module: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield from which modules a global is imported by its name: what it is called there, and their globals."""
    for statement, _ in _statements(_tree(module).body, ()):
        if not isinstance(statement, ast.ImportFrom):
            continue
        for alias in statement.names:
            if name == (alias.asname or alias.name) or alias.name == "*":
                path = "." * statement.level + (statement.module or "")
                try:
                    path = importlib.util.resolve_name(path, module.get("__package__"))
                except ImportError:
                    continue
                there = vars(sys.modules[path]) if path in sys.modules else {}
                own = name if alias.name == "*" else alias.name
                if own in there:
                    yield own, there


def has_source(module: Mapping[str, Any]) -> bool:
    """Tell whether a module has statements to look at: not a notebook, nor what was typed or piped into Python."""
    return bool(_source(module))


def _tree(module: Mapping[str, Any]) -> ast.Module:
    return _parsed(_source(module))


def _source(module: Mapping[str, Any]) -> str:
    file = module.get("__file__")
    if not isinstance(file, str):
        return ""
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


@functools.lru_cache(maxsize=32)
def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _statements(body: list[ast.stmt], under: tuple[ast.AST, ...]) -> Iterator[tuple[ast.stmt, tuple[ast.AST, ...]]]:
    """Yield what is done as a module is imported, each statement with the conditions that it stands under."""
    for statement in body:
        yield statement, under
        if isinstance(statement, _DEFINITIONS):
            continue
        conditions = [getattr(statement, name, None) for name in ("test", "iter", "subject")]
        inner = (*under, *(each for each in conditions if each is not None))
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, name, []), inner)
        for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            yield from _statements(part.body, inner)


def _changed(statement: ast.stmt) -> set[str]:
    """Return the globals that a statement gives a value, or that it changes: `a = 1`, `a[0] = 1`, `a.add(1)`."""
    targets: list[ast.AST] = []
    if isinstance(statement, ast.Assign):
        targets += statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets.append(statement.target)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        if isinstance(statement.value.func, ast.Attribute):
            targets.append(statement.value.func)
    elif isinstance(statement, ast.With):
        targets += [item.optional_vars for item in statement.items if item.optional_vars is not None]
    found: set[str] = set()
    for target in targets:
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        for part in parts:
            found.update(variable_of(part))
    return found


def variable_of(target: Any) -> Iterator[str]:
    """Yield the variable that is meant by `a`, `a[0]`, `a.b` or `*a`."""
    while isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
        target = target.value
    if isinstance(target, ast.Name):
        yield target.id


def _named(parts: tuple[ast.AST, ...]) -> Iterator[str]:
    for part in parts:
        for node in ast.walk(part):
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, ast.Attribute):
                yield node.attr
