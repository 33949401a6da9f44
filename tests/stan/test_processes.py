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

from stantune import Stan, accelerate_, restore_
from stantune.kernels.library import kernels
from stantune.stan.layers.conv2d import StanConv2d

pytestmark = pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork, and has no alarms")
@pytest.mark.parametrize(
    "threads", ["one thread", "two threads", pytest.param("two threads without OpenMP", marks=pytest.mark.slow)]
)
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


@pytest.mark.usefixtures("one_thread")
def test_a_step_is_not_disturbed_by_a_pass_that_begins_in_the_midst_of_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    handle = accelerate_(model, Stan(rate=0.5, period=None))
    layer: StanConv2d = model[0]

    class Disturbing(str):
        def __ne__(self, other: object) -> bool:
            layer.last[len(layer.last)] = "reduced"
            return False

    layer.last = {number: Disturbing() for number in range(3)}
    handle.step()
    assert layer.last == {}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::stantune.errors.StanWarning")
@pytest.mark.parametrize("first", ["plain", "checkpointed"])
def test_a_reentrant_checkpoint_is_exact_beside_another_pass(first: str) -> None:
    """Its first pass has no gradients and computes all, and so does what it computes again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3))
    plain, again = torch.randn(4, 3, 10, 10), torch.randn(4, 3, 10, 10, requires_grad=True)
    accelerate_(model, Stan(rate=0.5, period=None))
    passes = {
        "plain": lambda: model(plain),
        "checkpointed": lambda: checkpoint(model, again, use_reentrant=True),
    }
    order = sorted(passes, key=lambda name: name != first)
    outputs = {name: passes[name]() for name in order}
    outputs["checkpointed"].square().sum().backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    restore_(model)
    model.zero_grad()
    model(again.detach()).square().sum().backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in model.parameters()])
