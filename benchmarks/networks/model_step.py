"""A training step of a network of the zoo, by stock PyTorch or under STAN, in the best setting or as users have it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.common.side_by_side import Mixture, context_with
from benchmarks.networks import zoo
from stantune import Stan, accelerate_
from stantune.kernels.library import plain_pytorch
from stantune.stan.handle import StanHandle
from stantune.stan.planning.timing import clock_for
from stantune.stan.schedule import Phase

# What is compared with stock PyTorch. A further way is one more line here.
WAYS = {"1": Stan(rate=1), "0.5": Stan(rate=0.5), "auto": Stan(rate="auto")}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
Optimizer = Literal["sgd", "adamw"]
T = TypeVar("T")


def apart(work: Callable[..., T], *given: object) -> T:
    """Do some work in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=context_with(zoo.PACKAGES)) as pool:
        return pool.submit(work, *given).result()


def laid_out(layout: str, images: Tensor, model: nn.Module) -> Tensor:
    """Give a model's parameters this layout; return the images, (B, 3, H, W), in it."""
    model.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    return images.contiguous(memory_format=LAYOUTS[layout])


def optimizer_of(kind: Optimizer, model: nn.Module, fused: bool | None, lr: float = 1e-3) -> torch.optim.Optimizer:
    """Return an optimizer, fused or as it comes."""
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr, momentum=0.9, fused=fused)
    return torch.optim.AdamW(model.parameters(), lr, fused=fused)


def put_under(model: nn.Module, stan: Stan, images: Tensor) -> StanHandle:
    """Put STAN into a model; images are an example, (B, 3, H, W)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is changed is seen in the table
        return accelerate_(model, stan, example=images)


def cycle(handle: StanHandle) -> Iterator[tuple[float, Phase, int, int]]:
    """Return each phase that iterations pass through in turn.

    It is said by its share of them, itself, its first iteration, and from how many on it comes again.
    """
    period = handle.stan.period
    length = 1 if handle.phase is Phase.EXACT or period is None else period + 1
    phases = []
    for iteration in range(length):
        handle.seek(iteration)
        phases.append(handle.phase)
    handle.seek(0)
    for phase in dict.fromkeys(phases):
        yield phases.count(phase) / length, phase, phases.index(phase), length


def sided(
    network: str, batch: int, way: str | None, layout: str, optimizer: Optimizer, best: bool, stan: Stan | None = None
) -> Mixture:
    """Return the work of a side: training steps, reduced and other ones apart, in the shares that they have.

    Args:
        network: its name in the zoo.
        batch: of how many images.
        way: None for stock PyTorch.
        layout: of images and parameters.
        optimizer: its kind.
        best: whether the optimizer is fused, or as it comes. (The allocator is its Side's.)
        stan: what the way is; WAYS has it otherwise.
    """
    model = zoo.build(network)
    images, labels = zoo.batch_of(batch)
    images = laid_out(layout, images, model)
    solver = optimizer_of(optimizer, model, True if best else None)

    def step() -> None:
        loss = zoo.loss_of(network, model, images, labels)
        solver.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        solver.step()

    if way is None:

        def plain() -> None:
            with plain_pytorch():
                step()

        return Mixture([(1.0, plain)])
    clock = clock_for(torch.device("cpu"))
    began = clock()
    handle = put_under(model, WAYS[way] if stan is None else stan, images)
    planning = clock() - began
    told = {
        "planning": planning if handle.plan is not None else None,
        "predicted": None if handle.plan is None else handle.plan.predicted_speedup,
        "planned": handle.stan.planned,
    }
    return Mixture([(share, _at(handle, first, every, step)) for share, _, first, every in cycle(handle)], told)


def _at(handle: StanHandle, first: int, every: int, step: Callable[[], None]) -> Callable[[], None]:
    """Return the step of iterations first, first + every, …"""
    place = first

    def work() -> None:
        nonlocal place
        handle.seek(place)
        step()
        place += every

    return work
