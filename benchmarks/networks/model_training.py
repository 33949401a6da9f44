"""Thirty steps of training on CIFAR-10 at 64x64, stock and under STAN with the same seeds: what becomes of the loss.

`run` is what `python -m benchmarks.networks.models --train` does. A seed is that of the weights, of the order of the
images, of dropout and of STAN's offsets. The loss is that of 128 images that were never trained on, after the last
step, every entry computed and batch norm by the batch.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.kept import RESULTS, Kept
from benchmarks.common.side_by_side import setting, table
from benchmarks.networks import zoo
from benchmarks.networks.model_results import NOTHING
from benchmarks.networks.model_step import WAYS, apart, laid_out, optimizer_of, put_under
from stantune.images.data import Normalise, Normaliser, Split, load
from stantune.kernels.library import plain_pytorch
from stantune.process.runtime import tune_process

STOCK = "stock"
STEPS, BATCH, HELD_OUT = 30, 16, 128


@dataclass(frozen=True)
class Trained:
    """A training.

    Attributes:
        way: "stock" or one of WAYS.
        setting: PyTorch's version and the form of the kernels.
        losses: of the steps, each before it.
        loss: of the held-out images afterwards.
        planned: what "auto" planned with the network's first seed; the others train by the same plan.
        failed: why there is no loss, "" where there is one.
    """

    network: str
    way: str
    seed: int
    setting: str
    losses: list[float]
    loss: float | None
    planned: dict[str, Any] | None = None
    failed: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is of."""
        return self.network, self.way, self.seed


def train(network: str, way: str, seed: int, threads: int, planned: Mapping[str, Any] | None) -> Trained:
    """Train a network of the zoo for thirty steps of 16 images, by AdamW."""
    tune_process(threads)
    split = load("cifar10").train
    normaliser = Normalise(mean="channel", std="channel").fit(split.take(0, min(5000, len(split))))
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
    chosen = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))][: STEPS * BATCH]
    model = zoo.build(network, seed)
    example = laid_out("channels_last", _images(split, normaliser, chosen[:BATCH]), model)
    solver = optimizer_of("adamw", model, fused=True)
    handle = None
    if way != STOCK:
        stan = WAYS[way] if planned is None else WAYS[way].with_plan(planned)
        handle = put_under(model, replace(stan, seed=seed), example)
    losses = []
    with plain_pytorch() if handle is None else nullcontext():
        for rows in chosen.split(BATCH):
            loss = zoo.loss_of(network, model, _images(split, normaliser, rows), split.labels[rows])
            solver.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            solver.step()
            if handle is not None:
                handle.step()
            losses.append(round(loss.item(), 4))
        zoo.without_chance(model)
        with torch.no_grad():
            parts = [
                float(zoo.loss_of(network, model, _images(split, normaliser, rows), split.labels[rows]))
                for rows in held_out.split(HELD_OUT // 2)
            ]
    planned = None if handle is None else handle.stan.planned
    return Trained(network, way, seed, setting(threads), losses, round(statistics.fmean(parts), 4), planned)


def _images(split: Split, normaliser: Normaliser, rows: Tensor) -> Tensor:
    """Return images (B, 3, 64, 64), channels last, of some rows (B,)."""
    images = F.interpolate(normaliser(split.images[rows]), size=(zoo.SIDE, zoo.SIDE), mode="bilinear")
    return images.contiguous(memory_format=torch.channels_last)


def trained_of(plain: Mapping[str, Any]) -> Trained:
    """Return a training from what JSON has of it."""
    return Trained(**plain)


def run(networks: Sequence[str], ways: Sequence[str], asked: argparse.Namespace) -> None:
    """Train what is not yet trained, each training in a process of its own, and print the table."""
    kept = Kept(asked.keep or RESULTS / "training.jsonl", trained_of, lambda each: each.key)
    for network in () if asked.table else networks:
        for way in (STOCK, *ways):
            planned = None
            for seed in range(asked.seeds):
                done = kept.records.get((network, way, seed))
                if done is None or done.failed or asked.again:
                    done = _one(network, way, seed, asked.threads, planned)
                    kept.add(done)
                    print(f"{network}, {way}, seed {seed}: {done.failed or done.loss}", flush=True)
                planned = done.planned if planned is None else planned
    print(loss_table(kept.records.values(), networks, ways))


def _one(network: str, way: str, seed: int, threads: int, planned: Mapping[str, Any] | None) -> Trained:
    try:
        return apart(train, network, way, seed, threads, planned)
    except Exception as error:
        return Trained(network, way, seed, setting(threads), [], None, failed=f"{type(error).__name__}: {error}")


def loss_table(records: Iterable[Trained], networks: Sequence[str], ways: Sequence[str]) -> str:
    """Return the losses as Markdown: stock's mean and range; each way's mean, how far above, and whether within.

    A way is within where its mean is no higher than the highest of stock's seeds.
    """
    losses: dict[tuple[str, str], dict[int, float]] = {}
    failed = []
    for each in records:
        if each.loss is not None:
            losses.setdefault((each.network, each.way), {})[each.seed] = each.loss
        elif each.network in networks:
            failed.append(f"- {each.network}, {each.way}, seed {each.seed}: {each.failed}")
    rows = []
    for network in networks:
        stock = losses.get((network, STOCK), {})
        if not stock:
            continue
        row = [network, f"{statistics.fmean(stock.values()):.3f}"]
        row.append(f"{min(stock.values()):.3f} … {max(stock.values()):.3f}")
        for way in ways:
            mine = losses.get((network, way), {})
            both = sorted(stock.keys() & mine.keys())
            if not both:
                row += [NOTHING, NOTHING]
                continue
            mean = round(statistics.fmean(mine[seed] for seed in both), 4)
            above = mean - statistics.fmean(stock[seed] for seed in both)
            row += [f"{mean:.3f} ({above:+.3f})", "yes" if mean <= max(stock.values()) else "**no**"]
        rows.append(row)
    columns = ["network", "stock", "its seeds"]
    for way in ways:
        columns += [way, "within"]
    return "\n".join([table(columns, rows), *(["", "Failed:", *failed] if failed else [])])
