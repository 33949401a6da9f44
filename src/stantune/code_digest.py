"""A digest of a function's code: the same for the same text, another one where it does something else."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_LENGTH = 16
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (tuple, list, dict, set, frozenset)
# What is deeper, or comes after so many, is told by its kind alone: a digest is not to take minutes.
_DEPTH = 40
_MOST = 100_000


def digest(function: object) -> str:
    """Return a digest of a function and of the functions and classes of its own module that it names.

    Comments, docstrings, decorators and the layout do not count. Nor do other modules, data, or values of globals,
    which may be another one in each run (the time, a folder's name). What it holds itself counts: values in its closure
    and its defaults, arguments of a partial, the object that is called or whose method it is. Plain values are taken as
    they are, tensors and arrays by their bytes, other objects by what pickle would keep of them.
    """
    seen = _Seen(_module_of(function))
    return hashlib.sha256("\n".join(_lines(function, seen)).encode()).hexdigest()[:_LENGTH]


class _Seen:
    """What was told already, so that it is told once, and circles end.

    Attributes:
        module: the function's own, whose classes count with their code.
    """

    def __init__(self, module: str | None) -> None:
        self.module = module
        self._left = [_MOST]
        # With the things themselves: the address of one that is gone may be another one's.
        self._names: dict[int, tuple[str, object]] = {}

    def beside(self) -> _Seen:
        """Return another that has seen the same up to here; both together may look into as many as this one."""
        other = _Seen(self.module)
        other._left, other._names = self._left, dict(self._names)
        return other

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
        for name, value in _named(thing):
            yield f"name {name}"
            yield from _lines(value, seen, depth + 1)
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
        if base.__module__ == thing.__module__:
            yield from _lines(base, seen, depth + 1)
    for name, value in vars(thing).items():
        if not name.startswith("__") or callable(value):
            yield f"attribute {name}"
            known = isinstance(value, FunctionType | type | staticmethod | classmethod | property | functools.partial)
            if known or thing.__module__ == seen.module:
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
        if kind.__module__ == seen.module:
            yield from _lines(kind, seen, depth + 1)
        parts = _parts(thing)
    yield f"{kind.__qualname__} {len(parts)}"
    for part in parts:
        # Functions and classes by which pickle finds the way back are no code of the user's.
        foreign = isinstance(part, type | FunctionType) and part.__module__ != seen.module
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
        return f"{thing.dtype} {thing.shape} {hashlib.sha256(thing.tobytes()).hexdigest()}"
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


def _module_of(function: Any) -> str | None:
    """Return the module that a function is of; for an object that is called, that of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, MethodType):
        function = function.__self__
    thing = function if isinstance(function, FunctionType | type) else type(function)
    return getattr(thing, "__module__", None)


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
