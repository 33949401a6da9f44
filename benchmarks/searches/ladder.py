"""What each thing that we add to a search saves by itself, from Optuna around stock PyTorch upwards.

    python -m benchmarks.searches.ladder --problems lenet,cq --resource 400 --seeds 3  # in the quiet; goes on
    python -m benchmarks.searches.ladder --problems lenet,cq --resource 400 --table --plot ladder.png

The rungs; from `native` on each has all that those above it have, and `wide` and `measured` stand side by side:

- `stock`: our Hyperband (eta = 3, at most five brackets), trials trained by PyTorch as it is (`--accelerate none`).
  Up to `start-up` every worker is a new process that imports and loads for itself, as all once were.
- `optuna`: Optuna's HyperbandPruner and TPE around a plain loop in PyTorch's best setting (see optuna_side.py), with
  evaluations only where the pruner decides. It has as long as `stock` took with that seed (wall time), and goes on
  until TPE has learnt in every bracket (10 trials each, Optuna's number), --patience times as long at the most.
- `native`: every entry computed, by native kernels (`--rate 1`).
- `stan`: STAN by rung (`--accelerate stan:auto`).
- `validation`: low rungs judged by a part of the validation set (`--validation by-rung`).
- `start-up`: workers are copies of one process that has imported and loaded what all need: the search as it is.
- `wide`, `measured`: the plan in place of Hyperband, each on top of `start-up` (`--plan`).
- `bold`: `measured` with 1/2 up to R, too (`--accelerate stan:0.25,0.5,0.5`): the final training alone is exact.
- `continue`: `measured` without a final training: the best trial's own weights, whose way to R was exact, are taken as
  they are (`--final continue`).
- `resized`: `measured` with images of half their sides up to a third of R (`--resize 1/2`), of `fashion`: the networks
  of the others have a layer of weights for each place of the last map.

Same seeds: all but Optuna and the plans try the same settings, from the same weights, on the same data. A search has a
process of its own, and workers of one thread each. Times are of the search and its final training (of the best setting,
exact, from scratch, to R, but for `continue`, where the trial is tested and no more), without the start of the search's
own process but with that of its workers: processor time of all its processes, and wall time. A share is the ratio of
times of a rung and of the one before it (of `wide` and `measured`: of `start-up`; of `bold`, `continue` and
`resized`: of `measured`) with the same seed; means of ratios are geometric, intervals Student's of 95 %.

To Optuna's quality: its lowest validation error, whenever it found it, and the time until it did; how many times sooner
a rung has an error as low, of a trial that was judged by the whole validation set. That time is the processor's, read
once a second and in a straight line between. A search that never gets there counts in "got there" and not in the mean.

What is in --keep is not run again; one that was cut is run from its start. Seeds are the outermost loop: what is there
after a while is whole sets. Linux alone: processor time is read in /proc.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.common.kept import RESULTS, Kept
from benchmarks.common.side_by_side import setting
from benchmarks.searches.ladder_results import Key, Searched, draw, searched_of, tables
from benchmarks.searches.optuna_side import search_optuna
from benchmarks.searches.ours_side import search_ours, searched_by
from benchmarks.searches.quality_results import EXACT, OPTUNA, Found
from stantune.errors import UsageError
from stantune.files import write_whole
from stantune.images.resizing import Resize
from stantune.search.plan import finals

PROBLEMS = {
    "lenet": "lenet",
    "cq": "cq",
    "fashion": f"{Path(__file__).parents[2] / 'examples' / 'fashion_residual.py'}:problem",
}


class Rung(NamedTuple):
    """What a search of ours is made with: see ours_side.searched_by for `side`, SearchSettings for the others."""

    side: str
    validation: str = "all"
    copies: bool = False
    plan_name: str = "hyperband"
    final: str = finals.SCRATCH
    resize: Resize | None = None


RESIZED = "resized"
# Of Optuna's side `stock` comes first: it says how long.
RUNGS = {
    "stock": Rung(EXACT),
    OPTUNA: None,
    "native": Rung("native"),
    "stan": Rung("stan:auto"),
    "validation": Rung("stan:auto", "by-rung"),
    "start-up": Rung("stan:auto", "by-rung", copies=True),
    "wide": Rung("stan:auto", "by-rung", copies=True, plan_name="wide"),
    "measured": Rung("stan:auto", "by-rung", copies=True, plan_name="measured"),
    "bold": Rung("stan:0.25,0.5,0.5", "by-rung", copies=True, plan_name="measured"),
    "continue": Rung("stan:auto", "by-rung", copies=True, plan_name="measured", final=finals.CONTINUE),
    RESIZED: Rung("stan:auto", "by-rung", copies=True, plan_name="measured", resize=Resize.of("1/2")),
}
# Whose networks take images of any size.
OF_ANY_SIZE = ("fashion",)


class Meter(threading.Thread):
    """Reads the processor time of this process and all that it has started, once a second, from now on."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._began, self._before = time.perf_counter(), family_seconds(os.getpid())
        self._read = [(0.0, 0.0)]
        self.start()

    def run(self) -> None:
        """Read until `stop`."""
        while not self._over.wait(1.0):
            self._note()

    def stop(self) -> None:
        """Read for the last time."""
        self._over.set()
        self.join()
        self._note()

    def processor(self, seconds: Sequence[float]) -> list[float]:
        """Return the processor seconds at these seconds of wall time, in a straight line between two readings."""
        walls, processors = zip(*self._read, strict=True)
        return [round(float(value), 3) for value in np.interp(seconds, walls, processors)]

    def _note(self) -> None:
        wall, now = time.perf_counter() - self._began, family_seconds(os.getpid()) - self._before
        # While a process ends, its time is neither its own nor its parent's yet.
        self._read.append((wall, max(now, self._read[-1][1])))


def family_seconds(process: int) -> float:
    """Return the processor seconds of a process and of all its descendants, those that have ended among them."""
    ticks, parents = {}, {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    mine, found = 0, [process]
    while found:
        one = found.pop()
        mine += ticks.get(one, 0)
        found += [child for child, parent in parents.items() if parent == one]
    return mine / os.sysconf("SC_CLK_TCK")


def searched(key: Key, workers: int, budget: float, patience: float) -> Searched:
    """Run a search in this process, and its final training; `budget`: Optuna's seconds."""
    meter = Meter()
    found = _found(key, workers, budget, patience)
    meter.stop()
    at = [seconds for seconds, _ in found.points]
    whole = found.seconds + found.final_seconds
    *processor, search, end = meter.processor([*at, found.seconds, whole])
    points = [(wall, used, error) for (wall, error), used in zip(found.points, processor, strict=True)]
    return Searched(
        key,
        points=improving(points),
        seconds=found.seconds,
        whole_seconds=whole,
        processor=search,
        whole_processor=end,
        trials=found.trials,
        test_error=found.test_error,
        started=found.started,
        setting=f"{workers} workers of {setting(1)}",
    )


def _found(key: Key, workers: int, budget: float, patience: float) -> Found:
    problem, rung = PROBLEMS[key.problem], RUNGS[key.rung]
    if rung is None:
        return search_optuna(problem, key.resource, key.seed, workers, budget, "rungs", patience)
    what = searched_by(problem, key.resource, key.seed, rung.side)
    settings = replace(what.settings, validation=rung.validation, plan_name=rung.plan_name, final=rung.final)
    objective = replace(what.objective, resize=rung.resize)
    return search_ours(what._replace(objective=objective, settings=settings), workers, copies=rung.copies)


def improving(points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Return of (wall, processor, error) those whose error is lower than all before."""
    kept: list[tuple[float, float, float]] = []
    for wall, processor, error in points:
        if not kept or error < kept[-1][2]:
            kept.append((round(wall, 3), processor, error))
    return kept


def wanted(options: argparse.Namespace) -> Iterator[Key]:
    """Yield what is asked for, in the order in which it is run: seed by seed."""
    for seed in range(options.seeds):
        for resource in options.resource:
            for problem in options.problems:
                for rung in options.rungs:
                    if rung != RESIZED or problem in OF_ANY_SIZE:
                        yield Key(problem, resource, seed, rung)


def apart(work: Callable[..., Searched], *given: object) -> Searched:
    """Do something in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what reads names that commas separate; an argparse type."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; give some of {', '.join(known)}")
        return [name for name in known if name in names]

    return read


def resources(text: str) -> list[int]:
    """Read numbers of iterations that commas separate; an argparse type."""
    if not all(each.isdecimal() for each in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers of iterations; give 400, or 400,1000")
    return [int(each) for each in text.split(",")]


def main() -> None:
    """Run what --keep does not hold yet; print and write the tables, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=names_of(list(PROBLEMS)), default=list(PROBLEMS), metavar="NAME,…")
    parser.add_argument("--resource", type=resources, metavar="R,…", help="R; several: 400,1000; as it comes, 400")
    parser.add_argument(
        "--seeds", type=int, help="0, 1, …; as it comes, three; --table takes all that there are of both"
    )
    parser.add_argument("--rungs", type=names_of(list(RUNGS)), default=list(RUNGS), metavar="NAME,…")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--patience", type=float, default=3.0, help="for Optuna's TPE: times stock's time")
    parser.add_argument("--keep", type=Path, default=RESULTS / "ladder.jsonl")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--write", type=Path, help="a Markdown file for the tables")
    parser.add_argument("--plot", type=Path, help="an image file")
    options = parser.parse_args()
    kept = Kept(options.keep, searched_of, lambda one: one.key)
    there = kept.records if options.table else {}
    options.resource = options.resource or sorted({key.resource for key in there}) or [400]
    options.seeds = options.seeds or max((key.seed + 1 for key in there), default=3)
    try:
        for key in wanted(options):
            if key.rung != OPTUNA:
                rung = RUNGS[key.rung]
                assert rung is not None
                what = searched_by(PROBLEMS[key.problem], key.resource, key.seed, rung.side)
                replace(what.settings, plan_name=rung.plan_name, final=rung.final).check(what.objective)
    except UsageError as error:
        parser.error(str(error))
    for key in () if options.table else wanted(options):
        if key in kept.records:
            continue
        stock = kept.records.get(key._replace(rung="stock"))
        if key.rung == OPTUNA and stock is None:
            parser.error("optuna is given the time that stock took: have stock among --rungs")
        budget = 0.0 if stock is None else stock.seconds
        kept.add(apart(searched, key, options.workers, budget, options.patience))
        one = kept.records[key]
        print(
            f"{time.strftime('%H:%M:%S')} {key}: {one.whole_processor:.0f} s of processors, {one.whole_seconds:.0f} s, "
            f"best {one.best:.2f} %, test {one.test_error}",
            flush=True,
        )
    told = [kept.records[key] for key in wanted(options) if key in kept.records]
    text = tables(told)
    print(f"\n{text}")
    if options.write:
        write_whole(options.write, f"{text}\n".encode())
    if options.plot:
        draw(options.plot, told)


if __name__ == "__main__":
    main()
