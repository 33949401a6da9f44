"""What models.py measured: records, and the tables that they make."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.common.side_by_side import table

# What the tables hold against a way: slower than this, so many MiB more than stock's, a gradient error so many times
# stock's.
SLOWER, MEMORY, ERROR = 0.97, 8.0, 2.0
NOTHING = "–"


class Key(NamedTuple):
    """What is measured once."""

    network: str
    batch: int
    way: str
    threads: int
    optimizer: str


@dataclass(frozen=True)
class Turns:
    """A way and stock beside it in one setting.

    Attributes:
        layout: the way's memory format.
        stock_layout: stock's.
        ms: a step of the way, one figure a round.
        stock_ms: a step of stock's in the same rounds.
        peak: MiB of the way's process above what it had before it built the network.
        stock_peak: the same of stock's.
        planning: seconds that the planner took; None where there was none.
        predicted: the speed-up that it predicted.
    """

    layout: str
    stock_layout: str
    ms: list[float]
    stock_ms: list[float]
    peak: float
    stock_peak: float
    planning: float | None = None
    predicted: float | None = None

    @property
    def ratios(self) -> list[float]:
        """How many times faster than stock, round by round."""
        return [stock / way for way, stock in zip(self.ms, self.stock_ms, strict=True)]

    @property
    def speedup(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles."""
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return (high - low) / 2


@dataclass(frozen=True)
class Gradients:
    """Relative errors of a gradient against float64, of all parameters together and of the worst one; medians.

    Attributes:
        stock: of stock PyTorch in float32.
        stock_worst: of its worst parameter.
        exact: of an exact iteration of the way.
        exact_worst: of its worst parameter.
        reduced: of a reduced iteration: the approximation, not rounding; None where there is none.
        reduced_size: norm of a reduced iteration's gradient, by that of the exact one.
    """

    stock: float
    stock_worst: float
    exact: float
    exact_worst: float
    reduced: float | None = None
    reduced_size: float | None = None


@dataclass(frozen=True)
class Record:
    """A way with a network and a batch; `best` and `user` are None where it failed, `failed` says why.

    Attributes:
        setting: threads, PyTorch's version and the form of the kernels.
        best: each side in its faster layout, fused optimizer, an allocator that keeps its buffers.
        user: contiguous, the optimizer as it comes, the allocator as well.
    """

    network: str
    batch: int
    way: str
    threads: int
    optimizer: str
    setting: str
    best: Turns | None = None
    user: Turns | None = None
    gradients: Gradients | None = None
    failed: str = ""

    @property
    def key(self) -> Key:
        """What it is of."""
        return Key(self.network, self.batch, self.way, self.threads, self.optimizer)


def record_of(plain: Mapping[str, Any]) -> Record:
    """Return a record from what JSON has of it."""
    kinds: dict[str, type] = {"best": Turns, "user": Turns, "gradients": Gradients}
    made = {name: kinds[name](**plain[name]) for name in kinds if plain[name] is not None}
    return Record(**{**plain, **made})


def tables(records: Iterable[Record], kinds: Mapping[str, str], ways: Sequence[str]) -> str:
    """Return all tables as Markdown, those of each setting and optimizer apart.

    Args:
        records: in any order; what is not among these networks and ways is left out.
        kinds: of the networks, by name, in the tables' order.
        ways: in the tables' order.
    """
    order = list(kinds)
    known = [each for each in records if each.network in kinds and each.way in ways]
    known.sort(key=lambda each: (order.index(each.network), each.batch, ways.index(each.way)))
    groups: dict[tuple[str, str], list[Record]] = {}
    for each in known:
        groups.setdefault((each.setting, each.optimizer), []).append(each)
    texts = []
    for (setting, optimizer), group in groups.items():
        found = [way for way in ways if any(each.way == way for each in group)]
        texts.append(f"{setting}, {optimizer}")
        texts.append(_by_kind(group, found, kinds))
        texts.append(_speed(group, found))
        texts.append(_accuracy(group, found))
        texts += [line for line in (_counted(group), _failed(group), _misses(group)) if line]
    return "\n\n".join(texts)


def _cells(group: Sequence[Record]) -> dict[tuple[str, int], dict[str, Record]]:
    """Return the ways of each network and batch."""
    found: dict[tuple[str, int], dict[str, Record]] = {}
    for each in group:
        found.setdefault((each.network, each.batch), {})[each.way] = each
    return found


def _by_kind(group: Sequence[Record], ways: Sequence[str], kinds: Mapping[str, str]) -> str:
    """Return what to expect: by kind and batch, the median of the networks and the lowest."""
    rows = []
    for kind in dict.fromkeys(kinds[each.network] for each in group):
        for batch in sorted({each.batch for each in group}):
            of = [each for each in group if kinds[each.network] == kind and each.batch == batch]
            row = [kind, str(len({each.network for each in of})), str(batch)]
            for setting in ("best", "user"):
                for way in ways:
                    turns = [getattr(each, setting) for each in of if each.way == way]
                    speeds = [each.speedup for each in turns if each is not None]
                    row.append(_median_and_least(speeds))
            if of:
                rows.append(row)
    columns = ["kind", "networks", "batch", *ways, *(f"{way}, user's setting" for way in ways)]
    return table(columns, rows)


def _median_and_least(speeds: Sequence[float]) -> str:
    if not speeds:
        return NOTHING
    middle = f"{statistics.median(speeds):.2f}"
    return middle if len(speeds) == 1 else f"{middle} ({min(speeds):.2f})"


def _speed(group: Sequence[Record], ways: Sequence[str]) -> str:
    """Return the table of times faster than stock, both in the best setting, and both in the user's."""
    rows = []
    planned = [way for way in ways if any(each.way == way and _planned(each) for each in group)]
    for (network, batch), by_way in _cells(group).items():
        row = [network, str(batch)]
        for setting in ("best", "user"):
            turns = {way: getattr(each, setting) for way, each in by_way.items()}
            some = next((each for each in turns.values() if each is not None), None)
            row.append(NOTHING if some is None else f"{statistics.median(some.stock_ms):.1f}")
            if setting == "best":
                row.append(NOTHING if some is None else some.stock_layout)
            row += [NOTHING if turns.get(way) is None else _with_spread(turns[way]) for way in ways]
            for way in planned:
                said = None if turns.get(way) is None else turns[way].predicted
                row.append(NOTHING if said is None else f"{said:.2f}")
        for way in planned:
            best = by_way[way].best if way in by_way else None
            row.append(NOTHING if best is None or best.planning is None else f"{best.planning:.1f}")
        rows.append(row)
    said = [f"{way}, predicted" for way in planned]
    columns = ["network", "batch", "stock, ms", "its layout", *ways, *said]
    columns += ["stock, user's setting, ms", *ways, *said, *(f"{way}: planning, s" for way in planned)]
    return table(columns, rows)


def _planned(record: Record) -> bool:
    return any(turns is not None and turns.planning is not None for turns in (record.best, record.user))


def _with_spread(turns: Turns) -> str:
    return f"{turns.speedup:.2f} ± {turns.spread:.2f}"


def _accuracy(group: Sequence[Record], ways: Sequence[str]) -> str:
    """Return the table of gradients' errors against float64, of reduced gradients' sizes, and of memory."""
    rows = []
    for (network, batch), by_way in _cells(group).items():
        some = next((each.gradients for each in by_way.values() if each.gradients is not None), None)
        row = [network, str(batch), NOTHING if some is None else _errors(some.stock, some.stock_worst)]
        found = [by_way.get(way) for way in ways]
        gradients = [None if each is None else each.gradients for each in found]
        row += [NOTHING if each is None else _errors(each.exact, each.exact_worst) for each in gradients]
        row += [
            NOTHING if each is None or each.reduced_size is None else f"{each.reduced_size:.2f} ({each.reduced:.2f})"
            for each in gradients
        ]
        turns = next((each.best for each in by_way.values() if each.best is not None), None)
        row.append(NOTHING if turns is None else f"{turns.stock_peak:.0f}")
        row += [NOTHING if each is None or each.best is None else f"{each.best.peak:.0f}" for each in found]
        rows.append(row)
    columns = ["network", "batch", "gradient error, stock", *ways, *(f"{way}: size reduced" for way in ways)]
    return table([*columns, "peak, stock, MiB", *ways], rows)


def _errors(whole: float, worst: float) -> str:
    return f"{whole:.1e} ({worst:.1e})"


def _counted(group: Sequence[Record]) -> str:
    """Return what became of the plans, in numbers; where nothing was put in place, both sides are the same code."""
    planned = [turns for each in group for turns in (each.best, each.user) if turns and turns.predicted is not None]
    same = [turns.speedup for turns in planned if turns.predicted == 1]
    others = [turns for turns in planned if turns.predicted != 1]
    lines = []
    if len(same) > 1:
        lines.append(
            f"- left as it was in {len(same)} of {len(planned)} cells: {min(same):.2f} to {max(same):.2f}, standard "
            f"deviation {statistics.stdev(same):.2f} around {statistics.mean(same):.2f}"
        )
    if others:
        fast = sum(turns.speedup >= SLOWER for turns in others)
        off = [abs(turns.speedup / (turns.predicted or 1) - 1) for turns in others]
        rest = sorted(turns.speedup for turns in others if turns.speedup < SLOWER)
        lines.append(
            f"- of the other {len(others)}, {fast} at {SLOWER} and above"
            + (f"; below: {', '.join(f'{each:.2f}' for each in rest)}" if rest else "")
        )
        lines.append(
            f"- predictions within a tenth in {sum(each <= 0.1 for each in off)} of them, {statistics.median(off):.2f} "
            "off in the median"
        )
    if seconds := [turns.planning for turns in planned if turns.planning is not None]:
        lines.append(f"- planning: {statistics.median(seconds):.1f} s in the median, {max(seconds):.1f} at most")
    return "\n".join(["Planned:", *lines]) if lines else ""


def _failed(group: Sequence[Record]) -> str:
    lines = [f"- {each.network}, batch {each.batch}, {each.way}: {each.failed}" for each in group if each.failed]
    return "\n".join(["Failed:", *lines]) if lines else ""


def _misses(group: Sequence[Record]) -> str:
    """Return what falls short: slower than SLOWER, more memory than stock, larger errors."""
    lines = []
    for each in group:
        missed = []
        for setting, turns in (("", each.best), (" in the user's setting", each.user)):
            if turns is not None:
                if turns.speedup < SLOWER:
                    missed.append(f"speed {turns.speedup:.2f}{setting}")
                if turns.peak > turns.stock_peak + MEMORY:
                    missed.append(f"{turns.peak:.0f} MiB for {turns.stock_peak:.0f}{setting}")
        if each.gradients is not None and each.gradients.exact > ERROR * each.gradients.stock:
            missed.append(f"gradient error {each.gradients.exact:.1e} for {each.gradients.stock:.1e}")
        if missed:
            lines.append(f"- {each.network}, batch {each.batch}, {each.way}: {'; '.join(missed)}")
    return "\n".join(["Falls short:", *lines]) if lines else ""
