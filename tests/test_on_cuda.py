"""What only a CUDA device can show; TRITON_INTERPRET=0 pytest tests/test_on_cuda.py, skipped where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.errors import StanWarning
from stantune.images.data import Split
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.kernels.cuda.one_channel import with_fast_gradients_
from stantune.kernels.cuda.ways import cuda_path
from stantune.kernels.sgd import Sgd
from stantune.outcome import Outcome
from stantune.stan.entries.entries import PATTERNS, EntryMatrix, Grid
from stantune.stan.graphs import GraphedStep
from stantune.training.checkpoint import load_any
from stantune.training.device_steps import DeviceSteps, InLane
from stantune.training.together.turns import drained
from stantune.training.train import turns
from stantune.training.trial import Trial

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(autouse=True)
def _one_way(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No times decide what is compared."""
    monkeypatch.setenv("STANTUNE_CUDA", "cudnn")
    cuda_path.cache_clear()
    yield
    cuda_path.cache_clear()


SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def random_splits(problem: Problem) -> Splits:
    """Return random images for a built-in problem."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (400, *SHAPES[str(problem.data)]), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (400,), generator=generator), torch.arange(400))
    return Splits(split, split, split, problem.normalise.fit(split), 10)


def trained(name: str, recordable: bool, stan: Stan | None, iterations: int) -> Trial:
    """Train a built-in problem on random images."""
    problem = replace(find(name), recordable=recordable, batch_size=20)
    trial = Trial(problem, {}, random_splits(problem), seed=0, stan=stan, device="cuda")
    trial.train(iterations, lambda: False, lambda iteration: None)
    return trial


def task(
    name: str, seed: int, start: int, stop: int, folder: Path, stan: Stan | None = None
) -> Generator[None, None, Outcome]:
    """Return the turns of a training of a built-in problem on random images, with a checkpoint in the folder."""
    problem, setting = replace(find(name), batch_size=20), SETTINGS.get(name, {})
    splits = random_splits(problem)
    return turns(
        problem,
        setting,
        folder / f"{name}-{seed}.pt",
        start,
        stop,
        pace=16,
        splits=splits,
        seed=seed,
        device="cuda",
        stan=stan,
    )


def weights(name: str, seed: int, folder: Path) -> dict[str, Tensor]:
    """Return what a training has kept."""
    kept: dict[str, Tensor] = load_any(folder / f"{name}-{seed}.pt")["model"]
    return kept


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[each], other[each]) for each in one)


# Dropout draws from each training's own random state.
SETTINGS: dict[str, dict[str, Any]] = {"mlp": {"hidden": 300, "dropout": 0.5}}


@pytest.mark.parametrize("name", ["lenet", "cq", "alexbn", "mlp"])
def test_trainings_in_turns_are_those_alone_to_the_last_bit(name: str, tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()
    lengths = {0: 100, 1: 37, 2: 150, 3: 64, 4: 100, 5: 7}
    came = {seed: drained(task(name, seed, 0, stop, alone)) for seed, stop in lengths.items()}
    row = {seed: task(name, seed, 0, stop, together) for seed, stop in lengths.items()}
    ends: dict[int, Outcome] = {}
    while row:
        for seed, course in list(row.items()):
            try:
                next(course)
            except StopIteration as end:
                ends[seed] = end.value
                del row[seed]
    for seed in lengths:
        assert ends[seed].losses == came[seed].losses
        assert ends[seed].metrics == came[seed].metrics
        assert same(weights(name, seed, together), weights(name, seed, alone)), seed


@pytest.mark.parametrize("name", ["lenet", "cq", "alexbn", "mlp"])
def test_a_training_comes_to_the_same_in_pieces_and_again(name: str, tmp_path: Path) -> None:
    folders = [tmp_path / each for each in ("whole", "again", "pieces")]
    for folder in folders:
        folder.mkdir()
    whole, again, pieces = folders
    drained(task(name, 3, 0, 90, whole))
    drained(task(name, 3, 0, 90, again))
    for start, stop in ((0, 11), (11, 50), (50, 90)):
        drained(task(name, 3, start, stop, pieces))
    assert same(weights(name, 3, whole), weights(name, 3, again))
    assert same(weights(name, 3, whole), weights(name, 3, pieces))


@pytest.mark.parametrize("name", ["lenet", "cq", "mlp"])
def test_replayed_steps_are_those_as_written_to_the_last_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed, written = tmp_path / "replayed", tmp_path / "written"
    for folder in (replayed, written):
        folder.mkdir()
    drained(task(name, 1, 0, 60, replayed))
    monkeypatch.setattr(InLane, "record", lambda self, step: step)
    drained(task(name, 1, 0, 60, written))
    assert same(weights(name, 1, replayed), weights(name, 1, written))


def test_where_nothing_is_spared_it_is_exact_training(tmp_path: Path) -> None:
    exact, native = tmp_path / "exact", tmp_path / "native"
    for folder, stan in ((exact, None), (native, Stan(rate=1))):
        folder.mkdir()
        drained(task("cq", 1, 0, 40, folder, stan))
    assert same(weights("cq", 1, exact), weights("cq", 1, native))


def test_lanes_and_their_memory_are_used_again(tmp_path: Path) -> None:
    def memory_after(seeds: range) -> int:
        for seed in seeds:
            drained(task("cq", seed, 0, 40, tmp_path))
        torch.cuda.synchronize()
        return torch.cuda.memory_reserved()

    assert memory_after(range(4)) == memory_after(range(4, 24))


def distance(one: Trial, other: Trial) -> float:
    """Return the largest relative distance between the same weights of two trainings."""
    return max(
        float(((mine - its).norm() / its.norm()).detach())
        for mine, its in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )


CASES = {
    "cq": ("cq", None, 1),
    "lenet": ("lenet", None, 1),
    "cq, half of conv2": ("cq", Stan(rate=0.5, layers=("conv2",), seed=3), 3),
    "alexlrn, a quarter": ("alexlrn", Stan(rate=0.25, period=None, offset_sets=4), 4),
    "alexbn, half of conv2": ("alexbn", Stan(rate=0.5, period=2, layers=("conv2",)), 3),
    "mlp": ("mlp", None, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_replayed_in_trainings(case: str) -> None:
    name, stan, graphs = CASES[case]
    replayed = trained(name, True, stan, 60)
    steps = replayed._by_itself or replayed._learn
    assert isinstance(steps, GraphedStep | DeviceSteps)
    assert isinstance(steps, DeviceSteps) == (stan is None)
    assert len(steps._recorded) == graphs


@pytest.mark.parametrize("case", CASES)
def test_replayed_trainings_are_those_as_written(case: str) -> None:
    name, stan, _ = CASES[case]
    # Sums by atomics are in another order each time, which the iterations make larger.
    written, again = trained(name, False, stan, 12), trained(name, False, stan, 12)
    assert distance(trained(name, True, stan, 12), written) <= 0.005 + 5 * distance(again, written)


@pytest.mark.parametrize("stan", [None, Stan(rate=0.5, layers=("conv2",), seed=3)])
def test_a_training_whose_rate_is_that_of_before_moves_on_from_its_state(stan: Stan | None) -> None:
    half, other = trained("cq", True, stan, 8), trained("cq", True, stan, 4)
    other.restore(half.state())
    assert distance(other, half) == 0
    other.train(16, lambda: False, lambda iteration: None)
    # It is 1.5 on a CPU.
    assert distance(other, half) > 0.1


def test_a_replayed_training_goes_on_from_its_state() -> None:
    whole, again, half = trained("cq", True, None, 12), trained("cq", True, None, 12), trained("cq", True, None, 6)
    # A trial that has recorded graphs of other tensors.
    other = trained("cq", True, None, 4)
    other.restore(half.state())
    other.train(12, lambda: False, lambda iteration: None)
    assert distance(other, whole) <= 0.005 + 5 * distance(again, whole)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_under_autocast_a_filled_output_has_autocasts_type(pattern: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)).cuda()
    accelerate_(model, Stan(rate=0.5, period=None))
    model[0].grid = Grid(PATTERNS[pattern], 0, 0)
    images = torch.randn(4, 3, 8, 8, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        output = model(images)
    assert output.dtype is torch.bfloat16
    output.float().sum().backward()
    assert model[0].weight.grad.dtype is torch.float32


class Deep(nn.Module):
    """Eight convolutions; `waits` reads a number back from the device."""

    def __init__(self, waits: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1) for _ in range(8)])
        self.waits = waits

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        if self.waits and float(x.detach().sum()) < 0:
            x = x + 1
        return x.mean((2, 3))


def losses(model: Deep, iterations: int, graphs: bool) -> tuple[list[float], GraphedStep]:
    """Train on random images under STAN."""
    model = model.cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    handle = accelerate_(model, Stan(rate=0.25, period=None, offset_sets=8))

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    graphed = GraphedStep(model, step)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(iterations):
        images = torch.randn(8, 16, 12, 12, generator=generator).cuda()
        labels = torch.randint(16, (8,), generator=generator).cuda()
        found.append((graphed if graphs else step)(images, labels).item())
        handle.step()
    return found, graphed


def test_a_deep_network_is_replayed_where_its_offsets_come_in_few_sets() -> None:
    torch.manual_seed(0)
    first = Deep()
    second = Deep()
    second.load_state_dict(first.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (mine, graphed), (its, _) = losses(first, 100, True), losses(second, 100, False)
    assert len(graphed._recorded) == 8
    assert mine == pytest.approx(its, rel=0.01)


def test_a_step_that_waits_for_the_device_runs_as_it_is_written() -> None:
    with pytest.warns(StanWarning, match="cannot be recorded as a CUDA graph"):
        mine, graphed = losses(Deep(waits=True), 60, True)
    assert not graphed._recorded
    assert all(loss == loss for loss in mine)
    # The device is none the worse for it, nor its random numbers.
    assert torch.rand(3, device="cuda").max() < 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", StanWarning)
        _, graphed = losses(Deep(), 60, True)
    assert graphed._recorded


def test_rates_are_sent_without_waiting_for_the_device() -> None:
    optimizer = Sgd([nn.Parameter(torch.zeros(3, device="cuda"))], lr=0.5, momentum=0.75)
    optimizer.follow()
    optimizer.param_groups[0]["lr"] = 0.25
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.send()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert optimizer.sent is not None
    assert optimizer.sent.tolist() == [[0.25, 0.75]]


def test_entries_that_are_no_grid_are_trained_where_steps_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways are measured, outside of a graph."""
    monkeypatch.delenv("STANTUNE_CUDA")
    cuda_path.cache_clear()
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)).cuda()
    accelerate_(model, Stan(rate=0.5, pretrain=1000))
    layer: Any = model[0]
    layer.grid = EntryMatrix(torch.rand(4, 8, 8, device="cuda") < 0.5)
    graphed = GraphedStep(model, lambda images: model(images).sum())
    for _ in range(3):
        assert torch.isfinite(graphed(torch.randn(4, 16, 8, 8, device="cuda")))
    assert not graphed._recorded


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 1, 0), (3, 2, 1)])
def test_gradients_of_one_channel_are_pytorchs(kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    mine = nn.Conv2d(1, 20, kernel, stride, padding).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(32, 1, 28, 28, device="cuda")
    exact = F.conv2d(images.double(), weight := mine.weight.detach().double().requires_grad_(), None, stride, padding)
    gradient = torch.randn_like(exact)
    exact.backward(gradient)
    with_fast_gradients_(mine)
    mine(images).backward(gradient.float())
    found, right = mine.weight.grad.double(), weight.grad
    assert float((found - right).norm() / right.norm()) < 1e-5
