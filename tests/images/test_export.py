"""Exported networks say what they said: the built-in ones with their normalisers, for any number of samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stantune.images.predictor import Inputs, Predictor
from stantune.images.problem.built_in import BUILT_IN

BATCH = torch.export.Dim("batch")

pytestmark = pytest.mark.usefixtures("one_thread")


def made(name: str) -> tuple[Predictor, Tensor]:
    """Return a built-in network, new, and seven images (7, C, H, W) for it."""
    problem, generator = BUILT_IN[name], torch.Generator().manual_seed(0)
    shape = (28, 28, 1) if problem.data == "mnist" else (32, 32, 3)
    mean = torch.rand(shape, generator=generator) * 255 if problem.normalise.mean == "image" else None
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = problem.build({})
    net = Predictor(network, Inputs(shape, "uint8", mean, None, problem.normalise.scale, 10), {}, {})
    return net, torch.randint(256, (7, *net.input_shape), dtype=torch.uint8, generator=generator)


def same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two outputs (B, classes) are the same up to rounding."""
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-5 * other.abs().max())


@pytest.mark.parametrize("name", BUILT_IN)
def test_by_torch_export(name: str) -> None:
    net, images = made(name)
    program = torch.export.export(net, (images[:2],), dynamic_shapes=({0: BATCH},)).module()
    with torch.inference_mode():
        for count in (1, 2, 7):
            assert same(program(images[:count]), net(images[:count]))


@pytest.mark.parametrize(
    "name", [name if name == "alexlrn" else pytest.param(name, marks=pytest.mark.slow) for name in BUILT_IN]
)
def test_by_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    net, images = made(name)
    file = tmp_path / "net.onnx"
    torch.onnx.export(
        net, (images[:2],), file, input_names=["images"], dynamic_shapes=({0: BATCH},), dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        for count in (1, 2, 7):
            (scores,) = session.run(None, {"images": images[:count].numpy()})
            assert same(torch.from_numpy(scores), net(images[:count]))
