"""Which entries of a layer's output are computed: grid patterns with drawn offsets, and any boolean choice."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stantune.errors import UsageError
from stantune.seeds import derive

# So many whole periods of a pattern an output must have on each side where it skips entries, or all are computed. With
# fewer, one entry stands for most of a map and has the gradient of all of them, and batch norm behind the layer divides
# by the deviation of a handful of values: gradients grow without bound (`benchmarks/trainings/small_maps.py`).
PERIODS = 3


class Pattern(NamedTuple):
    """A grid of computed entries: one of every `rows` rows and one of every `columns` columns."""

    rows: int
    columns: int

    @property
    def rate(self) -> float:
        """Share of the entries that the pattern computes ("kept"), where both sides divide evenly."""
        return 1 / (self.rows * self.columns)


class Grid(NamedTuple):
    """A pattern with its offset: the entries (top + i * rows, left + j * columns) are computed.

    Together with an output size it is the entry matrix E of one iteration, the same for every sample. The output of a
    one-dimensional layer, of length L, is one row of L columns.
    """

    pattern: Pattern
    top: int
    left: int

    def covers(self, height: int, width: int) -> bool:
        """Tell whether an output of this size has at least one whole period of the pattern on each side."""
        return height >= self.pattern.rows and width >= self.pattern.columns

    def fills(self, height: int, width: int) -> bool:
        """Tell whether an output of this size is large enough for skipped entries to copy their neighbours.

        Where it is not, the neighbour fill computes every entry; see PERIODS.
        """
        return all(
            period == 1 or side >= PERIODS * period for side, period in zip((height, width), self.pattern, strict=True)
        )

    def kept_size(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns of an output of `height` x `width` are computed."""
        return -((self.top - height) // self.pattern.rows), -((self.left - width) // self.pattern.columns)

    def matrix(self, height: int, width: int) -> Tensor:
        """Return E as a boolean tensor, (height, width): true where the entry is computed."""
        entries = torch.zeros(height, width, dtype=torch.bool, device="cpu")
        entries[self.top :: self.pattern.rows, self.left :: self.pattern.columns] = True
        return entries


def too_small(height: int, width: int) -> str:
    """Return why a layer with an output of this size computes every entry."""
    return (
        f"its output of {height}x{width} entries is smaller than {PERIODS} periods of its patterns: so few would stand "
        "for all of them, and gradients would grow"
    )


class EntryMatrix(NamedTuple):
    """The entry matrix E of one layer and iteration, any choice at all; a `Grid` is the compact form of a regular one.

    Attributes:
        entries: true where the entry is computed, bool: (B, H, W); for a linear layer (B, N).
    """

    entries: Tensor

    @property
    def kept(self) -> float:
        """Share of the entries that is computed, in [0, 1]; 1 where there are none, as nothing is skipped then."""
        return self.entries.count_nonzero().item() / self.entries.numel() if self.entries.numel() else 1.0


Entries = Grid | EntryMatrix


def check_entries(entries: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `entries` is boolean and of this shape, (B, H, W) or (B, N)."""
    if entries.dtype != torch.bool:
        raise ValueError(f"entries are {entries.dtype}, not torch.bool")
    if tuple(entries.shape) != shape:
        raise ValueError(f"entries are {tuple(entries.shape)}, not {shape} as the layer's output")


PLANE = {"rows": Pattern(2, 1), "columns": Pattern(1, 2), "blocks": Pattern(2, 2)}
PATTERNS = {**PLANE, "quarter": Pattern(1, 4)}  # "quarter": for one-dimensional layers, see `along_line`
# Images differ less along a line than across lines: `stantune profile cq` shows a smaller error for columns.
AUTO = {0.5: ("columns",), 0.25: ("blocks",)}


def choose_patterns(name: str, rate: float) -> tuple[Pattern, ...]:
    """Return the 2-D pattern called `name`, or for "auto" all that the rate asks for; none where the rate is 1.

    Raises:
        UsageError: no such pattern, a rate outside (0, 1] or one that no pattern has, or another pattern's rate.
    """
    if not 0 < rate <= 1:
        raise UsageError(f"rate={rate} is not in (0, 1]; it is the share of the entries that is computed, such as 0.5")
    if name not in (*PLANE, "auto"):
        raise UsageError(f"no pattern is called {name!r}; there are auto, {', '.join(PLANE)}")
    if rate == 1:
        return ()
    if name == "auto":
        if rate not in AUTO:
            nearest = min((*AUTO, 1.0), key=lambda known: abs(known - rate))
            raise UsageError(f"rate={rate} has no grid pattern; the nearest that has one is {nearest}")
        return tuple(PLANE[member] for member in AUTO[rate])
    pattern = PLANE[name]
    if pattern.rate != rate:
        raise UsageError(
            f"pattern {name!r} computes {pattern.rate} of the entries, not rate={rate}; leave one of them out"
        )
    return (pattern,)


def along_line(patterns: tuple[Pattern, ...]) -> tuple[Pattern, ...]:
    """Return what 2-D patterns become in a one-dimensional layer: all of each period along its one row, each once."""
    return tuple(dict.fromkeys(Pattern(1, pattern.rows * pattern.columns) for pattern in patterns))


# Sets of offsets that follow each other in which every pattern of the plane computes each position equally often.
ROUND = 4


def draw_grid(patterns: tuple[Pattern, ...], seed: int, iteration: int, layer: int, sets: int | None = None) -> Grid:
    """Return one of the patterns with an offset, drawn uniformly: every entry is computed equally often.

    A pure function, so that neither a checkpoint nor another process needs a generator's state.

    Args:
        patterns: one or more.
        seed: of all draws.
        iteration: the training's.
        layer: its place among the layers.
        sets: an iteration draws one of so many sets of all layers' offsets, a multiple of ROUND; None: each layer draws
            by itself.
    """
    turn = 0
    if sets is not None:
        iteration, turn = divmod(derive("set", seed, iteration) % sets, ROUND)
    drawn, choice = divmod(derive("grid", seed, iteration, layer), len(patterns))
    pattern = patterns[choice]
    place = (drawn + turn) % (pattern.rows * pattern.columns)
    return Grid(pattern, place % pattern.rows, place // pattern.rows)


def grid_in_turn(pattern: Pattern, turn: int) -> Grid:
    """Return the pattern at its offset number `turn`, each once before any comes again."""
    place = turn % (pattern.rows * pattern.columns)
    top = place % pattern.rows
    return Grid(pattern, top, (place // pattern.rows + top) % pattern.columns)
