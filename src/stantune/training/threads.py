"""How many threads train a problem fastest on this machine: timed, and chosen from the times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch

from stantune.process.machine import usable_cores
from stantune.seeds import derive
from stantune.stan.layers.fusion import natively
from stantune.training.precision import computing_in
from stantune.training.trainable import Splits, Trainable
from stantune.training.trial import Trial

# For all numbers of threads together; networks whose iterations take half a second and more need longer.
SECONDS = 3.0
FEWEST_ROUNDS = 2
MOST_ROUNDS = 15
# More threads must be faster by more than this: they take cores from others, and times are not exact to a percent.
CLOSE = 1.05


class Measured(NamedTuple):
    """What was measured, and what follows.

    Attributes:
        threads: the number chosen.
        seconds: of an exact iteration, by number of threads, in ascending order.
    """

    threads: int
    seconds: Mapping[int, float]

    @property
    def words(self) -> str:
        """What was chosen and why, in a line."""
        others = [f"{_ms(took)} with {count}" for count, took in self.seconds.items() if count != self.threads]
        if not others:
            others = ["there is one core for it"]
        elif self.seconds[self.threads] > min(self.seconds.values()):
            others.append("fewer are taken where the difference is small")
        why = f"an iteration takes {_ms(self.seconds[self.threads])}; {', '.join(others)}"
        return f"threads: {self.threads} ({why}); --threads {self.threads} gives the same result again"


def measure_threads(
    problem: Trainable,
    setting: Mapping[str, Any],
    splits: Splits,
    *,
    natives: Sequence[bool] = (True,),
    device: str = "cpu",
    precision: str | None = None,
    compile: bool = False,
) -> Measured:
    """Time exact iterations of a problem's training by number of threads; PyTorch's number is afterwards what it was.

    Args:
        problem: what is trained.
        setting: values of its parameters, checked. One that diverges takes as long as any other.
        splits: the problem's data.
        natives: whether an iteration is by native kernels, as under STAN, or plain PyTorch's; of both the mean counts.
        device: where to train.
        precision: in what numbers: one of precision.PRECISIONS for the device, None for what PyTorch is set to.
        compile: whether the network is compiled; the time that this takes does not count.
    """
    trials = [
        Trial(
            problem,
            setting,
            splits,
            seed=derive("threads"),
            stan=None,
            device=device,
            precision=precision,
            compile=compile,
            native=native,
        )
        for native in natives
    ]

    def step() -> None:
        for trial in trials:
            trial.train(trial.iteration + 1, lambda: False, lambda iteration: None)

    with ExitStack() as stack:
        stack.enter_context(computing_in(precision, device))
        for trial, native in zip(trials, natives, strict=True):
            if native:
                stack.enter_context(natively(trial.model))
        counts = numbers_up_to(usable_cores(), torch.get_num_threads())
        seconds = time_by_threads(step, counts, warm=compile)
    seconds = {count: took / len(trials) for count, took in seconds.items()}
    return Measured(fastest(seconds), seconds)


def fastest(seconds: Mapping[int, float]) -> int:
    """Return the least number of threads that is as fast as any, or nearly so."""
    best = min(seconds.values())
    return min(count for count, took in seconds.items() if took <= CLOSE * best)


def numbers_up_to(cores: int, usual: int) -> tuple[int, ...]:
    """Return the numbers of threads to try: the powers of two, all cores, and the usual number."""
    powers = {2**exponent for exponent in range(cores.bit_length())}
    return tuple(sorted(count for count in powers | {cores, usual} if count <= cores))


def time_by_threads(
    step: Callable[[], object],
    counts: Sequence[int],
    *,
    warm: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Return the median seconds of a step by number of threads.

    All numbers are tried in turns, so that a machine that slows down slows all of them down alike. With `warm` a step
    with each is done beforehand: where programs are made for each number.
    """
    before = torch.get_num_threads()
    took: dict[int, list[float]] = {count: [] for count in counts}
    rounds = 0
    try:
        for count in counts if warm else ():
            torch.set_num_threads(count)
            step()
        began = clock()
        # As long as another round fits.
        while rounds < FEWEST_ROUNDS or (rounds < MOST_ROUNDS and (clock() - began) * (rounds + 1) <= SECONDS * rounds):
            for count, seconds in took.items():
                torch.set_num_threads(count)
                # Wakes or makes the threads, and is no part of a training that keeps their number.
                step()
                since = clock()
                step()
                seconds.append(clock() - since)
            rounds += 1
    finally:
        torch.set_num_threads(before)
    return {count: statistics.median_low(seconds) for count, seconds in took.items()}


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"
