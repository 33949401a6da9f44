"""What the callbacks take from a batch where they are not told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stantune import Stan
from stantune.errors import UsageError
from stantune.integrations.start import accelerate_at, first_of, visit
from stantune.stan.config import Memo

IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize("batch", [(IMAGES, 0), [IMAGES, 0], (IMAGES,)])
def test_inputs_are_what_a_batch_begins_with(batch):
    assert first_of(batch) is IMAGES


@pytest.mark.parametrize(
    "batch", [{"image": IMAGES}, [], ({"image": IMAGES}, 0), IMAGES], ids=["dict", "empty", "dict first", "tensor"]
)
def test_other_batches_need_inputs(batch):
    with pytest.raises(UsageError, match="does not begin with a tensor; give the callback inputs=, a function"):
        first_of(batch)


def test_a_module_of_several_inputs_is_planned_on_and_remembered_by_what_it_is_called_with():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.left(left) + self.right(right)

    batch = {"left": IMAGES, "right": IMAGES, "ids": torch.arange(2)}
    inputs = lambda batch: {"left": batch["left"], "right": batch["right"]}  # noqa: E731
    stan = Stan(rate=0.5, memo=Memo(samples=2, epoch=1))
    handle = accelerate_at(Pair(), stan, batch, inputs, {}, 0)
    visit(handle, batch, lambda batch: batch["ids"], inputs)
    assert [bool(line.patterns) for line in handle.report] == [True, True]
    planned = accelerate_at(Pair(), Stan(rate="auto"), batch, inputs, {}, 0).plan
    assert planned is not None
    assert [layer.name for layer in planned.times.layers] == ["left", "right"]


def test_of_several_processes_the_first_plans_for_all(tmp_path):
    script = Path(__file__).with_name("planned_together.py")
    both = [subprocess.Popen([sys.executable, script, str(rank), tmp_path / "meeting"]) for rank in (0, 1)]
    try:
        assert [process.wait(timeout=120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
            process.wait()
