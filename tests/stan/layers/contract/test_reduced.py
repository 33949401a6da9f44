"""What is meant to be reduced is: as many entries as asked for are computed, and the others are not PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.stan.config import Memo

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLES = 3

# Their outputs' sides are large enough for each pattern, and its periods divide them.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 8, 8)),
    "no bias": (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), (4, 8, 8)),
    "double": (lambda: nn.Conv2d(4, 6, 3, padding=1).double(), (4, 8, 8)),
    "channels last": (lambda: nn.Conv2d(4, 6, 3, padding=1).to(memory_format=torch.channels_last), (4, 8, 8)),
    "one by one": (lambda: nn.Conv2d(4, 6, 1), (4, 8, 8)),
    "same": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same"), (4, 8, 8)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 16, 16)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 8, 8)),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=2), (4, 8, 8)),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 8, 8)),
    "1-d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (4, 16)),
    "1-d strided, dilated, grouped": (lambda: nn.Conv1d(4, 6, 3, 2, 2, 2, groups=2), (4, 32)),
    "1-d replicate": (lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="replicate"), (4, 16)),
}
FILLS: dict[str, dict[str, Any]] = {
    "neighbour": {},
    "memo": {"memo": Memo(samples=SAMPLES, epoch=1, dtype="fp32")},
    "memo of what changed": {"memo": Memo(samples=SAMPLES, epoch=1, dtype="fp32", positions="changed")},
}


def share_of(output: Tensor, exact: Tensor) -> float:
    """Return the share of the entries at which an output is the exact one, in all channels."""
    return float(torch.isclose(output, exact, rtol=1e-4, atol=1e-5).all(1).double().mean())


def moved(layer: nn.Module) -> None:
    """Give a layer other weights, so that what it remembers is not what it computes."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))


@pytest.mark.parametrize("rate", [0.5, 0.25])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_the_share_that_is_asked_for(name: str, fill: str, rate: float) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build()
    # The first layer of a model is told of every pass, so that the one in question is another.
    before = (nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d)(shape[0], shape[0], 1).to(layer.weight.dtype)
    before.register_forward_hook(lambda _, inputs, output: inputs[0])  # not what was filled, whose entries are alike
    model = nn.Sequential(before, layer)
    images = torch.randn(SAMPLES, *shape, dtype=layer.weight.dtype)
    stan = Stan(rate, period=None, layers=("0", "1"), **FILLS[fill])
    handle = accelerate_(model, stan, images)
    seen: list[tuple[Tensor, Tensor]] = []
    layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    for iteration in range(4):
        moved(layer)
        handle.visit(torch.arange(SAMPLES))
        model.train()(images)
        # Under the memo fill the first visits are whole: one, and of what changed two.
        if iteration >= 2:
            input, output = seen[-1]
            assert share_of(output, layer.eval()(input)) == rate
        handle.step()
