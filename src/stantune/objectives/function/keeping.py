"""Keeper: what a function keeps from segment to segment, in one file that is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from stantune.errors import AheadCheckpointError, CheckpointError, StantuneError, UsageError, words_of
from stantune.objectives.function import folder
from stantune.objectives.function.beside import (
    Groups,
    Modes,
    groups_of,
    modes_beside,
    modes_of,
    other_groups,
    put_groups,
    put_modes,
)
from stantune.objectives.function.things import Place, in_given, load, parts, state_of, weakly
from stantune.objectives.surroundings import put_back, random_states
from stantune.objectives.values import has_lost, plain, restored, same, tight
from stantune.outcome import Cost
from stantune.protocols import Metric, Segment
from stantune.texts import one_line
from stantune.training import checkpoint as checkpoints
from stantune.training.best import curve_to_go_on_with

if TYPE_CHECKING:
    from stantune.objectives.function.acceleration import Acceleration
    from stantune.stan.config import Stan

_REMEDY = "call run.keep as it was when the file was written, or delete the file and the trial is trained again"
# Of an optimizer that has another number of groups: to train the trial again would end there once more.
_GROUPS = (
    "call add_param_group before run.keep where a step that is done has called it (`if run.start > 5:`), or give the "
    "optimizer all parameters at once and freeze some of them until then by requires_grad_(False)"
)
# The key of what the last step of a training that is over left, where it was changed after that.
_LEFT = "left"


class Held(NamedTuple):
    """What is kept at a moment.

    Attributes:
        kept: the states of things, by their names.
        files: those of the folder, None where there is no folder.
    """

    kept: dict[str, Any]
    files: dict[str, Tensor] | None


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
        state: Mapping[str, Any] = _left_by_steps(checkpoints.load(self._path, identity) or {})
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
        self.cost = Cost.from_plain(state["cost"]) if state.get("start") == segment.start else Cost()
        self._start = segment.start
        self._saved: Mapping[str, Any] | None = state or None
        self._things: dict[str, Any] = {}
        # What lists and dicts held when the function gave them, by its place.
        self._given: dict[str, dict[Place, Callable[[], Any]]] = {}
        # How the modules and parameters of models were when the function gave them, and when its steps began.
        self._modes: dict[str, list[Modes]] = {}
        # What the groups of optimizers were when they had been put back.
        self._groups: dict[str, Groups] = {}
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
                state_of(thing, name)
            given = dict(parts(thing))
            self._given[name] = {place: weakly(part) for place, part in given.items()}
            if isinstance(thing, nn.Module):
                self._modes[name] = [modes_of(thing)]
            if self._saved is not None:
                self._put_back(thing, name, self._saved, given)
                self._groups[name] = groups_of(thing)
            self._things[name] = thing
            self._let_go(name)
            if isinstance(thing, Optimizer):
                for acceleration in self._accelerations:
                    acceleration.attach(thing)
        # A schedule has changed its optimizer when it was made, which was put back before, perhaps.
        self._put_groups()

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
        """Put back what is put back last: groups, modes, random states; raises CheckpointError as `check` does."""
        for name, before in self._modes.items():
            before.append(modes_of(self._things[name]))
        if self._saved is None:
            return
        self.check()
        self._put_groups()
        # Checkpoints of before have none, and nor have those in which all are as they were given.
        for name, modes in self._saved.get("modes", {}).items():
            if isinstance(model := self._things[name], nn.Module):
                put_modes(model, modes)
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

    def save(self, losses: Mapping[str, Any], cost: Cost, step: bool = True) -> None:
        """Write the checkpoint; where nothing is kept, nothing is written.

        Modes go on from the end of a `step` alone: who has left the steps may have evaluated since.
        """
        self._write(self._path, self.done, losses, cost, step)

    def save_best(self, done: int, losses: Mapping[str, Any], cost: Cost, held: Held | None = None) -> None:
        """Write the file of the best weights, `held` or as they are after so much training; as `save` does."""
        if self._best is not None:
            self._write(self._best, done, losses, cost, True, held)

    def held_in_the_end(self) -> Held | None:
        """Return what is kept as a training is over; None, and that is said, where it cannot be kept any more.

        A function may give up after its last step what it needs no more: memory, say. The files stay what they are,
        since the training is measured, and its result counts.
        """
        try:
            held = self._held()
        except (Exception, SystemExit) as error:
            why = one_line(str(error) if isinstance(error, StantuneError) else words_of(error))
        else:
            lost = [name for name, each in held.kept.items() if has_lost(each)]
            if lost:
                # There may be some that had no numbers before.
                left = _left_by_steps(checkpoints.load(self._path, self._identity) or {}).get("kept", {})
                lost = [name for name in lost if not has_lost(left.get(name))]
            if not lost:
                return held
            why = f"the numbers of {', '.join(map(repr, lost))} are gone"
        self._say(
            f"{self._path.name} holds what the last step left, since what is kept cannot be written as the function "
            f"left it ({why}); leave it as it was measured"
        )
        return None

    def save_measured(self, held: Held) -> None:
        """Have the checkpoint of a training that is over hold `held`, which was measured.

        A function may change it after its last step, to the best weights or to means. Whoever does the segment again
        begins with what that step left, as before, and comes to the same.
        """
        saved = checkpoints.load(self._path, self._identity) if self.keeps else None
        if saved is None:
            return
        state = _left_by_steps(saved)
        left, files = state["kept"], held.files
        # What is unchanged is in the file once.
        kept = {
            name: left[name] if name in left and same(each, left[name]) else each for name, each in held.kept.items()
        }
        changed = any(kept[name] is not left.get(name) for name in kept) or not same(files, state.get("files"))
        if changed or _LEFT in saved:
            state |= {"kept": kept, "files": files, _LEFT: {"kept": left, "files": state.get("files")}}
            checkpoints.save(self._path, self._identity, state)

    def close(self) -> None:
        """Let go of everything, so that a model's memory is free."""
        for acceleration in self._accelerations:
            acceleration.detach()
        self._things.clear()
        self._given.clear()
        self._modes.clear()
        self._groups.clear()
        self._accelerations.clear()
        self._saved = None
        if self._has_folder:
            shutil.rmtree(self._own, ignore_errors=True)

    def _write(
        self, path: Path, done: int, losses: Mapping[str, Any], cost: Cost, step: bool, held: Held | None = None
    ) -> None:
        if not self.keeps:
            return
        if held is None:
            held = self._held()
        state = {
            "done": done,
            "start": self._start,
            "kept": held.kept,
            "places": {name: plain(self._places(name), f"what is kept as {name!r}") for name in self._things},
            "random": plain(random_states(self._device), "the random states"),
            "stan": [plain(made.state, "STAN's state") for made in self._accelerations],
            "losses": dict(losses),
            "cost": asdict(cost),
            "files": held.files,
        }
        modes = {name: modes_beside(self._things[name], before) for name, before in self._modes.items()} if step else {}
        if others := {name: each for name, each in modes.items() if each}:
            state["modes"] = others
        if self._best is not None:
            state["curve"] = self.curve
        checkpoints.save(path, self._identity, state)

    def _held(self) -> Held:
        """Return what is kept now."""
        kept: dict[str, Any] = tight({name: state_of(thing, name) for name, thing in self._things.items()})
        return Held(kept, folder.packed(self._own) if self._has_folder else None)

    def _places(self, name: str) -> list[Place | None]:
        """Return for each part of a kept thing where it was when the function gave it; None for what came later."""
        self._let_go(name)
        places = {id(held()): place for place, held in self._given[name].items()}
        return [places.get(id(part)) for _, part in parts(self._things[name])]

    def _let_go(self, name: str) -> None:
        """Forget what nobody holds any more of what the function gave, and what may hold much and was replaced."""
        there = {id(part) for _, part in parts(self._things[name])}
        for place, held in list(self._given[name].items()):
            part = held()
            # Lists and dicts cannot be held weakly, and hold others: weights that have been replaced, perhaps.
            if part is None or (type(part) in (list, dict) and id(part) not in there):
                del self._given[name][place]

    def _put_back(self, thing: Any, name: str, saved: Mapping[str, Any], given: Mapping[Place, Any]) -> None:
        if name not in saved["kept"]:
            raise self._misfit(f"has nothing called {name!r}")
        try:
            state = restored(saved["kept"][name], self._device)
            if type(thing) in (list, dict):
                # Files of before do not say where anything was.
                state = in_given(state, iter(restored(saved.get("places", {}).get(name, []))), given)
            load(thing, state)
        except StantuneError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            remedy = _GROUPS if other_groups(thing, saved["kept"][name]) else _REMEDY
            raise self._misfit(f"has another {name!r} than the one that is kept now ({said})", remedy) from error

    def _put_groups(self) -> None:
        for name, groups in self._groups.items():
            put_groups(self._things[name], groups)

    def _misfit(self, how: str, remedy: str = _REMEDY) -> CheckpointError:
        return CheckpointError(f"checkpoint {self._path} {how}; {remedy}")


def _left_by_steps(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state as the last step left it, which a training goes on with."""
    return {**{name: each for name, each in state.items() if name != _LEFT}, **state.get(_LEFT, {})}
