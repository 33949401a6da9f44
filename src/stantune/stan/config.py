"""Stan: what the user asks of the accelerator, in one object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from stantune.stan.entries import Pattern, choose_patterns
from stantune.stan.schedule import Schedule


@dataclass(frozen=True)
class Stan:
    """Settings of STAN with the neighbour fill.

    Attributes:
        rate: share of the entries that a reduced iteration computes: 1/2, 1/4, or 1 for all.
        pattern: "rows" or "columns" (1/2), "blocks" (one of each 2x2, 1/4), or "auto": what the rate asks for, at 1/2
            rows or columns, drawn for each layer and iteration.
        period: Z, reduced iterations after each exact one (a refresh); None for no refresh.
        pretrain: p_t, exact iterations at the start.
        tail: exact iterations at the end of a run of `iterations`.
        iterations: N, length of the run; needed for a tail alone.
        layers: names of the layers to accelerate, as shell patterns ("features.*"); every Conv2d by default.
        seed: of the grids' offsets.

    Raises:
        UsageError: a value outside its range, or two that contradict each other.
    """

    rate: float = 0.5
    pattern: str = "auto"
    period: int | None = 9
    pretrain: int = 0
    tail: int = 0
    iterations: int | None = None
    layers: tuple[str, ...] = ("*",)
    seed: int = 0

    def __post_init__(self) -> None:
        choose_patterns(self.pattern, self.rate)
        Schedule(self.pretrain, self.period, self.tail, self.iterations)

    @cached_property
    def schedule(self) -> Schedule:
        """The phases of the run's iterations."""
        return Schedule(self.pretrain, self.period, self.tail, self.iterations)

    @cached_property
    def grid_patterns(self) -> tuple[Pattern, ...]:
        """The patterns that a reduced iteration draws from; none where the rate is 1."""
        return choose_patterns(self.pattern, self.rate)
