"""What a module's globals are given by: the statements of its own source; and whether another module lies beside it."""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import importlib.util
import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from stantune.user_code.module_paths import is_users

_PACKAGE = __name__.partition(".")[0]
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# What nobody can change to whom it is given.
_FIXED = (type(None), bool, int, float, complex, str, bytes)
# What of this package searches or trains, by name, and what is asked for settings; all else only makes something.
_SEARCHING = frozenset({"check_objective", "open_search", "run", "study", "tune", "OpenSearch"})


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
    file, name = module.get("__file__"), _called(module)
    if not isinstance(file, str) or name.partition(".")[0] == _PACKAGE:
        return None
    real = Path(file).resolve()
    above = name.count(".") + (real.stem == "__init__")
    return real.parents[above] if is_users(real) and above < len(real.parents) else None


def typed_in(module: Mapping[str, Any]) -> frozenset[Path]:
    """Return the folders beside a notebook, or what else has no file and is the program; none for other modules."""
    if module.get("__name__") != "__main__" or isinstance(module.get("__file__"), str) or "" not in sys.path:
        return frozenset()
    return frozenset(filter(is_users, _working_folders()))


@functools.cache
def _working_folders() -> frozenset[Path]:
    """Return the program's working folders as they were when they were first asked for: cells may go to another one."""
    # IPython notes where `%cd` has been. What was imported before it lies in the folder of then.
    been = vars(sys.modules["__main__"]).get("_dh")
    folders = {Path(each).resolve() for each in been if isinstance(each, str | Path)} if type(been) is list else set()
    # Of `import`, too, "" is the working folder, wherever among the others it stands.
    with contextlib.suppress(OSError):
        folders.add(Path.cwd().resolve())
    return frozenset(folders)


def is_installed(module: Mapping[str, Any]) -> bool:
    """Tell whether a module is of an installed package, of this one, or of Python's own library."""
    file, root = module.get("__file__"), _called(module).partition(".")[0]
    if root == _PACKAGE:
        return True
    return root in sys.stdlib_module_names if not isinstance(file, str) else not is_users(Path(file).resolve())


def _called(module: Mapping[str, Any]) -> str:
    """Return the name by which a module is imported."""
    spec = module.get("__spec__")
    return str(spec.name if spec is not None else module.get("__name__", ""))


def given(name: str, module: Mapping[str, Any], earlier: bool = False) -> Iterator[Given]:
    """Yield the statements at the top of a module that give a global its value, or change it, or what it draws.

    Args:
        name: the global's.
        module: its globals.
        earlier: by the rule of earlier versions, which knew fewer.
    """
    seeds: list[Given] = []
    for statement, under in _statements(_tree(module).body, ()):
        if _is_seed(statement):
            seeds.append(_given((*under, statement), name))
        handed = not earlier and name in _handed(statement, under, module)
        if handed or name in _changed(statement, earlier):
            parts = (*under, *_deciding(statement))
            if not earlier and _may_draw(parts, module):
                # Each once: what is drawn later depends on what was drawn before.
                yield from seeds
                seeds.clear()
            yield _given(parts, name)


def _given(parts: tuple[ast.AST, ...], name: str) -> Given:
    return Given(parts, frozenset(_named(parts)) - {name})


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


def _changed(statement: ast.stmt, earlier: bool) -> set[str]:
    """Return the globals that a statement gives a value, or that it changes: `a = 1`, `a[0] = 1`, `a.add(1)`.

    So does what is decorated: `@decorator` gives a name the object that it makes, and `@a.add` adds to another one.
    """
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
    elif isinstance(statement, ast.For) and not earlier:
        targets.append(statement.target)
    elif isinstance(statement, _DEFINITIONS) and statement.decorator_list and not earlier:
        called = [each.func if isinstance(each, ast.Call) else each for each in statement.decorator_list]
        targets += [ast.Name(statement.name), *(each for each in called if isinstance(each, ast.Attribute))]
    return {name for target in targets for part in _flat(target, not earlier) for name in variable_of(part)}


def _handed(statement: ast.stmt, under: tuple[ast.AST, ...], module: Mapping[str, Any]) -> set[str]:
    """Return the globals that a statement gives to what it calls, which may change them: `fill(a, 1)`.

    Not so what prints, a call of this package, what searches, or what only a script does.
    """
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or any(map(is_for_scripts, under)):
        return set()
    called = set(variable_of(call.func))
    if "print" in called or any(_changes_nothing(name, module) for name in called):
        return set()
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    names = {name for value in values for part in _flat(value, True) for name in variable_of(part)}
    return {name for name in names if not isinstance(module.get(name), _FIXED)}


def _changes_nothing(name: str, module: Mapping[str, Any]) -> bool:
    """Tell whether a global is this package's, or a function that searches: a script's `main`, which may be edited."""
    return _package_of(name, module) == _PACKAGE or _searches(name, (), module, set())


def _searches(name: str, attributes: Sequence[str], module: Mapping[str, Any], seen: set[str]) -> bool:
    """Tell whether a global, or what is read of it, is what searches, or a function of the file that uses such.

    Args:
        name: the global's.
        attributes: what is read of it: `a`, and of that `b`.
        module: its globals.
        seen: functions that were looked into.
    """
    thing = module.get(name)
    if _package_of(name, module) == _PACKAGE:
        own = attributes if isinstance(thing, ModuleType) else (getattr(thing, "__name__", type(thing).__name__),)
        return not _SEARCHING.isdisjoint(own)
    if name in seen or not isinstance(thing, FunctionType) or thing.__globals__ is not module:
        return False
    seen.add(name)
    return _reaches_search(thing.__code__, module, seen)


def _reaches_search(code: CodeType, module: Mapping[str, Any], seen: set[str]) -> bool:
    """Tell whether a code uses what searches, also within: a comprehension, a lambda, an import of its own."""
    within = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return (
        any(_searches(each, read, module, seen) for each, read in _read_by(code))
        or _imports_search(code)
        or any(_reaches_search(each, module, seen) for each in within)
    )


def _imports_search(code: CodeType) -> bool:
    """Tell whether a code imports what searches of this package, or the package itself and names such."""
    imported = ""
    for each in dis.get_instructions(code):
        if each.opname == "IMPORT_NAME":
            imported = each.argval.partition(".")[0]
        elif (each.opname == "IMPORT_FROM" and imported == _PACKAGE and each.argval in _SEARCHING) or (
            each.opname == "STORE_FAST" and imported == _PACKAGE and not _SEARCHING.isdisjoint(code.co_names)
        ):
            return True
    return False


def _read_by(code: CodeType) -> list[tuple[str, list[str]]]:
    """Return the globals that a code reads, in turn, each with what is read of it at once: `name.a.b`."""
    found: list[tuple[str, list[str]]] = []
    goes_on = False
    for each in dis.get_instructions(code):
        if each.opname == "LOAD_GLOBAL":
            found.append((each.argval, []))
            goes_on = True
        elif each.opname in ("LOAD_ATTR", "LOAD_METHOD") and goes_on:
            found[-1][1].append(each.argval)
        elif each.opname != "EXTENDED_ARG":
            goes_on = False
    return found


def is_for_scripts(test: ast.AST) -> bool:
    """Tell whether a condition is that the file is a script: `__name__ == "__main__"`."""
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
        return False
    return isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _flat(target: ast.AST, deep: bool) -> Iterator[ast.AST]:
    """Yield the parts of what is written as a tuple or a list; `deep`, also those of parts."""
    if not isinstance(target, ast.Tuple | ast.List):
        yield target
        return
    for part in target.elts:
        yield from _flat(part.value if isinstance(part, ast.Starred) else part, True) if deep else [part]


def _deciding(statement: ast.stmt) -> tuple[ast.AST, ...]:
    """Return what of a statement decides the values that it gives."""
    if isinstance(statement, ast.For):
        return statement.target, statement.iter
    if isinstance(statement, _DEFINITIONS):
        return *statement.decorator_list, statement
    return (statement,)


def _is_seed(statement: ast.stmt) -> bool:
    """Tell whether a statement calls what has a seed in its name: `torch.manual_seed(0)`, `seed_everything(0)`."""
    call = getattr(statement, "value", None)
    if not isinstance(call, ast.Call):
        return False
    return "seed" in str(getattr(call.func, "attr", getattr(call.func, "id", ""))).lower()


def _may_draw(parts: tuple[ast.AST, ...], module: Mapping[str, Any]) -> bool:
    """Tell whether random numbers may be drawn there: what is called is none of Python's own, or its `random`."""
    calls = (node.func for part in parts for node in ast.walk(part) if isinstance(node, ast.Call))
    packages = {_package_of(name, module) for call in calls for name in variable_of(call)}
    return not packages <= {_PACKAGE, *sys.stdlib_module_names} - {"random"}


def _package_of(name: str, module: Mapping[str, Any]) -> str:
    """Return the package of what a global is, or what made it; "builtins" for what is none, as Python's own."""
    value = module.get(name, abs)
    if isinstance(value, (*_FIXED, tuple, list, dict, set)):
        return "builtins"
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return str(home).partition(".")[0]


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
