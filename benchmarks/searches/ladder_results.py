"""What ladder.py's searches came to: as records, as tables, as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.common.paired import NOTHING, difference_text, ratio_interval, ratio_text
from benchmarks.common.side_by_side import table
from benchmarks.searches.quality_results import OPTUNA

STOCK = "stock"
# What a rung's share is told against; none is of the first one, nor of Optuna.
BEFORE = {
    "native": STOCK,
    "stan": "native",
    "validation": "stan",
    "start-up": "validation",
    "wide": "start-up",
    "measured": "start-up",
    "bold": "measured",
    "continue": "measured",
    "resized": "measured",
}


class Key(NamedTuple):
    """Which search it is: of which problem, to which R, with which seed, on which rung of the ladder."""

    problem: str
    resource: int
    seed: int
    rung: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.problem}, R = {self.resource}, seed {self.seed}, {self.rung}"


@dataclass(frozen=True)
class Searched:
    """What a search came to; times in seconds.

    Attributes:
        points: (wall time, processor time, validation error in percent) where the lowest error so far became lower.
        seconds: until the last result of a trial, and `processor`.
        whole_seconds: until that of the final training, and `whole_processor`.
        trials: begun.
        test_error: of the final training, percent; None where it diverged.
        started: of Optuna's, whether TPE has learnt in every bracket; of others None.
        setting: workers, PyTorch, kernels.
    """

    key: Key
    points: list[tuple[float, float, float]]
    seconds: float
    whole_seconds: float
    processor: float
    whole_processor: float
    trials: int
    test_error: float | None
    started: bool | None
    setting: str

    @property
    def best(self) -> float:
        """The lowest validation error."""
        return self.points[-1][2]

    def reached(self, quality: float) -> float | None:
        """Return the processor seconds until the validation error was this low; None where it never was."""
        return next((processor for _, processor, error in self.points if error <= quality), None)


def searched_of(plain: Mapping[str, Any]) -> Searched:
    """Return a search from what JSON has of it."""
    return Searched(**{**plain, "key": Key(*plain["key"])})


Seeds = Mapping[int, Searched]


def grouped(records: Sequence[Searched]) -> dict[tuple[str, int], dict[str, dict[int, Searched]]]:
    """Return them as {(problem, R): {rung: {seed: search}}}."""
    groups: dict[tuple[str, int], dict[str, dict[int, Searched]]] = {}
    for one in records:
        rungs = groups.setdefault((one.key.problem, one.key.resource), {})
        rungs.setdefault(one.key.rung, {})[one.key.seed] = one
    return groups


def faster(these: Seeds, others: Seeds, what: str) -> list[float]:
    """Return how many times less of a time these took than others, seed by seed."""
    return [getattr(others[seed], what) / getattr(these[seed], what) for seed in sorted(these.keys() & others.keys())]


def sooner(these: Seeds, optuna: Seeds) -> tuple[list[float], int]:
    """Return how many times sooner these had Optuna's quality, of the seeds that ever had, and how many were asked."""
    ratios, asked = [], sorted(these.keys() & optuna.keys())
    for seed in asked:
        quality = optuna[seed].best
        mine, theirs = these[seed].reached(quality), optuna[seed].reached(quality)
        if mine is not None:
            assert theirs is not None
            ratios.append(theirs / mine)
    return ratios, len(asked)


def above(these: Seeds, others: Seeds) -> list[float]:
    """Return by how many points the winner's test error is above the others', seed by seed."""
    found = []
    for seed in sorted(these.keys() & others.keys()):
        mine, theirs = these[seed].test_error, others[seed].test_error
        if mine is not None and theirs is not None:
            found.append(mine - theirs)
    return found


def tables(records: Sequence[Searched]) -> str:
    """Return the numbers as Markdown, a table for each problem and R."""
    return "\n\n".join(_section(*group, rungs) for group, rungs in grouped(records).items())


def _section(problem: str, resource: int, rungs: Mapping[str, Seeds]) -> str:
    stock, optuna = rungs.get(STOCK, {}), rungs.get(OPTUNA, {})
    rows = [tuple(_row(name, seeds, rungs, stock, optuna)) for name, seeds in rungs.items()]
    columns = (
        "rung",
        "seeds",
        "processors, s",
        "wall, s",
        "final training, processors, s",
        "× the rung before, processors",
        "wall",
        "× stock, processors",
        "wall",
        "× to Optuna's quality, processors",
        "got there",
        "winner's test error, %",
        "above stock's",
    )
    settings = sorted({one.setting for seeds in rungs.values() for one in seeds.values()})
    text = f"`{problem}`, R = {resource}; {'; '.join(settings)}\n\n{table(columns, rows)}"
    if optuna:
        started = sum(bool(one.started) for one in optuna.values())
        longer = faster(stock, optuna, "seconds")
        text += f"\n\nTPE had learnt in every bracket with {started} of {len(optuna)} seeds"
        text += f"; Optuna searched {fmean(longer):.2f} times as long as `stock`." if longer else "."
    return text


def _row(name: str, seeds: Seeds, rungs: Mapping[str, Seeds], stock: Seeds, optuna: Seeds) -> Iterator[str]:
    yield name
    yield str(len(seeds))
    for what in ("whole_processor", "whole_seconds"):
        yield f"{fmean(getattr(one, what) for one in seeds.values()):.0f}"
    yield f"{fmean(one.whole_processor - one.processor for one in seeds.values()):.0f}"
    # Optuna was given its time, and the first has none before it.
    for others in (rungs.get(BEFORE.get(name, ""), {}), {} if name in (STOCK, OPTUNA) else stock):
        for what in ("whole_processor", "whole_seconds"):
            yield ratio_text(faster(seeds, others, what))
    ratios, asked = sooner(seeds, optuna)
    yield ratio_text(ratios) if name != OPTUNA else NOTHING
    yield f"{len(ratios)} of {asked}" if asked and name != OPTUNA else NOTHING
    errors = [one.test_error for one in seeds.values() if one.test_error is not None]
    yield f"{fmean(errors):.2f}" if errors else NOTHING
    pairs = above(seeds, stock) if name != STOCK else []
    # A final training that diverged has no error.
    fewer = f" ({len(pairs)} pairs)" if pairs and len(pairs) < len(seeds.keys() & stock.keys()) else ""
    yield difference_text(pairs) + fewer


def draw(path: Path, records: Sequence[Searched]) -> None:
    """Draw how many times less processor time is needed than by `stock`, and to Optuna's quality. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = grouped(records)
    names = [name for name in BEFORE if any(name in rungs for rungs in groups.values())]
    figure, sides = plt.subplots(1, 2, figsize=(4 + 1.2 * len(names), 4), layout="constrained")
    highest = [1.0, 1.0]
    width = 0.8 / max(1, len(groups))
    for number, ((problem, resource), rungs) in enumerate(groups.items()):
        ratios: list[dict[str, list[float]]] = [{}, {}]
        for name in names:
            seeds = rungs.get(name, {})
            ratios[0][name] = faster(seeds, rungs.get(STOCK, {}), "whole_processor")
            ratios[1][name] = sooner(seeds, rungs.get(OPTUNA, {}))[0]
        for side, (axes, of_rung) in enumerate(zip(sides, ratios, strict=True)):
            there = [(place, ratio_interval(of_rung[name])) for place, name in enumerate(names) if of_rung[name]]
            places = [place + (number - (len(groups) - 1) / 2) * width for place, _ in there]
            means = [mean for _, (mean, _, _) in there]
            ends: Any = [[mean - low for _, (mean, low, _) in there], [high - mean for _, (mean, _, high) in there]]
            highest[side] = max([highest[side], *means])
            axes.bar(places, means, width, yerr=ends, capsize=2, label=f"{problem}, R = {resource}")
    whats = "through the whole search, than stock", "to Optuna's quality, than Optuna"
    for axes, what, high in zip(sides, whats, highest, strict=True):
        # Intervals of two or three seeds may end anywhere.
        axes.set_ylim(0, 1.5 * high)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_title(f"times less processor time {what}", fontsize=9)
    sides[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
