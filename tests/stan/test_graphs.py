"""Which training steps are replayed, and on what: tested without a device, by a recorder that repeats the step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.errors import StanWarning
from stantune.stan import graphs
from stantune.stan.config import Memo
from stantune.stan.entries.entries import EntryMatrix
from stantune.stan.graphs import GraphedStep, Step

pytestmark = pytest.mark.usefixtures("one_thread", "no_kernels")


class Repeats:
    """Records a step as a graph does: what Python decides is fixed then, and it reads its own inputs' memory."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, graphs.LAYERS)]
        self.done: list[str] = []

    def run(self, step: Step, inputs: tuple[Tensor, ...]) -> Tensor:
        self.done.append("run")
        return step(*inputs)

    def record(self, step: Step, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        grids = [layer.grid for layer in self.layers]
        self.done.append("record")

        def replay() -> Tensor:
            now = [layer.grid for layer in self.layers]
            for layer, grid in zip(self.layers, grids, strict=True):
                layer.grid = grid
            result = step(*inputs)
            for layer, grid in zip(self.layers, now, strict=True):
                layer.grid = grid
            self.done.append("replay")
            return result

        return replay


class Training:
    """A small network, the step that trains it, and random batches."""

    def __init__(self, stan: Stan, constants: Callable[[], tuple] = tuple, example: Tensor | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.Flatten(2))
        self.handle = accelerate_(self.model, stan, example)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.recorder = Repeats(self.model)
        self.graphed = GraphedStep(self.model, self.step, constants, self.recorder)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images).mean(2), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def train(self, iterations: int, step: Callable[..., Tensor], batch: int = 4) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        losses = []
        for _ in range(iterations):
            images = torch.randn(batch, 1, 6, 6, generator=generator)
            losses.append(step(images, torch.randint(3, (batch,), generator=generator)).detach())
            self.handle.step()
        return losses


SCHEDULE = Stan(rate=0.5, period=3, pretrain=2)
EXACT = Stan(rate=0.5, pretrain=1000)


def test_replayed_steps_train_as_written_ones() -> None:
    graphed, plain = Training(SCHEDULE), Training(SCHEDULE)
    mine, its = graphed.train(40, graphed.graphed), plain.train(40, plain.step)
    assert torch.equal(torch.stack(mine), torch.stack(its))
    for one, other in zip(graphed.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not any(loss.requires_grad for loss in mine)
    # Two layers with two offsets each, and the exact step.
    done = graphed.recorder.done
    assert done.count("record") == done.count("run") == 5
    assert done.count("replay") == 35
    assert done[:3] == ["run", "record", "replay"]


def test_what_is_not_a_grid_is_never_recorded() -> None:
    measuring = Training(Stan(rate=0.5, period=1, tolerance=10.0))
    measuring.train(12, measuring.graphed)
    # Every other iteration is a refresh.
    assert measuring.recorder.done.count("run") >= 6
    assert len(measuring.handle.history) == 2 * 6

    matrix = Training(EXACT)
    for layer in matrix.recorder.layers:
        layer.grid = EntryMatrix(torch.ones(4, 6, 6, dtype=torch.bool))
    matrix.recorder.layers[1].grid = None
    for _ in range(3):
        matrix.graphed(torch.randn(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64))
    assert matrix.recorder.done == ["run"] * 3


def test_memory_is_never_recorded() -> None:
    images = torch.randn(4, 1, 6, 6)
    training = Training(Stan(rate=0.5, period=2, memo=Memo(samples=4, epoch=1)), example=images)
    for _ in range(6):
        training.handle.visit(torch.arange(4), images)
        training.graphed(images, torch.zeros(4, dtype=torch.int64))
        training.handle.step()
    assert training.recorder.done == ["run"] * 6


def test_another_learning_rate_or_batch_or_mode_is_another_graph() -> None:
    training = Training(EXACT, lambda: (training.optimizer.param_groups[0]["lr"],))
    done = training.recorder.done
    training.train(3, training.graphed)
    assert done == ["run", "record", "replay", "replay"]
    training.optimizer.param_groups[0]["lr"] = 0.01
    training.train(1, training.graphed)
    assert done.pop() == "run"
    training.train(1, training.graphed, batch=3)
    assert done.pop() == "run"
    training.model.eval()
    training.train(1, training.graphed)
    assert done.pop() == "run"
    training.model.train()
    training.optimizer.param_groups[0]["lr"] = 0.1
    training.train(1, training.graphed)
    assert done.pop() == "replay"


@pytest.mark.parametrize(
    "other", [torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(3, 2).t()], ids=["dtype", "order in memory"]
)
def test_an_input_of_another_kind_is_another_graph(other: Tensor) -> None:
    model = nn.Module()
    recorder = Repeats(model)
    graphed = GraphedStep(model, lambda x: x.sum(), recorder=recorder)
    with torch.autocast("cpu", torch.bfloat16):  # under which products are of one type for both
        for given in [torch.ones(2, 3)] * 2:
            graphed(given)
        assert recorder.done == ["run", "record", "replay"]
        graphed(other)
    assert recorder.done[-1] == "run"


def test_no_more_is_recorded_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    training = Training(SCHEDULE)
    training.train(30, training.graphed)
    done = training.recorder.done
    assert done.count("record") == 2
    assert done.count("run") + done.count("replay") == 30


def test_few_sets_of_offsets_are_few_graphs() -> None:
    training = Training(Stan(rate=0.25, period=None, offset_sets=4))
    training.train(40, training.graphed)
    done = training.recorder.done
    # Two layers that drew by themselves would have sixteen.
    assert done.count("record") == done.count("run") == 4
    assert done.count("replay") == 36


def test_a_step_that_cannot_be_recorded_runs_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    graphed, plain = Training(SCHEDULE), Training(SCHEDULE)
    tried = []

    def fail(step: Step, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        tried.append(step)
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(graphed.recorder, "record", fail)
    with pytest.warns(StanWarning, match=r"cannot be recorded .* as it is written: operation .* is capturing$"):
        mine = graphed.train(20, graphed.graphed)
    assert torch.equal(torch.stack(mine), torch.stack(plain.train(20, plain.step)))
    assert len(tried) == 1
    assert graphed.recorder.done == ["run"] * 20


def test_numbers_that_change_in_every_step_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "SEEN", 3)
    numbers = iter(range(100))
    training = Training(EXACT, lambda: (next(numbers),))
    training.train(20, training.graphed)
    assert training.recorder.done == ["run"] * 20
    assert len(training.graphed._seen) <= 3


def test_a_result_is_not_changed_by_the_next_step() -> None:
    training = Training(EXACT)
    static = torch.zeros(())

    def step(images: Tensor, labels: Tensor) -> Tensor:
        return static.copy_(images.sum())

    graphed = GraphedStep(training.model, step, recorder=training.recorder)
    ones, none = torch.ones(1, 1, 2, 2), torch.zeros(1)
    found = [graphed(number * ones, none) for number in range(4)]
    assert [float(each) for each in found[1:]] == [4.0, 8.0, 12.0]
