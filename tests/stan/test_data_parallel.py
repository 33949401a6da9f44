"""Two processes with DistributedDataParallel get what one process gets on the whole batches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stantune import Stan, accelerate_


@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_as_one_does(tmp_path):
    meeting, result = tmp_path / "meeting", tmp_path / "weights.pt"
    script = Path(__file__).with_name("data_parallel.py")
    both = [subprocess.Popen([sys.executable, script, str(rank), meeting, result]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    handle = accelerate_(model, Stan(rate=0.5, period=2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = torch.randn(6, 8, 3, 8, 8), torch.randint(5, (6, 8))
    for iteration in range(6):
        loss = nn.functional.cross_entropy(model(images[iteration]), labels[iteration])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        handle.step()
    for name, value in torch.load(result, weights_only=True).items():
        torch.testing.assert_close(model.state_dict()[name], value)
