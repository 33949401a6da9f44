"""A digest of a function's code: the same for the same text, another one where it does something else."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from stantune.user_code.changes import LOADS, Changed, both, changed_by, globals_of, node_of, unchanged
from stantune.user_code.globals import folder_of, given, has_source, imported_from

_LENGTH = 16
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (tuple, list, dict, set, frozenset)
# What is deeper, or comes after so many, is told by its kind alone: a digest is not to take minutes.
_DEPTH = 40
_MOST = 100_000


def digest(function: object) -> str:
    """Return a digest of a function and of what it names in its own module and in those beside it.

    Functions and classes count by their code, other globals by the statements that give them their values: the values
    may be others in each run (the time, a folder's name). In a notebook there are no statements to look at, and plain
    values count themselves, but for those that these functions change. Comments, docstrings, decorators and the layout
    do not count.
    Nor do installed modules, data, or what is imported within a function. What it holds itself counts: values in its
    closure and its defaults, arguments of a partial, the object that is called or whose method it is. Plain values are
    taken as they are, tensors and arrays by their bytes, other objects by what pickle would keep of them.
    """
    seen = _Seen(*_module_of(function))
    lines = list(_lines(function, seen))
    if seen.changed:
        # Known when all is looked through, and some of their values are told by then.
        lines = list(_lines(function, _Seen(seen.module, seen.folder, seen.changed)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_LENGTH]


class _Seen:
    """What was told already, so that it is told once, and circles end.

    Attributes:
        module: the function's own, whose classes count with their code.
        folder: from which that is imported; None where it is none of the user's own.
        changed: globals of notebooks that functions change which count; see changed_within.
    """

    def __init__(self, module: str | None, folder: Path | None, changed: Changed | None = None) -> None:
        self.module = module
        self.folder = folder
        self.changed = dict(changed or {})
        self._globals: set[tuple[str, frozenset[str]]] = set()
        self._own: dict[str | None, bool] = {module: True}
        self._left = [_MOST]
        # With the things themselves: the address of one that is gone may be another one's.
        self._names: dict[int, tuple[str, object]] = {}

    def beside(self) -> _Seen:
        """Return another that has seen the same up to here; both together may look into as many as this one."""
        other = _Seen(self.module, self.folder)
        other.changed = self.changed
        other._left, other._own = self._left, self._own
        other._names, other._globals = dict(self._names), set(self._globals)
        return other

    def own(self, module: str | None) -> bool:
        """Tell whether code of a module counts: of the function's own, and of those beside it."""
        if module not in self._own:
            there = sys.modules.get(module or "")
            self._own[module] = self.folder is not None and there is not None and folder_of(vars(there)) == self.folder
        return self._own[module]

    def first(self, module: str, names: frozenset[str]) -> bool:
        """Note that those globals of a module are told; tell whether they were not told before."""
        new = (module, names) not in self._globals
        self._globals.add((module, names))
        return new

    def look(self) -> bool:
        """Tell whether one more object may be looked into."""
        self._left[0] -= 1
        return self._left[0] >= 0

    def name(self, thing: object) -> str | None:
        """Return what a thing was called when it was told; None where it was not."""
        return self._names.get(id(thing), (None, None))[0]

    def add(self, thing: object, name: str | None = None) -> None:
        """Note a thing; one without a name has a number."""
        self._names[id(thing)] = (name or str(len(self._names)), thing)


def _lines(thing: Any, seen: _Seen, depth: int = 0) -> Iterator[str]:
    told = seen.name(thing)
    if told is not None:
        yield f"again {told}"
        return
    if isinstance(thing, functools.partial):
        yield f"partial {_text(thing.args)} {_text(thing.keywords)}"
        yield from _held((thing.args, thing.keywords), seen, depth)
        yield from _lines(thing.func, seen, depth + 1)
    elif isinstance(thing, MethodType):
        yield from _lines(thing.__func__, seen, depth + 1)
        yield from _lines(thing.__self__, seen, depth + 1)
    elif isinstance(thing, staticmethod | classmethod):
        yield from _lines(thing.__func__, seen, depth + 1)
    elif isinstance(thing, property):
        for each in (thing.fget, thing.fset):
            if each is not None:
                yield from _lines(each, seen, depth + 1)
    elif isinstance(thing, FunctionType):
        seen.add(thing, thing.__qualname__)
        yield f"function {thing.__name__} {_text(thing.__defaults__)} {_text(thing.__kwdefaults__)}"
        yield from _held((thing.__defaults__, thing.__kwdefaults__), seen, depth)
        yield from _code_of(thing)
        if not has_source(thing.__globals__):
            seen.changed.update(both(seen.changed, changed_by(thing)))
        for name, value in _enclosed(thing):
            yield f"name {name}"
            yield from _lines(value, seen, depth + 1)
        loaded = globals_of(thing.__code__, LOADS)
        yield from _globals(_names(thing.__code__), loaded, thing.__globals__, seen, depth)
    elif isinstance(thing, type):
        yield from _class(thing, seen, depth)
    elif type(thing) in _PLAIN or (type(thing) in _CONTAINERS and _is_plain(thing)):
        yield _text(thing)
    elif isinstance(thing, ModuleType):
        yield f"module {thing.__name__}"
    else:
        yield from _object(thing, seen, depth)


def _class(thing: type, seen: _Seen, depth: int) -> Iterator[str]:
    seen.add(thing, thing.__qualname__)
    yield f"class {thing.__name__}({', '.join(base.__qualname__ for base in thing.__bases__)})"
    for base in thing.__bases__:
        if base.__module__ == thing.__module__ or seen.own(base.__module__):
            yield from _lines(base, seen, depth + 1)
    for name, value in vars(thing).items():
        if not name.startswith("__") or callable(value):
            yield f"attribute {name}"
            known = isinstance(value, FunctionType | type | staticmethod | classmethod | property | functools.partial)
            if known or seen.own(thing.__module__):
                yield from _lines(value, seen, depth + 1)
            else:
                # Libraries keep in their classes what comes up while they are used.
                yield _text(value)


def _held(values: tuple[object, ...], seen: _Seen, depth: int) -> Iterator[str]:
    """Yield what those values hold whose text does not say it all."""
    for value in values:
        if not _is_plain(value):
            yield from _lines(value, seen, depth + 1)


def _object(thing: Any, seen: _Seen, depth: int) -> Iterator[str]:
    """Yield what an object, or a container of such, holds: what pickle would keep of it; never an address."""
    kind = type(thing)
    seen.add(thing)
    if depth > _DEPTH or not seen.look():
        yield kind.__qualname__
        return
    content = _content(thing)
    if content is not None:
        yield f"{kind.__qualname__} {content}"
        return
    if kind in (set, frozenset):
        # Each by itself: their order is another one in each process.
        inner = ["\n".join(_lines(each, seen.beside(), depth + 1)) for each in thing]
        yield f"{kind.__qualname__} {len(inner)}"
        yield from sorted(inner)
        return
    if kind in _CONTAINERS:
        parts = [each for pair in thing.items() for each in pair] if kind is dict else list(thing)
    else:
        if seen.own(kind.__module__):
            yield from _lines(kind, seen, depth + 1)
        parts = _parts(thing)
    yield f"{kind.__qualname__} {len(parts)}"
    for part in parts:
        # Functions and classes by which pickle finds the way back are no code of the user's.
        foreign = isinstance(part, type | FunctionType) and not seen.own(part.__module__)
        yield from [part.__qualname__] if foreign else _lines(part, seen, depth + 1)


def _parts(thing: Any) -> list[Any]:
    """Return what pickle would keep of an object; nothing where it would refuse it (a lock, a file, a generator)."""
    try:
        reduced = thing.__reduce_ex__(4)
    except Exception:
        # Its own, or one of pickle's; such an object is told by its kind.
        return []
    if not isinstance(reduced, tuple):
        return [reduced]
    how, arguments, *rest = reduced
    state, items, pairs = [*rest, None, None, None][:3]
    try:
        return [how, arguments, state, list(items or ()), [tuple(pair) for pair in pairs or ()]]
    except Exception:
        return [how, arguments, state]


def _content(thing: Any) -> str | None:
    """Return kind, shape and a digest of the bytes of a tensor or an array; None for anything else."""
    # Where nobody has imported them, it is none.
    torch: Any = sys.modules.get("torch")
    numpy: Any = sys.modules.get("numpy")
    if _is_a(thing, torch, "Tensor"):
        try:
            flat = thing.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            content = flat.view(torch.uint8).numpy().tobytes()
        except Exception:
            # One that has no bytes of its own: sparse, quantized, on the device "meta".
            content = b""
        return f"{thing.dtype} {tuple(thing.shape)} {hashlib.sha256(content).hexdigest()}"
    if _is_a(thing, numpy, "ndarray") and not thing.dtype.hasobject:
        try:
            content = thing.tobytes()
        except AttributeError:
            # numpy.ma.masked, on which nothing can be noted, not even what its bytes are filled with.
            content = b""
        return f"{thing.dtype} {thing.shape} {hashlib.sha256(content).hexdigest()}"
    return None


def _is_a(thing: object, module: Any, name: str) -> bool:
    # A module that is being imported may not have it yet.
    return isinstance(thing, getattr(module, name, ()))


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Tell whether the text of a value says all of it."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind not in _CONTAINERS or depth > _DEPTH:
        return False
    if kind is dict:
        return all(_is_plain(key, depth + 1) and _is_plain(each, depth + 1) for key, each in value.items())
    return all(_is_plain(each, depth + 1) for each in value)


def _module_of(function: Any) -> tuple[str | None, Path | None]:
    """Return the module that a function is of and its folder; for an object that is called, that of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, MethodType):
        function = function.__self__
    thing = function if isinstance(function, FunctionType | type) else type(function)
    module = getattr(thing, "__module__", None)
    if isinstance(thing, FunctionType):
        return module, folder_of(thing.__globals__)
    return module, folder_of(vars(sys.modules[module])) if module in sys.modules else None


def _enclosed(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield what a function's closure holds."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            # It holds nothing yet.
            continue


def _globals(
    names: frozenset[str], loaded: frozenset[str], module: Mapping[str, Any], seen: _Seen, depth: int
) -> Iterator[str]:
    """Yield what those globals of a module are.

    Args:
        names: of functions, classes and modules; of attributes, too, since those of a module count.
        loaded: the names of all others.
        module: its globals.
        seen: what was told before.
        depth: how deep that is.
    """
    called = str(module.get("__name__"))
    for name in sorted(names & module.keys()):
        value = module[name]
        # That of a function with a cache, say.
        within = inspect.getattr_static(value, "__wrapped__", None)
        value = within if isinstance(within, FunctionType) else value
        if isinstance(value, FunctionType | type):
            if value.__module__ == called or seen.own(value.__module__):
                yield f"name {name}"
                yield from _lines(value, seen, depth + 1)
        elif isinstance(value, ModuleType):
            if seen.own(value.__name__) and seen.first(value.__name__, names):
                yield f"module {name}"
                yield from _globals(names, names, vars(value), seen, depth + 1)
        elif name in loaded and seen.own(called) and seen.first(called, frozenset({name})):
            for left in () if has_source(module) else unchanged(value, seen.changed.get(name, frozenset())):
                if _is_plain(left):
                    yield f"global {name} {_text(left)}"
            for statement in given(name, module):
                yield f"global {name}"
                yield from _dumped(list(statement.parts))
                yield from _globals(statement.names, statement.names, module, seen, depth + 1)
            for there, other in imported_from(name, module):
                yield from _globals(frozenset({there}), frozenset({there}), other, seen, depth + 1)


def _names(code: CodeType) -> frozenset[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(code.co_names).union(*inner)


def _code_of(function: FunctionType) -> Iterator[str]:
    """Yield a function's syntax tree as text; its bytecode, which differs between Pythons, where there is no source."""
    node = node_of(function)
    yield from _bytecode(function.__code__) if node is None else _dumped(node)


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


def _text(value: Any, depth: int = 0) -> str:
    """Return plain values as text; of others their kind alone, since their text may hold an address."""
    if type(value) is int:
        # Python refuses to write one of thousands of digits, but not in this way.
        return repr(value) if value.bit_length() < 10_000 else hex(value)
    if type(value) in _PLAIN:
        return repr(value)
    if depth > _DEPTH:
        return type(value).__qualname__
    text = functools.partial(_text, depth=depth + 1)
    if type(value) in (tuple, list):
        return f"({', '.join(map(text, value))})"
    if isinstance(value, frozenset | set):
        return f"{{{', '.join(sorted(map(text, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{text(key)}: {text(each)}' for key, each in value.items())}}}"
    if isinstance(value, ModuleType | type | FunctionType):
        return value.__name__
    return type(value).__qualname__
