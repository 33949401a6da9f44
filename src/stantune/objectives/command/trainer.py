"""A training as runs of a command, one for each segment, its state a folder in the checkpoint."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stantune.arguments import digits
from stantune.errors import AheadCheckpointError, StantuneError
from stantune.loss_curve import LossMeans
from stantune.objectives.command import groups, packing
from stantune.objectives.command.own_folder import STATE, own_folder
from stantune.objectives.command.said import STDOUT, CommandError, Said, short
from stantune.objectives.command.templates import PARAMS
from stantune.outcome import Cost, Outcome
from stantune.process.groups import passes, require_ends
from stantune.process.machine import usable_cores
from stantune.protocols import Place, Segment, StopEarly
from stantune.seeds import derive

if TYPE_CHECKING:
    from stantune.objectives.command.objective import CommandObjective

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class CommandTrainer:
    """Runs a command for each segment; see protocols.Trainer.

    Attributes:
        apart: see InProcess; it trains in a process of its own.
    """

    apart = True

    def __init__(self, objective: CommandObjective, place: Place) -> None:
        """Run it at a place; raises UsageError where this process would not learn how it ends."""
        require_ends()
        self._what = objective
        self._threads = place.threads or usual_threads()
        self._device = _device(place)

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See protocols.Trainer. A segment that is cut is done again from where it began.

        Raises:
            CommandError: the command failed or could not be started now, or said nothing of what it came to.
        """
        folder = segment.checkpoint.parent / segment.checkpoint.stem
        try:
            with own_folder(folder) as own:
                return self._train(segment, own, stop_early, watch)
        except OSError as error:
            if passes(error):
                # Other trainings may go on meanwhile, and this one, tried again.
                raise CommandError(
                    f"the system can start no command or open no file now ({error.strerror or error}); have fewer "
                    "processes run beside the search, or raise its limits (ulimit -a)"
                ) from error
            raise StantuneError(
                f"folder {folder} cannot be used ({error.strerror or error}); make room or choose another directory, "
                "then give the same command again"
            ) from error

    def _train(self, segment: Segment, folder: Path, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        state = folder / STATE
        identity = self._identity(segment)
        with packing.opened(segment.checkpoint, identity) as pack:
            note: Mapping[str, Any] = {"done": 0} if pack is None else pack.note
            start = int(note["done"])
            if start > segment.stop:
                raise AheadCheckpointError(
                    f"checkpoint {segment.checkpoint} is at {self._what.unit} {start}, beyond {segment.stop}; "
                    "delete it to train anew"
                )
            if start == segment.stop or note.get("diverged_at") is not None:
                return _outcome(note)
            watch(start)
            if stop_early():
                return Outcome(start, {}, None, True, Cost())
            if pack is None:
                state.mkdir(parents=True)
            else:
                pack.unpack(state)
        came = self._run(segment, note, folder, stop_early, watch)
        if came is None:
            return Outcome(start, {}, None, True, Cost())
        packing.pack(state, segment.checkpoint, identity, came)
        return _outcome(came)

    def _run(
        self,
        segment: Segment,
        note: Mapping[str, Any],
        folder: Path,
        stop_early: StopEarly,
        watch: Callable[[int], None],
    ) -> dict[str, Any] | None:
        """Run the command; return what is noted of how it ended, None where it was ended early.

        `note` is of the segment before.
        """
        what, start = self._what, int(note["done"])
        state = folder / STATE
        words = what.template.fill(self._values(segment, start, state))
        said = Said(what.metric.name, start, segment.stop, watch, LossMeans(note.get("losses")))
        if what.metrics != STDOUT:
            # That of the segment before would pass for this one's.
            (state / what.metrics).unlink(missing_ok=True)
        output = groups.Output(folder / "stdout.log", folder / "stderr.log")
        for log in output:
            # A file's name may be no text at all.
            with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"--- {groups.stamp()}, {what.unit}s {start} to {segment.stop}: {shlex.join(words)}\n")
        before = [log.stat().st_size for log in output]
        began = time.perf_counter()
        code = groups.run(
            words,
            shell=what.shell,
            cwd=Path(what.cwd or "."),
            env=self._env(),
            output=output,
            stop_early=stop_early,
            heard=said.take,
        )
        seconds = time.perf_counter() - began
        if code is None:
            return None
        out, err = (groups.last_line(log, since) for log, since in zip(output, before, strict=True))
        if code:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            line = short(err or out)
            log = output[1] if err or not out else output[0]
            raise CommandError(f"{how}{line and f': {line}'} (see {log.absolute()})")
        if what.metrics != STDOUT:
            said.read(state / what.metrics)
            if said.last is None:
                raise CommandError(
                    f"there is no JSON object in the file {what.metrics} of the state folder; write one like "
                    f"{json.dumps({what.metric.name: 0.5})}"
                )
        return {**said.result(out), "from": start, "seconds": seconds, "losses": said.losses.state}

    def _values(self, segment: Segment, start: int, state: Path) -> dict[str, Any]:
        return {
            **segment.params,
            "start": start,
            "stop": segment.stop,
            "length": segment.length or self._what.whole or self._what.length,
            "dir": str(state.absolute()),
            "seed": derive("run", segment.seed) >> 32,
            "trial": segment.trial,
            "final": int(segment.final),
            "device": self._device,
            "threads": self._threads,
            PARAMS: dict(segment.params),
            "python": sys.executable,
        }

    def _env(self) -> dict[str, str]:
        threads = dict.fromkeys(_THREADS, str(self._threads))
        # A Python program whose output goes to a file would keep back how far it is.
        # Another thread may take one away meanwhile.
        names = list(os.environ)
        own = {name: value for name in names if (value := os.environ.get(name)) is not None}
        return {"PYTHONUNBUFFERED": "1", **own, **threads, **self._what.env}

    def _identity(self, segment: Segment) -> str:
        what = self._what
        depends_on = {
            "problem": what.name,
            "command": what.template.text,
            "params": dict(segment.params),
            "seed": segment.seed,
            "length": segment.length or what.whole or what.length,
        }
        return json.dumps(depends_on, sort_keys=True)


def usual_threads() -> int:
    """Return how many threads a command has where nobody says: OMP_NUM_THREADS where it is a number, else all cores."""
    return digits(os.environ.get(_THREADS[0], "")) or usable_cores()


def _device(place: Place) -> str:
    """Return the device: "cuda" means all GPUs, turn and turn about."""
    if place.device != "cuda":
        return place.device
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = Path("/proc/driver/nvidia/gpus")
    gpus = len(seen.split(",")) if seen else len(list(known.iterdir())) if known.is_dir() else 1
    return f"cuda:{place.number % max(gpus, 1)}"


def _outcome(note: Mapping[str, Any]) -> Outcome:
    done, cost = int(note["done"]), Cost(exact=note["done"] - note["from"], exact_seconds=note["seconds"])
    losses = LossMeans(note.get("losses")).curve
    return Outcome(done, dict(note["metrics"]), note["diverged_at"], False, cost, losses=losses)
