"""Modules beside a user's file: found first, and never mistaken for those of the same name beside another file."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from stantune.errors import UsageError
from stantune.user_code.globals import is_for_scripts
from stantune.user_code.module_paths import import_first, is_users

_PACKAGE = __name__.partition(".")[0]
# Of files that were run here, what had the names of modules beside them then: they may have seen to it themselves.
_had: dict[Path, dict[str, Path | None]] = {}


def find_beside(file: Path) -> list[str]:
    """Have what a file, by its real path, imports found beside it; so for what is found there. Return their names.

    Raises:
        UsageError: it would be run with a module of another folder of the user's, which has the name already.
    """
    folder, before, had = file.parent, sys.path.copy(), _had.get(file, {})
    import_first(str(folder))
    names: list[str] = []
    left, seen = [(file, "")], {file}
    while left:
        source, package = left.pop()
        text = _text(source)
        for name in _imported(text, package):
            here = _file_of(name, folder)
            if here is None or here in seen:
                continue
            seen.add(here)
            names.append(name)
            # Where a file arranges what is found, nobody knows before.
            other = _taken(name, b"sys.path" not in text)
            if other is not None and not _same(other, here) and had.get(name) != other:
                sys.path[:] = before
                raise UsageError(
                    f"{source} imports {name} from {here}, and a program has one module of a name: here it is "
                    f"{other}; rename one of the two, or use each in a program of its own (two studies, not one)"
                )
            left.append((here, name if here.stem == "__init__" else name.rpartition(".")[0]))
    return names


def note_run(file: Path, names: Sequence[str]) -> None:
    """Note, of a file that was run, by its real path, what has the names that `find_beside` returned."""
    _had[file] = {name: _taken(name, False) for name in names}


def _text(source: Path) -> bytes:
    """Return a file's text; what is wrong with it is said when it is run."""
    try:
        return source.read_bytes()
    except OSError:
        return b""


def _imported(text: bytes, package: str) -> Iterator[str]:
    """Yield the modules that a file may import, within functions, too, each behind the packages that it is in."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in _executed(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            # What is imported from a package may be a module of it.
            names = [f"{base}.{name}" for name in names]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what may be executed where a file is imported: not what is for type checkers or for a script alone."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        left += node.orelse if isinstance(node, ast.If) and _is_never(node.test) else ast.iter_child_nodes(node)


def _is_never(test: ast.expr) -> bool:
    """Tell whether a condition is TYPE_CHECKING, or that the file is a script."""
    return is_for_scripts(test) or (getattr(test, "id", None) or getattr(test, "attr", None)) == "TYPE_CHECKING"


def _file_of(name: str, folder: Path) -> Path | None:
    """Return the file that a module is by its name in a folder; None where there is none."""
    path = folder.joinpath(*name.split("."))
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file.resolve() for file in files if file.is_file()), None)


def _taken(name: str, foreseen: bool) -> Path | None:
    """Return what file of the user's own has a name already; `foreseen`, or would be found by it. None for none."""
    if name.partition(".")[0] == _PACKAGE:
        return None
    module = sys.modules.get(name)
    if module is None and foreseen:
        spec = _spec(name)
        file = spec.origin if spec is not None and spec.has_location else None
    else:
        # Packages without an __init__.py are folders alone.
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    real = None if file is None else Path(file).resolve()
    return real if real is not None and is_users(real) else None


def _spec(name: str) -> ModuleSpec | None:
    """Return what would be found by a name; nothing is imported."""
    package = name.rpartition(".")[0]
    if not package:
        return PathFinder.find_spec(name)
    if package in sys.modules:
        folders = getattr(sys.modules[package], "__path__", None)
    else:
        spec = _spec(package)
        folders = None if spec is None else spec.submodule_search_locations
    return None if folders is None else PathFinder.find_spec(name, folders)


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
