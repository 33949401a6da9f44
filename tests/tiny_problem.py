"""A problem that trains in a blink, for tests that run whole commands: `stantune search tiny_problem.py:problem`.

What each process trained is appended to the file that TINY_LOG names, one line an iteration: process, training,
iteration. A training is told by a number drawn with its weights, so that a trial and the final training of its setting
are two. TINY_INTERRUPT_AT=n makes the process send itself SIGINT in its n-th iteration, as Ctrl-C would, and
TINY_KILL_AT=n SIGUSR1, of which killed_command.py makes its end.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn

from stantune import Float, Problem, Solver, Space
from stantune.images.data import Dataset, Split

CLASSES = 4
_trained_here = 0


def images(root: Path | None) -> Dataset:
    """Return 300 training and 60 test images of noise, in each of which one of four corners is lit."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        pixels = torch.randint(100, (count, 8, 8, 1), generator=generator)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 60
        return Split(pixels.to(torch.uint8), labels, torch.arange(count))

    return Dataset("corners", split(300), split(60), CLASSES)


class _Log(nn.Module):
    """Passes its input on, and writes down each training iteration that it sees."""

    def __init__(self) -> None:
        super().__init__()
        # Kept in checkpoints, so that a training that goes on keeps its name and goes on counting.
        self.register_buffer("origin", torch.randint(2**40, (1,)))
        self.register_buffer("iteration", torch.zeros(1, dtype=torch.int64))

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            global _trained_here
            _trained_here += 1
            self.iteration += 1
            if "TINY_LOG" in os.environ:
                handle = os.open(os.environ["TINY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(handle, f"{os.getpid()} {int(self.origin)} {int(self.iteration)}\n".encode())
                os.close(handle)
            for name, sent in (("TINY_INTERRUPT_AT", signal.SIGINT), ("TINY_KILL_AT", signal.SIGUSR1)):
                if os.environ.get(name) == str(_trained_here):
                    os.kill(os.getpid(), sent)
        return input


def network() -> nn.Sequential:
    """Return a new network of one convolution."""
    return nn.Sequential(_Log(), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES))


problem = Problem(
    name="tiny",
    network=network,
    data=images,
    space=Space({"lr": Float(1e-6, 1e2, log=True), "momentum": Float(0.0, 1.5)}),
    solver=Solver(lr=1e-3, momentum=0.9, weight_decay=0.0),
    iterations=60,
    batch_size=10,
    validation=60,
    hold_out="last",
)
# Every setting of this one diverges, in its first iterations.
hopeless = Problem(
    name="hopeless",
    network=network,
    data=images,
    space=Space({"lr": Float(1e20, 1e25, log=True)}),
    solver=Solver(lr=1e20),
    iterations=30,
    batch_size=10,
    validation=60,
    hold_out="last",
)
# STAN finds no convolution here.
flat = Problem(
    name="flat",
    network=lambda: nn.Sequential(_Log(), nn.Flatten(), nn.Linear(64, CLASSES)),
    data=images,
    space=Space({"lr": Float(1e-6, 1e-2, log=True)}),
    solver=Solver(lr=1e-3),
    iterations=8,
    batch_size=10,
    validation=60,
    hold_out="last",
)
# Nothing in it counts in Python, which would be another network for torch.compile in each iteration.
plain = Problem(
    name="plain",
    network=lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES)),
    data=images,
    space=Space({"lr": Float(1e-6, 1e-2, log=True)}),
    solver=Solver(lr=1e-3),
    iterations=30,
    batch_size=10,
    validation=60,
    hold_out="last",
)
