"""Which search finds how good a setting how fast: Optuna's Hyperband around plain PyTorch, ours exact, ours with STAN.

    python -m benchmarks.searches.time_to_quality --problem cq --seeds 5 --keep quality.json --table cq.md --plot cq.png

Sides, in this order for each seed, so that whatever changes on the machine meets all of them:

- `exact`: `stantune search PROBLEM --accelerate none`, all of Hyperband's brackets once (eta = 3, at most five
  brackets); trials are trained by PyTorch as it is.
- `optuna`: Optuna's HyperbandPruner around a plain PyTorch loop, as Optuna's documentation has it (default sampler TPE,
  min_resource = r, max_resource = R, an error reported every r iterations), for as long as `exact` took with that seed.
- `native`: `--accelerate stan --rate 1`, all entries computed by our kernels. Not among the default sides.
- `stan`: `--accelerate stan`; `stan:auto`, `stan:0.25,0.5,1` and the like: as `--accelerate` takes them. `stan/9` is
  `stan` with `--period 9`, `stan/9@*` so in all convolutions, and so on.

All have the same space, data, batches, learning-rate course, error (of the 10 000 validation images) and number of
workers, processes of one thread each. Optuna's are processes on one SQLite study, as its documentation recommends for
several cores: threads (n_jobs=2) would share the interpreter's lock. Its loop is stock PyTorch in its best setting:
channels_last memory, fused optimizer, an allocator that keeps its buffers, denormals flushed, images gathered in
memory; it stops where the loss is no number. --reports rungs has it evaluate only where the pruner decides.

The clock starts before the processes do. A point of a curve is the lowest validation error of any evaluation so far, of
models as they are then, whoever trained them; final trainings (the best setting, exactly, from scratch, to R; of ours
as many as --finalists says, and the lowest validation error wins) are not on the curve, and the winner's test error is
that of its final training. Optuna's winner is the setting of its lowest error, whether its trial was completed or not.
"Whole search" is the time to the last result of a whole Hyperband, of Optuna what it was given; "final" is what comes
after it. A side that never got to Optuna's final quality is 0 times faster.

What is in --keep is not run again; a side that was cut is run again from its start, since its time is what counts.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from benchmarks.common.ways import Searched, name_of
from benchmarks.searches.optuna_side import search_optuna
from benchmarks.searches.ours_side import search_ours, searched_by
from benchmarks.searches.quality_results import EXACT, OPTUNA, Found, Kept, best, draw, tables
from stantune.errors import UsageError
from stantune.files import write_whole
from stantune.images.problem.built_in import find


def compute(options: argparse.Namespace, iterations: int, kept: Kept) -> dict[str, list[Found]]:
    """Run what is missing; return what each side came to, seed by seed."""
    found: dict[str, list[Found]] = {side: [] for side in options.sides}
    for seed in range(options.seeds):
        exact: Found | None = None
        for side in options.sides:
            name = _name(options, iterations, side)
            key = f"{options.problem} / {iterations} / {options.workers} workers / {name} / {seed}"
            what = kept.get(key)
            if what is None:
                if side == OPTUNA:
                    budget = options.budget or (exact.seconds if exact else math.nan)
                    what = search_optuna(options.problem, iterations, seed, options.workers, budget, options.reports)
                else:
                    what = search_ours(_searched(options, iterations, seed, side), options.workers)
                kept.put(key, what)
                print(f"{time.strftime('%H:%M:%S')} {key}: {what.seconds:.0f} s, {best(what):.2f} %", flush=True)
            exact = what if side == EXACT else exact
            found[side].append(what)
    return found


def _searched(options: argparse.Namespace, iterations: int, seed: int, side: str) -> Searched:
    """Return what is searched, and how; of Optuna's side what it is compared with."""
    name = EXACT if side == OPTUNA else side
    return searched_by(options.problem, iterations, seed, name, options.finalists)


def _name(options: argparse.Namespace, iterations: int, side: str) -> str:
    """Return the side with all that its result depends on."""
    if side == OPTUNA:
        return f"{side}, reports {options.reports}"
    found = _searched(options, iterations, 0, side)
    name = side if side in (EXACT, "native") else name_of(found, side)
    return name if options.finalists == 1 else f"{name}, {options.finalists} finalists"


def main() -> None:
    """Run what --keep does not hold yet; print and write the tables, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="cq", choices=["lenet", "cq"])
    parser.add_argument("--max-iterations", type=int, help="R (default: the problem's own number)")
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, …")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--finalists", type=int, default=1, help="of our searches")
    parser.add_argument("--sides", nargs="*", default=[EXACT, OPTUNA, "stan", "stan:auto"], metavar="SIDE")
    parser.add_argument(
        "--reports", choices=["all", "rungs"], default="all", help="where Optuna's trials are evaluated"
    )
    parser.add_argument("--budget", type=float, help="Optuna's seconds (default: what exact took)")
    parser.add_argument("--keep", type=Path, help="a JSON file of what is done")
    parser.add_argument("--table", type=Path, help="a Markdown file for the tables")
    parser.add_argument("--plot", type=Path, help="an image file for the curves")
    options = parser.parse_args()
    if OPTUNA in options.sides and not options.budget and EXACT not in options.sides[: options.sides.index(OPTUNA)]:
        parser.error("optuna is given the time that exact took: name exact before it, or give --budget")
    iterations = options.max_iterations or find(options.problem).iterations
    try:
        for side in options.sides:
            objective, settings = _searched(options, iterations, 0, side)
            settings.check(objective)
    except UsageError as error:
        parser.error(str(error))
    found = compute(options, iterations, Kept(options.keep))
    title = f"{options.problem}, R = {iterations}, {options.workers} workers, {options.seeds} seeds"
    if options.finalists > 1:
        title += f", {options.finalists} finalists"
    text = f"{title}; median (quartiles)\n\n{tables(found)}\n"
    print(f"\n{text}")
    if options.table:
        write_whole(options.table, text.encode())
    if options.plot:
        draw(options.plot, title, found)


if __name__ == "__main__":
    main()
