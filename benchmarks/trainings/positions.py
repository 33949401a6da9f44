"""Which entries to compute and what the others receive: ways of doing it against each other, CQ on CIFAR-10.

Each way trains CQ in every iteration (no refresh, no exact tail) for a short while, the last fifth at a tenth of the
rate, and is tested exactly. The ways that no fast form exists for compute all entries and then replace the skipped
ones, which gives the same numbers, forward and backward, as a fast form would. One line per way and seed; those that
are in --keep already are not trained again. Errors are what counts here, not times.

    python -m benchmarks.trainings.positions --seeds 3 --keep positions.json [--device cuda --workers 8]
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune.images.problem.built_in import Splits, find
from stantune.images.solving.evaluation import error_percent
from stantune.images.solving.solver import MultiStep
from stantune.process.runtime import tune_process
from stantune.seeds import derive
from stantune.stan.entries.entries import PATTERNS, Grid, Pattern, draw_grid
from stantune.stan.entries.fill import nearest_computed, spread
from stantune.stan.entries.strided import conv2d_on_grid
from stantune.training.trial import Trial

LAYERS = ("conv1", "conv2", "conv3")
ROWS, COLUMNS, BLOCKS = (PATTERNS[name] for name in ("rows", "columns", "blocks"))
# Iterations between two looks at the exact gradient, for the way that goes by it.
REFRESH = 50


@dataclass
class Place:
    """Where a layer is in the training.

    Attributes:
        conv: the layer.
        number: its place among the convolutions.
        seed: the training's.
        iteration: the training's.
        notes: what a way keeps between iterations.
    """

    conv: nn.Conv2d
    number: int
    seed: int
    iteration: int
    notes: dict[str, Tensor]

    def grid(self, *patterns: Pattern) -> Grid:
        """Return one of the patterns at a drawn offset."""
        return draw_grid(patterns, self.seed, self.iteration, self.number)

    def generator(self) -> torch.Generator:
        """Return a generator for this iteration and layer."""
        return torch.Generator().manual_seed(derive("positions", self.seed, self.iteration, self.number))

    def exact(self, input: Tensor) -> Tensor:
        """Return the exact output, (B, C, H, W)."""
        return nn.Conv2d.forward(self.conv, input)

    def on_grid(self, input: Tensor, grid: Grid) -> Tensor:
        """Return the grid's entries, computed alone, and their copies, (B, C, H, W)."""
        conv = self.conv
        high, wide = conv.padding
        around = (wide, wide, high, high)
        return conv2d_on_grid(input, conv.weight, conv.bias, conv.stride, around, conv.dilation, conv.groups, grid)


Way = Callable[[Place, Tensor], Tensor]


def fixed(*patterns: Pattern) -> Way:
    """Copies of the grid's entries, at an offset drawn for each iteration: STAN's neighbour fill."""
    return lambda place, input: place.on_grid(input, place.grid(*patterns))


def halves(pattern: Pattern) -> Way:
    """The same with opposite offsets for the two halves of the batch."""

    def way(place: Place, input: Tensor) -> Tensor:
        grid = place.grid(pattern)
        other = Grid(pattern, (grid.top + 1) % pattern.rows, (grid.left + 1) % pattern.columns)
        half = len(input) // 2
        return torch.cat([place.on_grid(input[:half], grid), place.on_grid(input[half:], other)])

    return way


def backward_alone(pattern: Pattern) -> Way:
    """An exact forward pass; the backward pass is that of the neighbour fill."""

    def way(place: Place, input: Tensor) -> Tensor:
        filled = place.on_grid(input, place.grid(pattern))
        with torch.no_grad():
            rest = place.exact(input) - filled
        return filled + rest

    return way


def sampled_gradient(pattern: Pattern) -> Way:
    """An exact forward pass; the output's gradient is taken at the grid's entries alone and scaled up: unbiased."""

    def way(place: Place, input: Tensor) -> Tensor:
        output = place.exact(input)
        entries = place.grid(pattern).matrix(*output.shape[-2:]).to(output.device) / pattern.rate
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * entries)  # type: ignore[no-untyped-call]
        return output

    return way


def interpolated(pattern: Pattern) -> Way:
    """Linear interpolation between the grid's entries instead of copies; at the border the nearest one's value."""

    def way(place: Place, input: Tensor) -> Tensor:
        grid = place.grid(pattern)
        output = place.exact(input)
        for side, first, period in ((2, grid.top, pattern.rows), (3, grid.left, pattern.columns)):
            if period > 1:
                length = output.shape[side]
                at = torch.arange(length, device=output.device)
                before = ((at - first) // period * period + first).clamp(first)
                after = torch.where(before + period < length, before + period, before)
                share = ((at - before).clamp(0) / period).view([length if i == side else 1 for i in range(4)])
                share = torch.where((after == before).view(share.shape), 0.0, share)
                output = output.index_select(side, before) * (1 - share) + output.index_select(side, after) * share
        return output

    return way


def checkerboard(place: Place, input: Tensor) -> Tensor:
    """Every other entry, as on a chess board, either colour; copies of the nearest."""
    output = place.exact(input)
    height, width = output.shape[-2:]
    colour = int(torch.randint(2, (), generator=place.generator()))
    entries = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == colour
    return spread(output, nearest_computed(entries[None].to(output.device)).expand(len(output), -1, -1))


def of_each_block(score: Callable[[Place, Tensor, Tensor], Tensor]) -> Way:
    """Of each 2x2 block the entry of the highest score, (B, H, W), is computed and copied to the other three."""

    def way(place: Place, input: Tensor) -> Tensor:
        output = place.exact(input)
        scores = score(place, input, output)
        height, width = output.shape[-2:]
        index = torch.arange(height * width, device=output.device).view(1, height, width).expand(len(output), -1, -1)
        by_block = [t.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3) for t in (scores.expand(len(output), -1, -1), index)]
        chosen = by_block[1].gather(3, by_block[0].argmax(3, keepdim=True))[..., 0]
        nearest = chosen.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return spread(output, nearest)

    return way


def at_random(place: Place, input: Tensor, output: Tensor) -> Tensor:
    """Score entries by chance, anew for each sample."""
    return torch.rand(len(output), *output.shape[-2:], generator=place.generator()).to(output.device)


def by_contrast(place: Place, input: Tensor, output: Tensor) -> Tensor:
    """Score entries by how much the sample's input there differs from its surroundings."""
    return (input - F.avg_pool2d(input, 3, 1, 1)).abs().sum(1)


def by_gradient(place: Place, input: Tensor, output: Tensor) -> Tensor:
    """Score entries by chance, weighted with the layer's mean |gradient| there at the last look."""
    if place.iteration % REFRESH == 0 and output.requires_grad:
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: place.notes.__setitem__("gradient", gradient.detach().abs().sum(1).mean(0))
        )
    weight = place.notes.get("gradient", output.new_ones(output.shape[-2:])).clamp_min(1e-20)
    # The largest of log(u) / w is each entry with probability w / sum(w) (Efraimidis and Spirakis, 2006).
    return at_random(place, input, output).log() / weight


def by_size(place: Place, input: Tensor, output: Tensor) -> Tensor:
    """Score entries by their largest value, which is what a max-pooling after them picks; it needs them all."""
    return output.detach().amax(1)


# name: (way, the layers that it is applied to)
WAYS: Mapping[str, tuple[Way | None, tuple[str, ...]]] = {
    "exact": (None, ()),
    "1/2 rows": (fixed(ROWS), LAYERS),
    "1/2 columns": (fixed(COLUMNS), LAYERS),
    "1/2 rows or columns": (fixed(ROWS, COLUMNS), LAYERS),
    "1/2 rows or columns, conv1 and conv2": (fixed(ROWS, COLUMNS), LAYERS[:2]),
    "1/2 rows or columns, conv3": (fixed(ROWS, COLUMNS), LAYERS[2:]),
    "1/2 columns, conv1 and conv2": (fixed(COLUMNS), LAYERS[:2]),
    "1/2 columns, halves of the batch at opposite offsets": (halves(COLUMNS), LAYERS),
    "1/2 checkerboard": (checkerboard, LAYERS),
    "1/2 columns, interpolated": (interpolated(COLUMNS), LAYERS),
    "1/2 columns, gradient sampled, forward exact": (sampled_gradient(COLUMNS), LAYERS),
    "1/4 blocks": (fixed(BLOCKS), LAYERS),
    "1/4 blocks, conv1 and conv2": (fixed(BLOCKS), LAYERS[:2]),
    "1/4 blocks, interpolated": (interpolated(BLOCKS), LAYERS),
    "1/4 blocks, backward alone": (backward_alone(BLOCKS), LAYERS),
    "1/4 of each block by chance, per sample": (of_each_block(at_random), LAYERS),
    "1/4 of each block by the input's contrast": (of_each_block(by_contrast), LAYERS),
    "1/4 of each block by the last gradient": (of_each_block(by_gradient), LAYERS),
    "1/4 of each block by the largest output": (of_each_block(by_size), LAYERS),
}


@functools.cache
def _splits() -> Splits:
    return find("cq").load(full=True)


def train(name: str, iterations: int, seed: int, device: str) -> float:
    """Train CQ in one of the WAYS and return its test error in percent."""
    (way, layers), problem, splits = WAYS[name], find("cq"), _splits()
    solver = replace(problem.solver, policy=MultiStep((iterations * 4 // 5,), 0.1))
    # A way computes something else in each iteration, so that none can be replayed.
    problem = replace(problem, solver=solver, recordable=False)
    trial = Trial(problem, {}, splits, seed=derive("train", seed), stan=None, device=device)
    for number, layer in enumerate(LAYERS):
        conv = trial.model.get_submodule(layer)
        assert isinstance(conv, nn.Conv2d)
        if way is not None and layer in layers:
            notes: dict[str, Tensor] = {}

            def forward(input: Tensor, conv: nn.Conv2d = conv, number: int = number, notes: dict = notes) -> Tensor:
                place = Place(conv, number, seed, trial.iteration, notes)
                assert way is not None
                return way(place, input) if conv.training else place.exact(input)

            conv.forward = forward  # type: ignore[method-assign]
    trial.train(iterations, lambda: False, lambda iteration: None)
    return error_percent(trial.model, splits.test, splits.normaliser, device)


def main() -> None:
    """Train what --keep does not hold yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1, help="processes, each of one thread")
    parser.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    parser.add_argument("--keep", type=Path, help="a JSON file of finished trainings")
    options = parser.parse_args()
    kept: dict[str, float] = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    keys = {
        f"{name} / {options.iterations} / {seed}": (name, options.iterations, seed, options.device)
        for seed in range(options.seeds)
        for name in options.ways
    }
    with ProcessPoolExecutor(options.workers, get_context("spawn"), initializer=tune_process, initargs=(1,)) as pool:
        running = {pool.submit(train, *what): key for key, what in keys.items() if key not in kept}
        for future in as_completed(running):
            key = running[future]
            kept[key] = future.result()
            print(f"{key}: {kept[key]:.2f} %", flush=True)
            if options.keep:
                options.keep.write_text(json.dumps(kept, indent=2))
    print(f"\nCQ, {options.iterations} iterations on {options.device}, test error in %\n")
    print(f"| entries | {' | '.join(f'seed {seed}' for seed in range(options.seeds))} | mean | above exact |")
    print("|---" * (options.seeds + 3) + "|")
    base = [kept.get(f"exact / {options.iterations} / {seed}", float("nan")) for seed in range(options.seeds)]
    for name in options.ways:
        errors = [kept[f"{name} / {options.iterations} / {seed}"] for seed in range(options.seeds)]
        above = statistics.fmean(errors) - statistics.fmean(base)
        cells = " | ".join(f"{error:.2f}" for error in errors)
        print(f"| {name} | {cells} | {statistics.fmean(errors):.2f} | {above:+.2f} |")


if __name__ == "__main__":
    main()
