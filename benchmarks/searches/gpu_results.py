"""What gpu_search.py kept, as a table of each GPU and as a picture."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.side_by_side import table


@dataclass(frozen=True)
class Record:
    """What one way took in one round.

    Attributes:
        memory: of the device, in bytes: the most that PyTorch held there in all processes together. What it holds from
            before for other networks is in it.
        same: trials that came to the same, bit for bit, as alone.
        own: of whoever measured: GPU, PyTorch, environment.
    """

    network: str
    way: str
    round: int
    trials: int
    iterations: int
    seconds: float
    memory: int
    same: int
    own: str

    @property
    def an_hour(self) -> float:
        """Trials an hour."""
        return self.trials / self.seconds * 3600


ONE = "one"


def tables(records: Iterable[Record]) -> str:
    """Return a Markdown table for each GPU, in the order that was measured, and what else was found."""
    by_gpu: dict[str, dict[str, dict[str, list[Record]]]] = {}
    for (own, network), its in _grouped(records).items():
        by_gpu.setdefault(own, {})[network] = its
    return "\n\n".join(_table(own, networks) for own, networks in by_gpu.items())


def _table(own: str, networks: Mapping[str, Mapping[str, Sequence[Record]]]) -> str:
    every = [each for its in networks.values() for rounds in its.values() for each in rounds]
    trained, same = sum(each.trials for each in every), sum(each.same for each in every)
    spread = max(_spread(rounds) for its in networks.values() for rounds in its.values())
    head = (
        f"{own}: {same} of {trained} trials came to the bits of the same one alone; trials an hour, median of "
        f"{1 + max(each.round for each in every)} rounds, which differ by {spread:.0%} at most (times one alone)"
    )
    ways = dict.fromkeys(way for its in networks.values() for way in its)
    rows = [(way, *(_cell(its.get(way), its.get(ONE)) for its in networks.values())) for way in ways]
    memory = [None if (each := memory_of_one(its)) is None else f"{each / 1e6:,.0f} MB" for its in networks.values()]
    rows.append(("memory of each further one beside it", *(each or "" for each in memory)))
    names = [f"{network}, {next(iter(its.values()))[0].iterations} iterations" for network, its in networks.items()]
    return f"{head}\n\n{table(('trials at the same time', *names), rows)}"


def memory_of_one(its: Mapping[str, Sequence[Record]]) -> float | None:
    """Return the memory that each further trial in a process takes, in bytes: of the most and of one, in a round."""
    counts = {way: int(found.group(1)) for way in its if (found := re.fullmatch(r"(\d+) together", way))}
    if ONE not in its or not counts:
        return None
    most = max(counts, key=lambda way: counts[way])
    before = {each.round: each.memory for each in its[ONE]}
    taken = [
        (each.memory - before[each.round]) / (counts[most] - 1)
        for each in its[most]
        if before.get(each.round) is not None
    ]
    return statistics.median(taken) if taken else None


def plot(records: Iterable[Record], file: Path) -> None:
    """Draw trials an hour against trials at the same time, a panel for each network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = _grouped(records)
    figure, panels = pyplot.subplots(1, len(groups), figsize=(3.1 * len(groups), 3.2), squeeze=False)
    for panel, ((_, network), its) in zip(panels[0], groups.items(), strict=True):
        alone = statistics.median(each.an_hour for each in its[ONE])
        for label, pattern, style in LINES:
            points = sorted(
                (_at_once(way), statistics.median(each.an_hour for each in rounds) / alone)
                for way, rounds in its.items()
                if re.fullmatch(pattern, way)
            )
            if points:
                panel.plot(*zip(*points, strict=True), style, label=label, markersize=5)
        panel.axhline(1, color="0.7", linewidth=1, zorder=0)
        panel.set_xscale("log", base=2)
        panel.set_ylim(0)
        panel.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        panel.set_title(f"{network}: {alone:,.0f} an hour alone", fontsize=10)
        panel.set_xlabel("trials at the same time")
    panels[0][0].set_ylabel("trials an hour, times one at a time")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="upper center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.91))
    figure.savefig(file, dpi=130)


LINES = (
    ("in one process (--together K)", r"one|\d+ together", "o-"),
    ("a process each (--workers W)", r"one|\d+ processes, one in each", "s--"),
    ("a process each, under MPS", r"one under MPS|\d+ processes under MPS, one in each", "^:"),
    ("8 in each process", r"\d+ processes, 8 together in each", "D"),
)


def _at_once(way: str) -> int:
    """Return how many trials a way trains at the same time."""
    processes, together = (re.search(pattern, way) for pattern in (r"(\d+) processes", r"(\d+) together"))
    return (int(processes[1]) if processes else 1) * (int(together[1]) if together else 1)


def _cell(rounds: Sequence[Record] | None, alone: Sequence[Record] | None) -> str:
    """Return trials an hour, and how many times those of one at a time that is, round by round."""
    if not rounds:
        return ""
    of_one = {each.round: each.an_hour for each in alone or ()}
    ratios = [each.an_hour / of_one[each.round] for each in rounds if each.round in of_one]
    ratio = f" ({statistics.median(ratios):.2f})" if ratios else ""
    return f"{statistics.median(each.an_hour for each in rounds):,.0f}{ratio}"


def _spread(rounds: Sequence[Record]) -> float:
    """Return by which share of the slowest round the fastest one is faster."""
    hours = [each.an_hour for each in rounds]
    return max(hours) / min(hours) - 1


def _grouped(records: Iterable[Record]) -> dict[tuple[str, str], dict[str, list[Record]]]:
    """Return the records by GPU and network, and of each by way."""
    groups: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for each in records:
        groups.setdefault((each.own, each.network), {}).setdefault(each.way, []).append(each)
    return groups
