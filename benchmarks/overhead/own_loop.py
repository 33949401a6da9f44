"""What a search's Run costs in a loop of one's own: microseconds of each call.

    python -m benchmarks.overhead.own_loop

A loss as a number and as a tensor, a step of `steps`, a step whose model is accelerated (which moves STAN's schedule
too), and what a whole segment adds: seeding, reading and writing the checkpoint of a small network, putting back what
the process had. Best of several rounds, on one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from stantune.objectives.function.objective import FunctionObjective
from stantune.objectives.function.run import Run
from stantune.protocols import Metric, Place, Segment
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.stan.surgery import accelerate_, restore_

STEPS = 20_000
ROUNDS = 5
LIMIT = 20.0


@dataclass
class Clock:
    """The best time of a call, in microseconds."""

    best: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, seconds: float, calls: int) -> None:
        """Take a round's time."""
        self.best[name] = min(seconds / calls * 1e6, self.best.get(name, float("inf")))


def looped(clock: Clock, name: str, body: Callable[[Run, int], None], keeps: bool = True) -> Callable[[Run], float]:
    """Return a function whose steps do this, with the time that the same loop takes without a Run subtracted."""

    def train(run: Run) -> float:
        count = [0]
        if keeps:
            run.keep(count=count)
        begun = time.perf_counter()
        for _ in range(run.stop):
            pass
        bare = time.perf_counter() - begun
        begun = time.perf_counter()
        for step in run.steps():
            body(run, step)
        clock.note(name, time.perf_counter() - begun - bare, run.stop)
        return 1.0

    return train


def losses(clock: Clock, name: str, loss: object) -> Callable[[Run], float]:
    """Return a function that gives a loss over and over."""

    def train(run: Run) -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            run.loss(loss)  # type: ignore[arg-type]
        clock.note(name, time.perf_counter() - begun, STEPS)
        return 1.0

    return train


def accelerated(clock: Clock) -> Callable[[Run], float]:
    """Return a function whose steps are optimizer steps of an accelerated model, less what they take by hand."""

    def train(run: Run) -> float:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        handle = accelerate_(model, Stan(rate=0.5))
        begun = time.perf_counter()
        for _ in range(run.stop):
            optimizer.step()
            handle.step()
        bare = time.perf_counter() - begun
        restore_(model)
        run.keep(model=model, optimizer=optimizer)
        run.accelerate(model)
        begun = time.perf_counter()
        for _ in run.steps():
            optimizer.step()
        clock.note("steps, with a model that STAN accelerates", time.perf_counter() - begun - bare, run.stop)
        return 1.0

    return train


def segment_of(clock: Clock) -> Callable[[Run], float]:
    """Return a function of one empty step that keeps a small network and its optimizer."""

    def train(run: Run) -> float:
        model = nn.Linear(100, 100)
        run.keep(model=model, optimizer=torch.optim.AdamW(model.parameters()))
        list(run.steps())
        return 1.0

    return train


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    clock = Clock()
    cases: list[tuple[str, Callable[[Run], float], int, Stan | None]] = [
        ("loss", losses(clock, "loss, a number", 0.5), 1, None),
        ("tensor", losses(clock, "loss, a tensor", torch.tensor(0.5, requires_grad=True)), 1, None),
        ("steps", looped(clock, "steps", lambda run, step: None), STEPS, None),
        ("both", looped(clock, "steps, and a loss in each", lambda run, step: run.loss(0.5)), STEPS, None),
        ("accelerated", accelerated(clock), STEPS, Stan(rate=0.5)),
        ("segment", segment_of(clock), 1, None),
    ]
    with tempfile.TemporaryDirectory() as where:
        for name, function, stop, stan in cases:
            trainer = FunctionObjective(function, Space({}), Metric("loss"), name=name, stan=stan).trainer(
                Place(threads=1)
            )
            for number in range(ROUNDS):
                segment = Segment(number, {}, 0, stop, 0, Path(where) / f"{name}-{number}.pt", bracket=0)
                begun = time.perf_counter()
                trainer.train(segment, lambda: False, lambda done: None)
                if name == "segment":
                    clock.note("a segment in all", time.perf_counter() - begun, 1)
    for name, microseconds in clock.best.items():
        print(f"{microseconds:9.2f} µs  {name}")
    per_step = clock.best["steps, and a loss in each"]
    print(f"a step with a loss: {per_step:.2f} µs, {'below' if per_step < LIMIT else 'NOT below'} {LIMIT:g} µs")


if __name__ == "__main__":
    main()
