"""A digest of a function's code: the same for the same text, another one where it does something else."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from stantune.user_code.as_text import CONTAINERS, DEPTH, PLAIN, code_of, dumped, is_plain, text_of
from stantune.user_code.changes import LOADS, Changed, both, changed_by, globals_of, noted_by, unchanged
from stantune.user_code.globals import folder_of, given, has_source, imported_from, is_installed, typed_in
from stantune.user_code.noted import Digest

_LENGTH = 16
# What comes after so many is told by its kind alone, as what is too deep: a digest is not to take minutes.
_MOST = 100_000


def digest(function: object) -> Digest:
    """Return a digest of a function and of what it names in its own module and in those beside it.

    Functions and classes count by their code, other globals by the statements that give them their values: the values
    may be others in each run (the time, a folder's name). In a notebook there are no statements to look at, and plain
    values count themselves, but for those that these functions change. Decorators of functions that it names count by
    their code and by what the decorated statement gives them, not by what they keep (see _around). Comments, docstrings
    and the layout do not count. Nor do installed modules, data, or what is imported within a function.
    What it holds itself counts: values in its closure and its defaults, arguments of a partial, the object that is
    called or whose method it is, and what its own decorators keep, or a method's: it may be given them by what no
    statement tells (an argument of the command). Plain values are taken as they are, tensors and arrays by their bytes,
    other objects by what pickle would keep of them.
    """
    return Digest(_digest(function), _digest(function, earlier=True))


def _digest(function: object, earlier: bool = False) -> str:
    """Return a digest; `earlier` by the rule of earlier versions, by which tables of those are known again."""
    seen = _Seen(*_module_of(function, earlier), earlier=earlier)
    lines = list(_lines(function, seen))
    if seen.changed:
        # Known when all is looked through, and some of their values are told by then.
        lines = list(_lines(function, _Seen(seen.module, seen.folders, seen.changed, earlier)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_LENGTH]


class _Seen:
    """What was told already, so that it is told once, and circles end.

    Attributes:
        module: the function's own, whose classes count with their code.
        folders: from which that is imported, several beside a notebook; none where it is none of the user's own.
        changed: globals of notebooks that functions change which count; see changed_within.
        earlier: whether it is told as earlier versions did. They saw neither the modules beside a notebook nor what a
            function has around it (but for the one that is digested, and methods), knew fewer statements that give a
            global its value, and looked into functions and classes of installed modules.
    """

    def __init__(
        self, module: str | None, folders: frozenset[Path], changed: Changed | None = None, earlier: bool = False
    ) -> None:
        self.module = module
        self.folders = folders
        self.changed = dict(changed or {})
        self.earlier = earlier
        self._globals: set[tuple[str, frozenset[str]]] = set()
        self._own: dict[str | None, bool] = {module: True}
        self._installed: dict[str | None, bool] = {module: False}
        self._around: set[int] = set()
        self._left = [_MOST]
        # With the things themselves: the address of one that is gone may be another one's.
        self._names: dict[int, tuple[str, object]] = {}

    def beside(self) -> _Seen:
        """Return another that has seen the same up to here; both together may look into as many as this one."""
        other = _Seen(self.module, self.folders, earlier=self.earlier)
        other.changed = self.changed
        other._left, other._own, other._installed = self._left, self._own, self._installed
        other._around = self._around
        other._names, other._globals = dict(self._names), set(self._globals)
        return other

    def own(self, module: str | None) -> bool:
        """Tell whether code of a module counts: of the function's own, and of those beside it."""
        if module not in self._own:
            there = sys.modules.get(module or "")
            self._own[module] = there is not None and folder_of(vars(there)) in self.folders
        return self._own[module]

    def installed(self, module: str | None) -> bool:
        """Tell whether a module is an installed one, whose code does not count; the function's own is none here."""
        if self.earlier:
            return False
        if module not in self._installed:
            there = sys.modules.get(module or "")
            self._installed[module] = there is not None and is_installed(vars(there))
        return self._installed[module]

    def add_around(self, thing: object) -> None:
        """Note what decorators made of a function that is named: what they count or keep there is told no more."""
        while not self.earlier and id(thing) not in self._around and (within := _wrapped_by(thing)) is not None:
            self._around.add(id(thing))
            thing = within

    def add_part_of(self, thing: object) -> None:
        """Note a function that a decorator made, and uses: what it keeps is told no more, either."""
        self._around.add(id(thing))

    def is_around(self, thing: object) -> bool:
        """Tell whether a decorator made a function of one that is named."""
        return id(thing) in self._around

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
        yield f"partial {text_of(thing.args)} {text_of(thing.keywords)}"
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
        installed = seen.installed(_home(thing))
        if installed:
            yield _name_of(thing, seen)
        else:
            yield f"function {thing.__name__} {text_of(thing.__defaults__)} {text_of(thing.__kwdefaults__)}"
            yield from _held((thing.__defaults__, thing.__kwdefaults__), seen, depth)
            yield from code_of(thing)
            if not has_source(thing.__globals__):
                seen.changed.update(both(seen.changed, changed_by(thing)))
        # Also where it is an installed one: that which a decorator made holds a function of the user's.
        for name, value in _around(thing, seen) if seen.is_around(thing) else _enclosed(thing):
            yield f"name {name}"
            yield from _lines(value, seen, depth + 1)
        if not installed:
            loaded = globals_of(thing.__code__, LOADS)
            yield from _globals(_names(thing.__code__), loaded, thing.__globals__, seen, depth)
    elif isinstance(thing, type):
        seen.add(thing, thing.__qualname__)
        yield from [_name_of(thing, seen)] if _is_found(thing, seen) else _class(thing, seen, depth)
    elif type(thing) in PLAIN or (type(thing) in CONTAINERS and is_plain(thing)):
        yield text_of(thing)
    elif isinstance(thing, ModuleType):
        yield f"module {thing.__name__}"
    else:
        yield from _object(thing, seen, depth)


def _around(thing: FunctionType, seen: _Seen) -> Iterator[tuple[str, object]]:
    """Yield what counts of a decorator's closure: functions, and in a notebook plain values that it does not change.

    What it was given stands in the decorated statement. Its values may be others in each run (the time, a folder), and
    move while it is used (a cache, a generator).
    """
    noted = {} if has_source(thing.__globals__) else noted_by(thing)
    for name, value in _enclosed(thing):
        within = _wrapped_by(value) or value
        if isinstance(within, FunctionType | type):
            if within is not _wrapped_by(thing):
                seen.add_part_of(within)
            yield name, within
        elif type(value) in PLAIN and not has_source(thing.__globals__) and name not in noted:
            yield name, value


def _home(thing: FunctionType) -> str | None:
    """Return the name of the module that a function's code is in; `__module__` may be that of what it wraps."""
    name = thing.__globals__.get("__name__")
    return name if isinstance(name, str) else None


def _is_found(thing: type, seen: _Seen) -> bool:
    """Tell whether a class is an installed module's own: one that is made there by a call may hold the user's code."""
    if not seen.installed(thing.__module__):
        return False
    found: Any = sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = inspect.getattr_static(found, name, None)
    return found is thing


def _name_of(thing: FunctionType | type, seen: _Seen) -> str:
    """Return what is said of an installed function or class, whose code does not count."""
    # That of what it wraps is the user's, and called otherwise where it is a script's.
    place = f"{thing.__module__}." if seen.installed(thing.__module__) else ""
    return f"installed {place}{thing.__qualname__}"


def _class(thing: type, seen: _Seen, depth: int) -> Iterator[str]:
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
                yield text_of(value)


def _held(values: tuple[object, ...], seen: _Seen, depth: int) -> Iterator[str]:
    """Yield what those values hold whose text does not say it all."""
    for value in values:
        if not is_plain(value):
            yield from _lines(value, seen, depth + 1)


def _object(thing: Any, seen: _Seen, depth: int) -> Iterator[str]:
    """Yield what an object, or a container of such, holds: what pickle would keep of it; never an address."""
    kind = type(thing)
    seen.add(thing)
    if depth > DEPTH or not seen.look():
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
    if kind in CONTAINERS:
        parts = [each for pair in thing.items() for each in pair] if kind is dict else list(thing)
    else:
        if seen.own(kind.__module__):
            yield from _lines(kind, seen, depth + 1)
        parts = _parts(thing, seen)
    yield f"{kind.__qualname__} {len(parts)}"
    for part in parts:
        # Functions and classes by which pickle finds the way back are no code of the user's.
        foreign = isinstance(part, type | FunctionType) and not seen.own(part.__module__)
        yield from [part.__qualname__] if foreign else _lines(part, seen, depth + 1)


def _parts(thing: Any, seen: _Seen) -> list[Any]:
    """Return what pickle would keep of an object; nothing where it would refuse it (a lock, a file, a generator)."""
    try:
        reduced = thing.__reduce_ex__(4)
    except Exception:
        # Its own, or one of pickle's; such an object is told by its kind.
        return []
    if not isinstance(reduced, tuple):
        # A name, and that of a function with a cache, say, leads to no code.
        within = None if seen.earlier else _wrapped_by(thing)
        return [reduced, within] if within is not None and seen.own(within.__module__) else [reduced]
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


def _wrapped_by(thing: Any) -> FunctionType | None:
    """Return the function that a thing was made of by a decorator, or a cache; None where it says none."""
    within = inspect.getattr_static(thing, "__wrapped__", None)
    return within if isinstance(within, FunctionType) else None


def _module_of(function: Any, earlier: bool) -> tuple[str | None, frozenset[Path]]:
    """Return the module that a function is of and its folders; for an object that is called, those of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, MethodType):
        function = function.__self__
    for _ in range(0 if earlier else DEPTH):
        # Around it may be a cache, or decorators of other modules.
        function = _wrapped_by(function) or function
    thing = function if isinstance(function, FunctionType | type) else type(function)
    module = getattr(thing, "__module__", None)
    if isinstance(thing, FunctionType):
        there: Mapping[str, Any] = thing.__globals__
    else:
        there = vars(sys.modules[module]) if module in sys.modules else {}
    folder = folder_of(there)
    return module, frozenset({folder} if folder is not None else () if earlier else typed_in(there))


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
        thing = module[name]
        within = _wrapped_by(thing)
        # What is around it counts where it is the user's; a cache is not, say.
        value = thing if within is None or _is_near(thing, called, seen) else within
        seen.add_around(value)
        if isinstance(value, FunctionType | type):
            if value.__module__ == called or seen.own(value.__module__):
                yield f"name {name}"
                yield from _lines(value, seen, depth + 1)
        elif isinstance(value, ModuleType) and seen.own(value.__name__) and seen.first(value.__name__, names):
            yield f"module {name}"
            yield from _globals(names, names, vars(value), seen, depth + 1)
        if value is not thing:
            own = not seen.earlier and seen.own(type(thing).__module__)
            if not own and not seen.is_around(value):
                continue
            if own:
                # A decorator that is a class: its object may do more than to call what it was given.
                yield from _lines(type(thing), seen, depth + 1)
        elif isinstance(thing, FunctionType | type | ModuleType) and not seen.is_around(thing):
            continue
        if name in loaded and seen.own(called) and seen.first(called, frozenset({name})):
            for left in () if has_source(module) else unchanged(thing, seen.changed.get(name, frozenset())):
                if is_plain(left):
                    yield f"global {name} {text_of(left)}"
            for statement in given(name, module, seen.earlier):
                yield f"global {name}"
                yield from dumped(list(statement.parts))
                yield from _globals(statement.names, statement.names, module, seen, depth + 1)
            for there, other in imported_from(name, module):
                yield from _globals(frozenset({there}), frozenset({there}), other, seen, depth + 1)


def _is_near(wrapper: object, called: str, seen: _Seen) -> bool:
    """Tell whether a function that wraps another one has its code in a module, or in one beside it."""
    home = _home(wrapper) if isinstance(wrapper, FunctionType) else None
    return home is not None and not seen.earlier and (home == called or seen.own(home))


def _names(code: CodeType) -> frozenset[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(code.co_names).union(*inner)
