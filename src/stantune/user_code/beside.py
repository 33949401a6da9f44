"""Modules beside a user's file: found first, and never mistaken for those of the same name beside another file."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from stantune.errors import UsageError
from stantune.user_code.module_paths import import_first, is_users

_PACKAGE = __name__.partition(".")[0]
# Files that were run here. What has the names of modules beside them now, they may have arranged themselves.
_run: set[Path] = set()


def find_beside(file: Path) -> None:
    """Have what a file, by its real path, imports found beside it; so for what is found there.

    Raises:
        UsageError: it would be run with a module of another folder of the user's, which has the name already.
    """
    folder, before = file.parent, sys.path.copy()
    import_first(str(folder))
    if file in _run:
        return
    left, seen = [(file, "")], {file}
    while left:
        source, package = left.pop()
        for name in _imported(source, package):
            here = _file_of(name, folder)
            if here is None or here in seen:
                continue
            seen.add(here)
            other = _taken(name)
            if other is not None and not _same(other, here):
                sys.path[:] = before
                raise UsageError(
                    f"{source} imports {name} from {here}, and a program has one module of a name: here it is "
                    f"{other}; rename one of the two, or use each in a program of its own (two studies, not one)"
                )
            left.append((here, name if here.stem == "__init__" else name.rpartition(".")[0]))
    _run.add(file)


def _imported(source: Path, package: str) -> Iterator[str]:
    """Yield the modules that a file may import, within functions, too, each behind the packages that it is in."""
    try:
        tree = ast.parse(source.read_bytes())
    except (OSError, SyntaxError, ValueError):
        # What is wrong with it is said when it is run.
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
        guarded = isinstance(node, ast.If) and {"TYPE_CHECKING", "__name__"} & {
            getattr(part, "id", None) or getattr(part, "attr", None) for part in ast.walk(node.test)
        }
        left += node.orelse if isinstance(node, ast.If) and guarded else ast.iter_child_nodes(node)


def _file_of(name: str, folder: Path) -> Path | None:
    """Return the file that a module is by its name in a folder; None where there is none."""
    path = folder.joinpath(*name.split("."))
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file.resolve() for file in files if file.is_file()), None)


def _taken(name: str) -> Path | None:
    """Return what file of the user's own has a name already; None where there is none."""
    module = sys.modules.get(name)
    # Packages without an __init__.py are folders alone.
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None or name.partition(".")[0] == _PACKAGE:
        return None
    real = Path(file).resolve()
    return real if is_users(real) else None


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
