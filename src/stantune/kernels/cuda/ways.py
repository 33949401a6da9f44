"""Which way reduced convolutions go on CUDA devices: strided ones of cuDNN, or Triton's programs, by measurement."""

from __future__ import annotations

import gc
import os
import statistics
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from stantune.errors import StanWarning
from stantune.kernels.library import SWITCH as ALL_KERNELS
from stantune.kernels.library import switched_off

# Of the environment: one of WAYS; without it both are measured.
SWITCH = "STANTUNE_CUDA"
WAYS = ("cudnn", "triton")
# Timed beside them: every entry computed. It is never chosen, since then a time would decide what is trained.
EXACT = "exact"
# Of tensor cores that know bfloat16 and tf32.
CAPABILITY = (8, 0)

ROUNDS = 5
CALLS = 4  # in a row, as in training a device works on one while the processor prepares the next
# Triton must save this share of cuDNN's time: less is noise, and cuDNN is what was trained with so far.
WORTHWHILE = 0.03
# What both compute may differ by, relative, in bfloat16 and tf32; a program that is wrong is wrong by far more.
AGREEMENT = 0.03

Clock = Callable[[], float]
Trial = Callable[[], Sequence[Tensor]]
Prepared = Callable[[Trial], Callable[[], object]]


class CudaPath(NamedTuple):
    """What reduced convolutions can be computed with on the CUDA devices of this machine.

    Attributes:
        ways: those of WAYS that are used; with both, each shape's faster one; empty without a device.
        reason: why these.
    """

    ways: tuple[str, ...]
    reason: str


class CudaChoice(NamedTuple):
    """What was measured and chosen for one shape.

    Attributes:
        what: the shape and the pattern.
        way: of WAYS.
        seconds: medians of forward and backward pass together, by way and for every entry; empty where nothing could be
            measured.
        reason: why cuDNN was taken without a comparison, "" where there was one.
    """

    what: str
    way: str
    seconds: Mapping[str, float]
    reason: str = ""


_choices: dict[Hashable, CudaChoice] = {}
_replayed = False
_told = False


@contextmanager
def replayed() -> Iterator[None]:
    """Have `choose` ask which way is faster where the step is replayed as a CUDA graph: by the device's time alone.

    A step that is not replayed waits for the processor to launch it, and there the way of fewest launches wins.
    """
    global _replayed
    before, _replayed = _replayed, True
    try:
        yield
    finally:
        _replayed = before


@cache
def cuda_path() -> CudaPath:
    """Tell what the machine, the installation and the environment allow."""
    if not torch.cuda.is_available():
        return CudaPath((), "PyTorch sees no CUDA device")
    if switched_off():
        return CudaPath(("cudnn",), f"{ALL_KERNELS}=off")
    asked = os.environ.get(SWITCH, "").lower()
    if asked == "cudnn":
        return CudaPath(("cudnn",), f"{SWITCH}=cudnn")
    unknown = f"; {SWITCH}={asked} is unknown, give {' or '.join(WAYS)}" if asked not in ("", *WAYS) else ""
    missing = _missing()
    if missing:
        return CudaPath(("cudnn",), f"no Triton kernels: {missing}{unknown}")
    if asked == "triton":
        return CudaPath(("triton",), f"{SWITCH}=triton")
    return CudaPath(WAYS, f"each shape's faster one, measured at its first use{unknown}")


def _missing() -> str:
    """Return what Triton's programs lack here, "" if nothing."""
    if torch.version.cuda is None:
        return "they are for NVIDIA's devices"
    if find_spec("triton") is None:
        return "Triton is not installed; pip install triton (Linux)"
    for number in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(number)
        if capability < CAPABILITY:
            have, need = (".".join(map(str, each)) for each in (capability, CAPABILITY))
            return f"{torch.cuda.get_device_name(number)} has compute capability {have}, and they need {need}"
    return ""


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python from collecting garbage while a CUDA graph is recorded: another, freed meanwhile, would spoil it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def choose(
    key: Hashable, what: str, trials: Mapping[str, Trial], clock: Clock | None = None, recordable: bool = True
) -> str:
    """Return which of WAYS to go: the environment's, or what was measured for this key, now if never before.

    Nothing is measured, and cuDNN taken, where PyTorch is to be deterministic, since times are not, and while a CUDA
    graph is recorded. Warns, once in a process, where both are slower than computing every entry.

    Args:
        key: all that the times depend on.
        what: that in words, for `choices`.
        trials: of WAYS and EXACT: does it once, forward and backward, and returns output and gradients.
        clock: for tests; by default the time when the device has finished.
        recordable: whether a CUDA graph can be recorded of them; what waits for the device is never replayed.
    """
    ways = cuda_path().ways
    if len(ways) == 1:
        return ways[0]
    if torch.are_deterministic_algorithms_enabled():
        return "cudnn"
    replays = _replayed and recordable
    key = key, replays
    if key not in _choices:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return "cudnn"
        prepared = _recorded if replays else _written
        _choices[key] = _compare(f"{what}, replayed" if replays else what, trials, prepared, clock or _finished)
        _advise(_choices[key])
    return _choices[key].way


def choices() -> list[CudaChoice]:
    """Return what was chosen so far in this process, in the order of first use."""
    return list(_choices.values())


def faster(seconds: Mapping[str, Sequence[float]]) -> CudaChoice:
    """Return the choice that follows from measured times, a pure function: Triton where it is WORTHWHILE.

    Args:
        seconds: by way, one figure a round.
    """
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    way = "triton" if medians["triton"] < (1 - WORTHWHILE) * medians["cudnn"] else "cudnn"
    return CudaChoice("", way, medians)


def _compare(what: str, trials: Mapping[str, Trial], prepared: Prepared, clock: Clock) -> CudaChoice:
    """Try both ways, see that they agree, and time them in turns, and every entry with them."""
    trials[EXACT]()
    reference = trials["cudnn"]()
    try:
        found = trials["triton"]()
        if not all(_agree(one, other) for one, other in zip(found, reference, strict=True)):
            return _without_triton(what, "Triton's result is not cuDNN's")
        seconds = _timed({way: prepared(trials[way]) for way in (EXACT, *WAYS)}, clock)
    except Exception as error:  # whatever it is: it must not end a training that PyTorch alone can do
        return _without_triton(what, f"the comparison with Triton failed: {type(error).__name__}: {error}")
    return faster(seconds)._replace(what=what)


def _timed(work: Mapping[str, Callable[[], object]], clock: Clock) -> dict[str, list[float]]:
    """Return the seconds that each way takes for a trial, in each round."""
    seconds: dict[str, list[float]] = {way: [] for way in work}
    for _ in range(ROUNDS):
        for way, taken in seconds.items():
            began = clock()
            work[way]()
            taken.append((clock() - began) / CALLS)
    return seconds


def _advise(choice: CudaChoice) -> None:
    """Say, once in a process, that STAN is a loss here."""
    global _told
    if choice.seconds and choice.seconds[choice.way] > choice.seconds[EXACT] and not _told:
        _told = True
        remedy = "Leave" if _replayed else "Replay its steps (stantune.stan.graphs), leave"
        warnings.warn(
            f"{choice.what} takes {1e3 * choice.seconds[choice.way]:.2f} ms, and every entry "
            f"{1e3 * choice.seconds[EXACT]:.2f} ms: STAN makes this training slower here. {remedy} such layers out "
            "(rate='auto' does), or train exactly; stantune.kernels.cuda.ways.choices() tells of all layers",
            StanWarning,
            stacklevel=3,
        )


def _written(trial: Trial) -> Callable[[], object]:
    """Return what does the trial CALLS times as it is written."""
    return lambda: [trial() for _ in range(CALLS)]


def _recorded(trial: Trial) -> Callable[[], object]:
    """Return what replays the trial CALLS times as one CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with no_collection(), torch.cuda.graph(graph):
        for _ in range(CALLS):
            trial()
    graph.replay()  # the first time it is also sent to the device
    return graph.replay


def _agree(found: Tensor, reference: Tensor) -> bool:
    """Tell whether two results are the same but for rounding; what is not finite tells nothing."""
    difference, size = (found.float() - reference.float()).norm(), reference.float().norm()
    return bool(difference <= AGREEMENT * size) or not bool(size.isfinite())


def _without_triton(what: str, reason: str) -> CudaChoice:
    warnings.warn(f"{what} is computed by cuDNN: {reason}", StanWarning, stacklevel=2)
    return CudaChoice(what, "cudnn", {}, reason)


def _finished() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
