"""Keeper: what a function keeps from segment to segment, in one file that is there whole or not at all."""

from __future__ import annotations

import random
import shutil
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import TensorWeakRef

from stantune.errors import AheadCheckpointError, CheckpointError, StantuneError, UsageError
from stantune.objectives.command import folder
from stantune.objectives.surroundings import put_back, random_states
from stantune.objectives.values import PLAIN, plain, restored
from stantune.outcome import Cost
from stantune.protocols import Metric, Segment
from stantune.training import checkpoint as checkpoints
from stantune.training.best import curve_to_go_on_with

if TYPE_CHECKING:
    from stantune.objectives.function.acceleration import Acceleration
    from stantune.stan.config import Stan

_REMEDY = "call run.keep as it was when the file was written, or delete the file and the trial is trained again"
# What a list or dict may hold that others hold, too, and change in place: an optimizer has the tensors of a dict.
_SHARED = (Tensor, np.ndarray, list, dict, set)
# What may hold them.
_HOLD = (list, tuple, dict, OrderedDict, Counter)
_Place = tuple[Any, ...]


class Keeper:
    """Keeps a function's state in the segment's checkpoint.

    Attributes:
        done: how far the training is, in the objective's unit.
        curve: what was reported of a final training, by how far it was.
        losses: the state of Losses.
        cost: what the segment took before.
    """

    def __init__(
        self,
        segment: Segment,
        identity: str,
        metric: Metric,
        stan: Stan | None,
        device: str,
        say: Callable[[str], None],
    ) -> None:
        """Read the segment's checkpoint.

        Args:
            segment: the segment.
            identity: all that the training depends on.
            metric: what reports are compared by.
            stan: STAN's settings, None for none.
            device: where is trained.
            say: is told what the user should know once.

        Raises:
            CheckpointError: it is damaged or another trial's, or further than the segment goes.
        """
        self._path, self._identity, self._device = segment.checkpoint, identity, device
        self._best = segment.best
        self._stan, self._rates, self._say = stan, segment.rates, say
        state: Mapping[str, Any] = checkpoints.load(self._path, identity) or {}
        best = None if segment.best is None else checkpoints.load(segment.best, identity)
        curve = curve_to_go_on_with(metric, state, best, "done") if state else {}
        if curve is None:
            # The weights that were best are gone: they can only be trained again.
            state, curve = {}, {}
        self.curve: dict[int, dict[str, float]] = curve
        self.done: int = state.get("done", 0)
        if self.done > segment.stop:
            raise AheadCheckpointError(
                f"checkpoint {self._path} is at {self.done}, beyond {segment.stop}, where the segment ends; delete it "
                "to train anew"
            )
        self.losses: Mapping[str, Any] = state.get("losses", {})
        # What was done for an earlier segment is in that one's cost.
        same = state.get("start") == segment.start
        self.cost = Cost.from_plain(state["cost"]) if same else Cost()
        self._start = segment.start
        self._saved: Mapping[str, Any] | None = state or None
        self._things: dict[str, Any] = {}
        # What lists and dicts held when the function gave them, by its place.
        self._given: dict[str, dict[_Place, Callable[[], Any]]] = {}
        self._accelerations: list[Acceleration] = []
        self._own = self._path.with_name(f"{self._path.stem}.checkpoint")
        self._has_folder = False
        if state.get("files") is not None:
            folder.unpack(state["files"], self._own)
            self._has_folder = True

    @property
    def keeps(self) -> bool:
        """Tell whether anything is kept, so that a later segment can go on."""
        return bool(self._things) or self._has_folder

    @property
    def accelerates(self) -> bool:
        """Tell whether STAN was put into any model."""
        return bool(self._accelerations)

    @property
    def stands(self) -> bool:
        """Tell whether nothing moves the STAN of any model, of those that have one."""
        return bool(self._accelerations) and all(made.stands for made in self._accelerations)

    @property
    def directory(self) -> Path:
        """See Run.checkpoint_dir."""
        if not self._has_folder:
            # What is there is of a process that was killed before it had saved anything.
            folder.unpack({}, self._own)
            self._has_folder = True
        return self._own

    def add(self, things: Mapping[str, Any]) -> None:
        """See Run.keep."""
        for name, thing in things.items():
            if name in self._things:
                raise UsageError(f"something is kept as {name!r} already; call run.keep with another name")
            if self._saved is None:
                # Now, and not after an hour.
                _state_of(thing, name)
            given = dict(_parts(thing))
            self._given[name] = {place: _held(part) for place, part in given.items()}
            if self._saved is not None:
                self._put_back(thing, name, self._saved, given)
            self._things[name] = thing
            self._let_go(name)
            if isinstance(thing, Optimizer):
                for acceleration in self._accelerations:
                    acceleration.attach(thing)

    def accelerate(self, model: nn.Module, example: Tensor | None, changes: Mapping[str, Any]) -> Acceleration | None:
        """See Run.accelerate."""
        if self._stan is None:
            return None
        # STAN's layers are imported where there are some.
        from stantune.objectives.function.acceleration import Acceleration

        stan = replace(self._stan, **changes) if self._stan.rate != 1 else self._stan
        if stan.least_rate == "auto":
            raise UsageError(
                "`rate`='auto' of run.accelerate is measured by the clock in each segment, and a trial would go on "
                "with another plan; give run.accelerate a number, such as 0.5"
            )
        made = Acceleration(model, stan, self._rates, self.done, example, self._say)
        if self._saved is not None:
            states = self._saved["stan"]
            if len(states) <= len(self._accelerations):
                raise self._misfit(f"is of {len(states)} accelerated models, and here are more")
            made.load(states[len(self._accelerations)])
        for thing in self._things.values():
            if isinstance(thing, Optimizer):
                made.attach(thing)
        self._accelerations.append(made)
        return made

    def begin(self) -> None:
        """Put back what is put back last, the random states; raises CheckpointError as `check` does."""
        if self._saved is None:
            return
        self.check()
        put_back(restored(self._saved["random"]), self._device)
        # It may be large, and nobody needs it any more.
        self._saved = None

    def check(self) -> None:
        """Raise CheckpointError where the checkpoint has what nobody has asked for."""
        if self._saved is None:
            return
        if left := self._saved["kept"].keys() - self._things.keys():
            raise self._misfit(f"holds {', '.join(sorted(left))}, and here nobody has called run.keep for that")
        if len(self._saved["stan"]) > len(self._accelerations):
            raise self._misfit("is of an accelerated model, and here run.accelerate was not called")

    def reach(self, done: int) -> bool:
        """Note how far the training is; tell whether any iteration since the last time was reduced."""
        self.done = done
        followed = [acceleration.follow(done) for acceleration in self._accelerations]
        return any(followed)

    def save(self, losses: Mapping[str, Any], cost: Cost) -> None:
        """Write the checkpoint; where nothing is kept, nothing is written."""
        self._write(self._path, self.done, losses, cost)

    def save_best(self, done: int, losses: Mapping[str, Any], cost: Cost) -> None:
        """Write the file of the best weights, as they are after so much training; as `save` does."""
        if self._best is not None:
            self._write(self._best, done, losses, cost)

    def close(self) -> None:
        """Let go of everything, so that a model's memory is free."""
        for acceleration in self._accelerations:
            acceleration.detach()
        self._things.clear()
        self._given.clear()
        self._accelerations.clear()
        self._saved = None
        if self._has_folder:
            shutil.rmtree(self._own, ignore_errors=True)

    def _write(self, path: Path, done: int, losses: Mapping[str, Any], cost: Cost) -> None:
        if not self.keeps:
            return
        state = {
            "done": done,
            "start": self._start,
            "kept": {name: _state_of(thing, name) for name, thing in self._things.items()},
            "places": {name: plain(self._places(name), f"what is kept as {name!r}") for name in self._things},
            "random": plain(random_states(self._device), "the random states"),
            "stan": [plain(made.state, "STAN's state") for made in self._accelerations],
            "losses": dict(losses),
            "cost": asdict(cost),
            "files": folder.packed(self._own) if self._has_folder else None,
        }
        if self._best is not None:
            state["curve"] = self.curve
        checkpoints.save(path, self._identity, state)

    def _places(self, name: str) -> list[_Place | None]:
        """Return for each part of a kept thing where it was when the function gave it; None for what came later."""
        self._let_go(name)
        places = {id(held()): place for place, held in self._given[name].items()}
        return [places.get(id(part)) for _, part in _parts(self._things[name])]

    def _let_go(self, name: str) -> None:
        """Forget what nobody holds any more of what the function gave, and what may hold much and was replaced."""
        there = {id(part) for _, part in _parts(self._things[name])}
        for place, held in list(self._given[name].items()):
            part = held()
            # Lists and dicts cannot be held weakly, and hold others: weights that have been replaced, perhaps.
            if part is None or (type(part) in (list, dict) and id(part) not in there):
                del self._given[name][place]

    def _put_back(self, thing: Any, name: str, saved: Mapping[str, Any], given: Mapping[_Place, Any]) -> None:
        if name not in saved["kept"]:
            raise self._misfit(f"has nothing called {name!r}")
        try:
            state = restored(saved["kept"][name], self._device)
            if type(thing) in (list, dict):
                # Files of before do not say where anything was.
                state = _in_given(state, iter(restored(saved.get("places", {}).get(name, []))), given)
            _load(thing, state)
        except StantuneError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise self._misfit(f"has another {name!r} than the one that is kept now ({said})") from error

    def _misfit(self, how: str) -> CheckpointError:
        return CheckpointError(f"checkpoint {self._path} {how}; {_REMEDY}")


def _state_of(thing: Any, name: str) -> Any:
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
        return thing.detach()
    if isinstance(thing, np.ndarray):
        return plain(np.asarray(thing), what)
    raise UsageError(
        f"{what} is a {type(thing).__name__}, which cannot be put back in its place; keep what has state_dict and "
        "load_state_dict, a random generator, a tensor, or a list or dict that holds plain values"
    )


def _load(thing: Any, state: Any) -> None:
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
        _state_of(thing, "")


def _items(thing: Any) -> Iterable[tuple[Any, Any]]:
    """Return the places in a container and what is there; nothing of all else."""
    if type(thing) not in _HOLD:
        return ()
    return thing.items() if isinstance(thing, dict) else enumerate(thing)


def _parts(thing: Any, place: _Place = ()) -> Iterator[tuple[_Place, Any]]:
    """Yield all of a list's or dict's parts, at any depth, that others may hold, too, each with its place."""
    for key, part in _items(thing):
        # First, and without a call: most parts are the numbers of a long history.
        if type(part) in PLAIN:
            continue
        if isinstance(part, _SHARED):
            yield (*place, key), part
        yield from _parts(part, (*place, key))


def _held(part: Any) -> Callable[[], Any]:
    """Return what gives a part for as long as it is there: weakly where it can be, so that its memory becomes free."""
    try:
        return TensorWeakRef(part) if isinstance(part, Tensor) else weakref.ref(part)
    except TypeError:
        return lambda: part


def _in_given(state: Any, places: Iterator[_Place | None], given: Mapping[_Place, Any]) -> Any:
    """Return what was saved of a list or dict, in the function's own objects wherever those were still in it.

    A model's parameters in a dict have to stay the ones that model and optimizer hold. What had been put in their place
    meanwhile, such as a copy of the best weights, must not be written into them.

    Args:
        state: what was saved; changed in place.
        places: for each of its parts, in the order of `_parts`, where that was among the function's; None for nowhere.
        given: what the function has there now.
    """
    made = []
    for _, part in _items(state):
        if type(part) in PLAIN:
            made.append(part)
            continue
        place = next(places, None) if isinstance(part, _SHARED) else None
        own = None if place is None else given.get(place)
        made.append(_within(own, _in_given(part, places, given)))
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
    _load(own, state)
    return own


def _same_shape(thing: Any, state: Any) -> None:
    if thing.shape != state.shape or thing.dtype != state.dtype:
        raise ValueError(f"{tuple(state.shape)} {state.dtype}, not {tuple(thing.shape)} {thing.dtype}")
