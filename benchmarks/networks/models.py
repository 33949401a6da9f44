"""Real networks with random weights under STAN against stock PyTorch: speed, gradients, memory, planning, predictions.

    python -m benchmarks.networks.models [--only 'resnet*,unet*'] [--batches 4,16,64] [--ways 1,0.5,auto] [--threads 1]
    python -m benchmarks.networks.models --table                    # the Markdown tables of what was measured
    python -m benchmarks.networks.models --train [--seeds 3]        # the loss after thirty steps on real images

Needs the extra `models`. Images are 64x64. Sides take turns, each in a process of its own, in two settings. Best:
the faster one of channels_last and contiguous, tried before; a fused optimizer; an allocator that keeps its buffers.
User's: contiguous, the optimizer and the allocator as they come. A step under STAN is a mean one of its cycle. Each
record is kept when it is there: the same command goes on where it was, and tries again what failed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.kept import RESULTS, Kept
from benchmarks.common.side_by_side import Side, Times, interleave, setting
from benchmarks.networks import model_training, zoo
from benchmarks.networks.model_results import Gradients, Key, Record, Turns, record_of, tables
from benchmarks.networks.model_step import LAYOUTS, WAYS, Optimizer, apart, cycle, laid_out, put_under, sided
from stantune.kernels.library import plain_pytorch
from stantune.process.runtime import tune_process
from stantune.stan.planning.plan import GAIN
from stantune.stan.planning.timing import clock_for
from stantune.stan.schedule import Phase

STOCK = "stock"
BEST, USER = "best", "user"
# Parameters whose gradient is a smaller share of the whole than this have no worst error: a bias before batch norm.
COUNTS = 1e-4
# Of batches of at most FEW images, gradients are taken of so many: which error a single one has is chance.
DRAWS, FEW = 3, 16
# Seconds of a step from which on caches do not matter, and fewer rounds have to do.
LONG = 0.2


def tried(network: str, batch: int, threads: int, optimizer: Optimizer) -> dict[str, dict[str, float]]:
    """Return the seconds of a step in each layout, of stock and of STAN with every entry, from a few steps."""
    tune_process(threads)
    clock = clock_for(torch.device("cpu"))
    found: dict[str, dict[str, float]] = {}
    for way in (None, "1"):
        for layout in LAYOUTS:
            ((_, step),) = sided(network, batch, way, layout, optimizer, best=True).parts
            step()
            taken: list[float] = []
            while len(taken) < 3 and sum(taken) < LONG:
                began = clock()
                step()
                taken.append(clock() - began)
            found.setdefault(way or STOCK, {})[layout] = min(taken)
    return found


def gradients(network: str, batch: int, layouts: tuple[str, str], plans: Mapping[str, Any]) -> dict[str, Gradients]:
    """Return each way's errors against float64, of several small batches the median.

    One activation that rounding moves across a kink, or batch norm over few positions, makes an error thousands of
    times as large, by chance in stock or in the way.

    Args:
        network: its name in the zoo.
        batch: of how many images.
        layouts: stock's and the ways'.
        plans: the ways, each with what was planned, or None.
    """
    torch.set_flush_denormal(True)
    double = zoo.without_chance(zoo.build(network)).double()
    stock = zoo.without_chance(zoo.build(network))
    models = {way: zoo.without_chance(zoo.build(network)) for way in plans}
    handles = {}
    stock_errors: list[tuple[float, float]] = []
    found: dict[str, list[tuple[float, ...]]] = {way: [] for way in plans}
    for draw in range(DRAWS if batch <= FEW else 1):
        images, labels = zoo.batch_of(batch, draw)

        def gradient(model: nn.Module, images: Tensor, labels: Tensor = labels) -> dict[str, Tensor]:
            model.zero_grad()
            zoo.loss_of(network, model, images, labels).backward()  # type: ignore[no-untyped-call]
            named = model.named_parameters()
            return {name: each.grad.double().contiguous() for name, each in named if each.grad is not None}

        with plain_pytorch():
            exact = gradient(double, images.double())
            stock_errors.append(errors(gradient(stock, laid_out(layouts[0], images, stock)), exact))
        for way, planned in plans.items():
            model = models[way]
            given = laid_out(layouts[1], images, model)
            if way not in handles:
                stan = WAYS[way] if planned is None else WAYS[way].with_plan(planned)
                handles[way] = put_under(model, stan, given)
            mine: tuple[float, ...] = ()
            for _, phase, first, every in cycle(handles[way]):
                handles[way].seek(first + draw * every)
                got = gradient(model, given)
                of = errors(got, exact)
                mine += (of[0], size(got) / size(exact)) if phase is Phase.REDUCED else of
            found[way].append(mine)
    return {way: Gradients(*_medians(stock_errors), *_medians(mine)) for way, mine in found.items()}


def _medians(draws: Sequence[tuple[float, ...]]) -> list[float]:
    return [statistics.median(values) for values in zip(*draws, strict=True)]


def size(gradient: Mapping[str, Tensor]) -> float:
    """Return the norm of a gradient, its parameters' together."""
    return float(torch.stack([each.norm() for each in gradient.values()]).norm())


def errors(gradient: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return the relative error of a gradient, and that of the parameter where it is largest."""
    whole = size(exact)
    apart = {name: float((gradient[name] - exact[name]).norm()) for name in exact}
    counting = {name: float(each.norm()) for name, each in exact.items() if float(each.norm()) > COUNTS * whole}
    worst = max(zoo.relative(apart[name], norm) for name, norm in counting.items())
    return zoo.relative(float(torch.tensor(list(apart.values())).norm()), whole), worst


def measure(network: str, batch: int, ways: Sequence[str], asked: argparse.Namespace) -> list[Record]:
    """Return a record of each way."""
    keys = {way: Key(network, batch, way, asked.threads, asked.optimizer) for way in ways}
    try:
        trial = apart(tried, network, batch, asked.threads, asked.optimizer)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return [Record(*key, setting(asked.threads), failed=why) for key in keys.values()]
    layout = {who: min(found, key=lambda each: found[each]) for who, found in trial.items()}
    if trial["1"][layout["1"]] * GAIN > trial[STOCK][layout[STOCK]]:
        # Nobody lays a model out anew for a way that brings nothing.
        layout["1"] = layout[STOCK]
    sides = {}
    for best in (True, False):
        for way in (None, *ways):
            chosen = layout[STOCK if way is None else "1"] if best else "contiguous"
            make = partial(sided, network, batch, way, chosen, asked.optimizer, best)
            name = _name(way, best)
            sides[name] = Side(name, make, tuned=best)
    step = min(trial[STOCK].values())
    long = step > LONG
    repeats = max(1, min(5, int(LONG / 2 / step)))
    parts = 2 * (1 + sum(1 if WAYS[way].rate == 1 else 2 for way in ways))
    rounds = int(asked.seconds / (step * parts * (repeats + (not long))))
    rounds = max(3 if long else 5, min(rounds, 15))
    times = interleave(
        list(sides.values()),
        asked.threads,
        rounds,
        repeats,
        warm_rounds=1 if long else 2,
        warm_turns=not long,
        preload=zoo.PACKAGES,
    )
    plans = {way: times[_name(way, True)].told.get("planned") for way in ways if not times[_name(way, True)].failed}
    why_none = ""
    try:
        found = apart(gradients, network, batch, (layout[STOCK], layout["1"]), plans)
    except Exception as error:
        found, why_none = {}, f"gradients: {type(error).__name__}: {error}"
    return [_record(key, times, found.get(key.way), layout, why_none) for key in keys.values()]


def _name(way: str | None, best: bool) -> str:
    return f"{way or STOCK}, {BEST if best else USER}"


def _record(
    key: Key, times: Mapping[str, Times], gradients: Gradients | None, layout: Mapping[str, str], why_none: str
) -> Record:
    turns: dict[str, Turns | None] = {}
    failed = [why_none] if why_none else []
    for best, name in ((True, BEST), (False, USER)):
        mine, stock = times[_name(key.way, best)], times[_name(None, best)]
        failed += [f"{name}: {each.failed}" for each in (mine, stock) if each.failed]
        turns[name] = None
        if not (mine.failed or stock.failed):
            turns[name] = Turns(
                layout["1"] if best else "contiguous",
                layout[STOCK] if best else "contiguous",
                [round(each, 3) for each in mine.milliseconds],
                [round(each, 3) for each in stock.milliseconds],
                round(mine.peak - mine.before, 1),
                round(stock.peak - stock.before, 1),
                mine.told["planning"],
                mine.told["predicted"],
            )
    return Record(*key, setting(key.threads), turns[BEST], turns[USER], gradients, "; ".join(failed))


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="networks, as shell patterns; all by default")
    parser.add_argument("--batches", default="4,16,64")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"some of {', '.join(WAYS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="of the speed's steps")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the turns of a network and a batch, about")
    parser.add_argument("--keep", type=Path, help="the file of records; results/models.jsonl or training.jsonl")
    parser.add_argument("--again", action="store_true", help="measure what is in the file, too")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the tables")
    parser.add_argument("--train", action="store_true", help="thirty steps of training on CIFAR-10 at 64x64")
    parser.add_argument("--seeds", type=int, default=3, help="of --train")
    return parser.parse_args()


def named(only: str) -> list[str]:
    """Return the networks that some of these shell patterns, with commas between them, name; exits where none is."""
    found = [name for name in zoo.ZOO if any(fnmatchcase(name, pattern) for pattern in only.split(","))]
    if not found:
        raise SystemExit(f"--only {only} names no network; there are {', '.join(zoo.ZOO)}")
    return found


def main() -> None:
    """Measure what is not yet measured, and print the tables."""
    asked = arguments()
    ways = asked.ways.split(",")
    if unknown := set(ways) - set(WAYS):
        raise SystemExit(f"--ways {', '.join(sorted(unknown))} is unknown; give some of {', '.join(WAYS)}")
    networks = named(asked.only)
    kinds = {name: zoo.ZOO[name].kind for name in networks}
    if asked.train:
        model_training.run(networks, ways, asked)
        return
    kept = Kept(asked.keep or RESULTS / "models.jsonl", record_of, lambda record: record.key)
    if not asked.table:
        for network in networks:
            for batch in map(int, asked.batches.split(",")):
                keys = {way: Key(network, batch, way, asked.threads, asked.optimizer) for way in ways}
                done = {key for key, record in kept.records.items() if not (record.failed or asked.again)}
                missing = [way for way, key in keys.items() if key not in done]
                if missing:
                    began = time.monotonic()
                    for record in measure(network, batch, missing, asked):
                        kept.add(record)
                        speed = record.failed or (f"{record.best.speedup:.2f}" if record.best else "")
                        print(f"{network}, batch {batch}, {record.way}: {speed}", flush=True)
                    print(f"{network}, batch {batch}: {time.monotonic() - began:.0f} s", flush=True)
    print(tables(kept.records.values(), kinds, ways))


if __name__ == "__main__":
    main()
