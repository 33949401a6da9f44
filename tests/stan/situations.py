"""What a process may do with an accelerated model beside plain training: run by test_processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stantune import Stan, accelerate_
from stantune.kernels.library import loaded
from stantune.stan.handle import StanHandle
from stantune.stan.layers import conv2d

SECONDS = 0.7  # of those situations that last
LONG = 40  # seconds until a child that hangs is ended


def network() -> nn.Sequential:
    """Layers that STAN runs together, and some that it does not."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8, momentum=0), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten()),
    )


def images(seed: int = 1) -> Tensor:
    return torch.randn(6, 3, 14, 14, generator=torch.Generator().manual_seed(seed))


def accelerated(period: int | None = None) -> tuple[nn.Module, StanHandle]:
    model = network()
    return model, accelerate_(model, Stan(rate=0.5, period=period))


def gradients(model: nn.Module, seed: int = 1) -> list[Tensor]:
    """Return output and gradients, which are not kept in the model."""
    output = model(images(seed))
    return [output.detach(), *torch.autograd.grad(output.square().sum(), list(model.parameters()))]


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    """Compare bit for bit."""
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other), (one - other).abs().max()


def train(iterations: int = 40, meanwhile: Callable[[], object] = lambda: None) -> list[Tensor]:
    """Return the weights of a short training."""
    model, handle = accelerated(period=1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    for iteration in range(iterations):
        optimizer.zero_grad()
        model(images(iteration)).square().sum().backward()
        meanwhile()
        optimizer.step()
        handle.step()
    return [parameter.detach() for parameter in model.parameters()]


@contextmanager
def beside(work: Callable[[], object], number: int = 1) -> Iterator[None]:
    """Do something again and again in other threads, and raise what it raises."""
    ended, errors = threading.Event(), []

    def again() -> None:
        torch.set_num_threads(THREADS)
        try:
            while not ended.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=again) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def until(seconds: float = SECONDS) -> Iterator[int]:
    """Count, for some time."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        yield number
        number += 1


def threads_of_one_model() -> None:
    model, _ = accelerated()
    expected = [gradients(model, seed) for seed in range(4)]
    turn = iter(range(10**9))

    def check() -> None:
        seed = next(turn) % 4
        same(gradients(model, seed), expected[seed])

    with beside(check, 3):
        for _ in until():
            check()


def inference_beside_training() -> None:
    """Of the model itself in training mode, whose statistics stand still, and of one that is copied again and again."""
    expected = train()
    model, handle = accelerated(period=1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    stock = network().eval()

    def infer() -> None:
        with torch.no_grad():
            model(images())

    def copied() -> None:
        other = accelerated()[0].eval()
        assert torch.equal(other(images()), stock(images()))

    with beside(infer), beside(copied):
        for iteration in range(40):
            optimizer.zero_grad()
            model(images(iteration)).square().sum().backward()
            optimizer.step()
            handle.step()
    same([parameter.detach() for parameter in model.parameters()], expected)


def steps_beside_passes() -> None:
    """A handle may go on while another thread is in a pass: each pass is of one iteration."""
    model, handle = accelerated(period=1)
    with beside(lambda: gradients(model), 2):
        for _ in until():
            handle.step()


class Features(Dataset):
    """Images that have gone through a model, in whatever process asks for them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __len__(self) -> int:
        return 6

    def __getitem__(self, place: int) -> Tensor:
        return gradients(self.model, place)[0]


def forked_loaders() -> None:
    model, _ = accelerated()
    expected = [gradients(model, seed)[0] for seed in range(6)]
    loader = DataLoader(Features(model), batch_size=None, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        for found, one in zip(loader, expected, strict=True):
            torch.testing.assert_close(found, one)
        same([gradients(model, seed)[0] for seed in range(6)], expected)


def forked() -> None:
    """A child has its own threads: those of the parent, which it has used, are not there."""
    model, _ = accelerated()
    # Operations of PyTorch's own would wait for OpenMP's threads for ever.
    layer, upstream = model[0], torch.ones(6, 12, 14, 14)

    def passes() -> list[Tensor]:
        return list(torch.autograd.grad(layer(images()), list(layer.parameters()), upstream))

    expected = passes()
    context = multiprocessing.get_context("fork")

    def child(again: bool) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONG)
        same(passes(), expected)
        if again:
            fork(False)

    def fork(*again: bool) -> None:
        children = [context.Process(target=child, args=(each,)) for each in again]
        for each in children:
            each.start()
        same(passes(), expected)
        for each in children:
            each.join()
        assert not any(each.exitcode for each in children)

    def forward() -> None:
        with torch.no_grad():
            layer(images())

    for _ in range(3):
        with beside(forward):  # forked in the middle of native code
            fork(True, True)


def alarms() -> None:
    """A handler runs the model itself, in the middle of a pass and while another thread is at it."""
    model, _ = accelerated()
    expected = gradients(model)
    rung = []

    def ring(*_: object) -> None:
        with torch.enable_grad():  # it may ring where there are none
            same(gradients(model), expected)
        rung.append(True)

    signal.signal(signal.SIGALRM, ring)
    with beside(lambda: same(gradients(model), expected)):
        for number in until():
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + number % 9 * 0.0003)
            same(gradients(model), expected)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert rung


def interrupts() -> None:
    """Ctrl-C again and again: what is interrupted ends with it, and the model is as it was."""
    model, _ = accelerated()
    expected = gradients(model)
    interrupted = 0
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for number in until():
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + number % 7 * 0.0007)
            while True:
                gradients(model)
        except KeyboardInterrupt:
            interrupted += 1
            same(gradients(model), expected)
    assert interrupted


SITUATIONS = {
    "one thread": (1, [inference_beside_training, threads_of_one_model, steps_beside_passes, alarms, interrupts]),
    "two threads": (2, [threads_of_one_model, alarms, interrupts, forked_loaders, forked]),
    "two threads without OpenMP": (2, [threads_of_one_model, alarms, interrupts, forked_loaders, forked]),
}

if __name__ == "__main__":
    conv2d.pays = lambda *_: True  # these layers are small
    THREADS, situations = SITUATIONS[sys.argv[1]]
    torch.set_num_threads(THREADS)
    if "without" in sys.argv[1]:
        loaded().stan_use_openmp(None)
    for situation in situations:
        print(situation.__name__, file=sys.stderr, flush=True)
        situation()
