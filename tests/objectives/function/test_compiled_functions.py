"""torch.compile in a function of one's own, beside STAN: the same entries and results, no programs without end.

By a backend whose programs are PyTorch's own operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import stantune as st
from stantune.stan.config import Stan

pytestmark = pytest.mark.usefixtures("one_thread")
made = 0
phases: list[str] = []


def counted(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
    global made
    made += 1
    return graph


@pytest.fixture(autouse=True)
def _anew():
    torch.compiler.reset()
    phases.clear()
    yield
    torch.compiler.reset()


class Network(nn.Module):
    """With a forward of its own: in an nn.Sequential, a loop, PyTorch compiles nothing where STAN's layers are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
        self.out = nn.Linear(64, 3)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        middle = nn.functional.max_pool2d(self.first(input).relu(), 2)
        return self.out(self.second(middle).flatten(1))  # type: ignore[no-any-return]


def trains(how: str | None) -> Callable[[st.Run], dict[str, Any]]:
    """A training whose model is compiled before it is accelerated or after, as another or in place."""

    def train(run: st.Run) -> dict[str, Any]:
        images, labels = torch.randn(12, 1, 12, 12), torch.randint(0, 3, (12,))
        model: nn.Module = Network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        run.keep(model=model, optimizer=optimizer)
        called = torch.compile(model, backend=counted) if how == "before" else model
        stan = run.accelerate(called)
        if how == "after":
            called = torch.compile(model, backend=counted)
        if how == "in place":
            model.compile(backend=counted)
        for _ in run.steps():
            for rows in torch.randperm(12).split(4):
                if stan is not None:
                    phases.append(stan.handle.phase)
                loss = nn.functional.cross_entropy(called(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.loss(loss)
        with torch.no_grad():
            return {"loss": nn.functional.cross_entropy(model.eval()(images), labels)}

    return train


@pytest.mark.parametrize("stan", [None, Stan(rate=0.5, period=2)], ids=["exact", "stan"])
@pytest.mark.parametrize("how", ["before", "after", "in place"])
def test_it_trains_the_same(trained, how, stan):
    expected = trained(trains(None), 0, 6, stan=stan)
    computed = list(phases)
    trained.checkpoint.unlink()
    phases.clear()
    begun = made
    trained(trains(how), 0, 2, stan=stan)
    first = made
    outcome = trained(trains(how), 2, 6, stan=stan)
    assert outcome.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-5)
    assert phases == computed
    # Evaluation in place is compiled, too.
    assert begun < first
    assert made <= first + 4
    names = torch.load(trained.checkpoint, weights_only=True)["state"]["kept"]["model"]
    assert not any("_orig_mod" in name for name in names)
