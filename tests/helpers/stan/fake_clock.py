"""Clocks that layers and steps themselves move, for the tests of the timing of layers, and a network to be timed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stantune.stan.entries.entries import Pattern
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.planning import timing

# What is counted does not depend on who computes.
plain = pytest.mark.usefixtures("no_kernels")
ROWS, COLUMNS, BLOCKS, QUARTER = Pattern(2, 1), Pattern(1, 2), Pattern(2, 2), Pattern(1, 4)


class Ticking(torch.autograd.Function):
    """The identity; its backward pass takes time."""

    @staticmethod
    def forward(ctx, input, tick):
        ctx.tick = tick
        return input.view_as(input)

    @staticmethod
    def backward(ctx, gradient):
        ctx.tick()
        return gradient, None


class FakeClock:
    """Stands still but for what the layers under test, the error measurement and `step` take."""

    def __init__(self, monkeypatch, forward, backward, errors=0.5):
        self.now = 0.0
        self.inputs = []
        self.training = {}
        self.grids = {}
        originals = {kind: kind.forward for kind in (StanConv1d, StanConv2d)}

        def timed(layer, input):
            grid = layer.grid
            key = None if grid is None else grid.pattern
            seen = self.grids.setdefault((layer.out_channels, key), [])
            seen.append(grid)
            self.inputs.append(input)
            self.training.setdefault(layer.out_channels, set()).add(layer.training)
            self.now += forward(layer, key, len(seen))
            output = originals[type(layer)](layer, input)
            return Ticking.apply(output, lambda: self.advance(backward(layer, key)))

        for kind in originals:
            monkeypatch.setattr(kind, "forward", timed)
        measured = timing.grid_errors
        monkeypatch.setattr(timing, "grid_errors", lambda *a: (self.advance(errors), measured(*a))[1])

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class FakeClockOfSteps:
    """Moves by one second in each step alone."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def step(self):
        self.now += 1.0


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.Flatten())


FORWARD = {None: 10.0, ROWS: 7.0, COLUMNS: 6.0, BLOCKS: 11.0}
BACKWARD = {None: 20.0, ROWS: 12.0, COLUMNS: 21.0, BLOCKS: 5.0}


def constant(table):
    return lambda layer, pattern, *rest: table[pattern] * layer.out_channels
