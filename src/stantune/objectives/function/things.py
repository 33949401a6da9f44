"""Things that are kept: what is saved of each, and how it becomes what it was, in its place."""

from __future__ import annotations

import random
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from stantune.errors import UsageError
from stantune.objectives.values import PLAIN, plain

# What a list or dict may hold that others hold, too, and change in place: an optimizer has the tensors of a dict.
_SHARED = (Tensor, np.ndarray, list, dict, set)
# What may hold them.
_HOLD = (list, tuple, dict, OrderedDict, Counter)
Place = tuple[Any, ...]


def state_of(thing: Any, name: str) -> Any:
    """Return what a kept thing is now; raises UsageError where it cannot be kept."""
    what = f"what is kept as {name!r}"
    if callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None)):
        return plain(thing.state_dict(), what)
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    if isinstance(thing, np.random.Generator):
        return plain(thing.bit_generator.state, what)
    if isinstance(thing, np.random.RandomState):
        return plain(thing.get_state(legacy=False), what)
    if isinstance(thing, random.Random) and type(thing) is not random.SystemRandom:
        return thing.getstate()
    if type(thing) in (list, dict):
        return plain(thing, what)
    if isinstance(thing, Tensor):
        state = thing.detach()
        # As it is, wherever it is; only a class of somebody's own is refused, which could not be read back.
        plain(state, what)
        return state
    if isinstance(thing, np.ndarray):
        return plain(np.asarray(thing), what)
    raise UsageError(
        f"{what} is a {type(thing).__name__}, which cannot be put back in its place; keep what has state_dict and "
        "load_state_dict, a random generator, a tensor, or a list or dict that holds plain values"
    )


def load(thing: Any, state: Any) -> None:
    """Make a kept thing what it was."""
    if callable(getattr(thing, "load_state_dict", None)):
        thing.load_state_dict(state)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, np.random.Generator):
        thing.bit_generator.state = state
    elif isinstance(thing, np.random.RandomState):
        thing.set_state(state)
    elif isinstance(thing, random.Random):
        thing.setstate(state)
    elif isinstance(thing, list):
        thing[:] = state
    elif isinstance(thing, dict):
        thing.clear()
        thing.update(state)
    elif isinstance(thing, Tensor):
        _same_shape(thing, state)
        with torch.no_grad():
            thing.copy_(state)
    elif isinstance(thing, np.ndarray):
        _same_shape(thing, state)
        thing[...] = state
    else:
        # It says so.
        state_of(thing, "")


def _items(thing: Any) -> Iterable[tuple[Any, Any]]:
    """Return the places in a container and what is there; nothing of all else."""
    if type(thing) not in _HOLD:
        return ()
    return thing.items() if isinstance(thing, dict) else enumerate(thing)


def parts(thing: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield all of a list's or dict's parts, at any depth, that others may hold, too, each with its place."""
    for key, part in _items(thing):
        # First, and without a call: most parts are the numbers of a long history.
        if type(part) in PLAIN:
            continue
        if isinstance(part, _SHARED):
            yield (*place, key), part
        yield from parts(part, (*place, key))


def weakly(part: Any) -> Callable[[], Any]:
    """Return what gives a part for as long as it is there: weakly where it can be, so that its memory becomes free."""
    try:
        return TensorWeakRef(part) if isinstance(part, Tensor) else weakref.ref(part)
    except TypeError:
        return lambda: part


def in_given(state: Any, places: Iterator[Place | None], given: Mapping[Place, Any]) -> Any:
    """Return what was saved of a list or dict, in the function's own objects wherever those were still in it.

    A model's parameters in a dict have to stay the ones that model and optimizer hold. What had been put in their place
    meanwhile, such as a copy of the best weights, must not be written into them.

    Args:
        state: what was saved; changed in place.
        places: for each of its parts, in the order of `parts`, where that was among the function's; None for nowhere.
        given: what the function has there now.
    """
    made = []
    for _, part in _items(state):
        if type(part) in PLAIN:
            made.append(part)
            continue
        place = next(places, None) if isinstance(part, _SHARED) else None
        own = None if place is None else given.get(place)
        made.append(_within(own, in_given(part, places, given)))
    if type(state) is tuple:
        return tuple(made)
    for (key, _), part in zip(_items(state), made, strict=True):
        state[key] = part
    return state


def _within(own: Any, state: Any) -> Any:
    """Return a function's own object with what was saved of it; where that cannot be, what was saved."""
    if not any(isinstance(own, kind) and isinstance(state, kind) for kind in _SHARED):
        return state
    if isinstance(own, Tensor):
        # A parameter of another shape is refused: what trains it would go on without what was learned.
        fits = own.requires_grad or (own.shape == state.shape and own.dtype == state.dtype)
        if not fits or own.is_inference() or own.layout is not torch.strided or 0 in own.stride():
            return state
        own.requires_grad_(state.requires_grad)
    elif isinstance(own, np.ndarray):
        if own.shape != state.shape or own.dtype != state.dtype or not own.flags.writeable:
            return state
    elif isinstance(own, set):
        own.clear()
        own.update(state)
        return own
    load(own, state)
    return own


def _same_shape(thing: Any, state: Any) -> None:
    if thing.shape != state.shape or thing.dtype != state.dtype:
        raise ValueError(f"{tuple(state.shape)} {state.dtype}, not {tuple(thing.shape)} {thing.dtype}")
