"""Accelerated models in several threads, in forked children and under signals: right numbers, no crash, no hang."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stantune import Stan, accelerate_
from stantune.kernels.library import kernels

pytestmark = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork, and has no alarms")
@pytest.mark.parametrize("threads", ["one thread", "two threads", "two threads without OpenMP"])
def test_a_model_computes_in_all_situations_what_it_does_alone(threads: str) -> None:
    script = Path(__file__).with_name("situations.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-X", "faulthandler", str(script), threads]
    ended = subprocess.run(command, env=environment, timeout=100, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("where", ["the same thread", "another thread"])
def test_passes_without_gradients_do_not_make_a_checkpoint_exact(where: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3))
    accelerate_(model, Stan(rate=0.5, period=None))
    images = torch.randn(4, 3, 10, 10)
    model(images).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    def infer() -> None:
        with torch.no_grad():
            model(images)

    output = checkpoint(model, images, use_reentrant=False)
    if where == "another thread":
        thread = threading.Thread(target=infer)
        thread.start()
        thread.join()
    else:
        infer()
    output.square().sum().backward()
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], expected)
