"""STAN layers on a device that is Triton's interpreter: the way that was chosen is gone, and trains the same."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stantune import Stan, accelerate_
from stantune.kernels.cuda import ways as cuda
from stantune.kernels.cuda.rows import Window
from stantune.kernels.cuda.ways import CudaPath, choices
from stantune.stan.entries import filled
from stantune.stan.entries.entries import PATTERNS, Entries, EntryMatrix, Grid
from stantune.stan.entries.fill import neighbour_of_exact
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("one_thread", "no_kernels")


class Device:
    """Counts how often each way is gone; `faster` is the one that its clock favours."""

    def __init__(self, faster: str) -> None:
        self.gone: list[str] = []
        self.faster = faster
        self.now = 0.0

    def counts(self, way: str) -> object:
        own = getattr(filled, f"by_{way}")

        def by_way(convolution: filled.Convolution, entries: Entries) -> Tensor:
            self.gone.append(way)
            self.now += 1.0 if way.startswith(self.faster) else 2.0
            return own(convolution, entries)

        return by_way


@pytest.fixture(params=["triton", "pytorch"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The CPU passes for a CUDA device."""
    here = Device(request.param)
    monkeypatch.setattr(filled, "_on_cuda", lambda input: True)
    monkeypatch.setattr(filled, "cuda_path", lambda: CudaPath(cuda.WAYS, "a test"))
    monkeypatch.setattr(cuda, "cuda_path", lambda: CudaPath(cuda.WAYS, "a test"))
    monkeypatch.setattr(cuda, "_choices", {})
    monkeypatch.setattr(cuda, "_finished", lambda: here.now)
    monkeypatch.setattr(cuda, "ROUNDS", 1)
    monkeypatch.setattr(cuda, "CALLS", 1)
    for way in ("triton", "pytorch"):
        monkeypatch.setattr(filled, f"by_{way}", here.counts(way))
    return here


MATRIX = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.4
MATRIX[:, 2, 3] = True


@pytest.mark.parametrize("entries", [Grid(PATTERNS["blocks"], 1, 0), EntryMatrix(MATRIX)], ids=["grid", "matrix"])
def test_a_layer_goes_the_faster_way_and_leaves_nothing_else_behind(device: Device, entries: Entries) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, padding=1, stride=(1, 2))
    input = torch.randn(2, 3, 6, 11, requires_grad=True)
    upstream = torch.randn(2, 5, 6, 6)
    leaves = [input, *layer.parameters()]
    oracle = neighbour_of_exact(layer(input), entries)
    expected = torch.autograd.grad(oracle, leaves, upstream)
    state = torch.get_rng_state()
    layer.__class__ = StanConv2d
    layer.grid = entries
    output = layer(input)
    assert all(each.grad is None for each in leaves)
    assert torch.equal(torch.get_rng_state(), state)
    gradients = torch.autograd.grad(output, leaves, upstream)
    for mine, its in zip((output, *gradients), (oracle, *expected), strict=True):
        torch.testing.assert_close(mine, its)
    assert device.gone[-1] == device.faster
    measured = len(device.gone)
    layer(input)
    assert device.gone[measured:] == [device.faster]


def test_offsets_share_what_was_measured_and_shapes_do_not(device: Device) -> None:
    layer = nn.Conv2d(1, 1, 2)
    layer.__class__ = StanConv2d
    for top in (0, 1):
        layer.grid = Grid(PATTERNS["rows"], top, 0)
        layer(torch.randn(1, 1, 7, 7))
    assert len(choices()) == 1
    layer(torch.randn(2, 1, 7, 7))
    layer.grid = Grid(PATTERNS["columns"], 0, 0)
    layer(torch.randn(2, 1, 7, 7))
    assert [choice.what for choice in choices()] == [
        "2x2 convolution of (1, 1, 7, 7) to 1 channels, float32, one of 2x1 entries",
        "2x2 convolution of (2, 1, 7, 7) to 1 channels, float32, one of 2x1 entries",
        "2x2 convolution of (2, 1, 7, 7) to 1 channels, float32, one of 1x2 entries",
    ]


def test_one_dimension_is_a_row(device: Device) -> None:
    layer = nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular")
    input = torch.randn(2, 2, 13)
    oracle = neighbour_of_exact(layer(input).unsqueeze(2), Grid(PATTERNS["quarter"], 0, 2)).squeeze(2)
    layer.__class__ = StanConv1d
    layer.grid = Grid(PATTERNS["quarter"], 0, 2)
    torch.testing.assert_close(layer(input), oracle)
    assert device.gone[-1] == device.faster


@pytest.mark.parametrize("setting", [{"groups": 2}, {"dtype": torch.float64}], ids=str)
def test_what_triton_has_no_form_for_is_pytorchs(device: Device, setting: dict) -> None:
    layer = nn.Conv2d(2, 4, 3, **setting)
    layer.__class__ = StanConv2d
    layer.grid = Grid(PATTERNS["blocks"], 0, 0)
    layer(torch.randn(2, 2, 8, 8, dtype=setting.get("dtype")))
    assert device.gone == ["pytorch"]
    assert not choices()


@pytest.mark.parametrize("padding", [(2, 2, 1, 1), (0, 1, 2, 0)], ids=str)
def test_what_is_timed_beside_them_is_the_exact_convolution(padding: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    input, weight, bias = torch.randn(2, 3, 6, 7), torch.randn(4, 3, 3, 2), torch.randn(4)
    convolution = filled.Convolution(input, weight, bias, (1, 2), padding, (1, 1), 1)
    padded = nn.functional.pad(input, padding)
    torch.testing.assert_close(filled.by_all(convolution), nn.functional.conv2d(padded, weight, bias, (1, 2)))


def test_an_accelerated_model_trains_as_on_the_cpu(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten())
    plain = copy.deepcopy(model)
    images = torch.randn(3, 2, 1, 8, 8)

    def train(model: nn.Module) -> list[Tensor]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        handle = accelerate_(model, Stan(rate=0.25, period=2))
        for batch in images:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            handle.step()
        return list(model.parameters())

    trained = train(model)
    assert device.faster in device.gone
    monkeypatch.setattr(filled, "_on_cuda", lambda input: False)
    for mine, its in zip(trained, train(plain), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("entries", [Grid(PATTERNS["blocks"], 1, 0), EntryMatrix(MATRIX)], ids=["grid", "matrix"])
def test_only_grids_are_timed_as_recorded(device: Device, entries: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which entries a matrix has, the processor waits for; that cannot be part of a graph."""
    recorded: list[object] = []

    def record(trial: cuda.Trial) -> object:
        recorded.append(trial)
        return trial

    monkeypatch.setattr(cuda, "_recorded", record)
    layer = nn.Conv2d(3, 5, 3, padding=1)
    layer.__class__ = StanConv2d
    layer.grid = entries
    with cuda.replayed():
        layer(torch.randn(2, 3, 6, 6))
    assert len(recorded) == (3 if isinstance(entries, Grid) else 0)
    assert choices()[0].seconds


@pytest.mark.filterwarnings("ignore")
def test_a_shape_may_come_for_the_first_time_within_a_checkpoint(device: Device) -> None:
    """What is saved for a trial's backward pass is no part of what the checkpoint counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3))
    accelerate_(model, Stan(rate=0.25, period=None))
    images = torch.randn(2, 1, 9, 9)
    gradients = []
    for checkpoints in (True, False):
        model.zero_grad()
        output = checkpoint(model, images, use_reentrant=False) if checkpoints else model(images)
        output.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert len(choices()) == 2
    assert all(choice.seconds for choice in choices())
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore")
def test_a_trial_within_hooks_of_saved_tensors_is_not_seen_and_not_kept(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[weakref.ref[Tensor]] = []
    for way in ("by_triton", "by_pytorch", "by_all"):
        own = getattr(filled, way)

        def noted(*given: object, own: Callable[..., Tensor] = own) -> Tensor:
            output = own(*given)
            outputs.append(weakref.ref(output))
            return output

        monkeypatch.setattr(filled, way, noted)
    seen: list[Tensor] = []
    counts = []
    layer = nn.Conv2d(2, 3, 3)
    layer.__class__ = StanConv2d
    layer.grid = Grid(PATTERNS["blocks"], 0, 0)
    gc.collect()
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda kept: kept):
            for _ in range(2):
                seen.clear()
                layer(torch.randn(2, 2, 9, 9))
                counts.append(len(seen))
        assert [each() for each in outputs] == [None] * len(outputs)
    finally:
        gc.enable()
    assert len(outputs) > 2
    assert counts[0] == counts[1] > 0


def test_transforms_follow_pytorchs_operations(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filled, "cuda_path", lambda: CudaPath(("triton",), "a test"))
    monkeypatch.setattr(cuda, "cuda_path", lambda: CudaPath(("triton",), "a test"))
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3)
    layer.__class__ = StanConv2d
    layer.grid = Grid(PATTERNS["blocks"], 1, 0)
    images = torch.randn(4, 2, 9, 9)

    def loss(weight: Tensor, image: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (image[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(layer.weight.detach(), images)
    assert set(device.gone) == {"pytorch"}
    expected = torch.stack([torch.autograd.grad(loss(layer.weight, image), layer.weight)[0] for image in images])
    assert "triton" in device.gone
    torch.testing.assert_close(found, expected)


GRID, CPU = Grid(PATTERNS["columns"], 0, 1), torch.device("cpu")


def window_of(side: int) -> Window:
    return Window((8, side), (8, side), (1, 1), (1, 1), (0, 0), (1, 1))


@pytest.fixture
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_present", "_past", "_recorded"):
        monkeypatch.setattr(filled, name, {})


@pytest.mark.usefixtures("_nothing_kept")
def test_lists_of_ever_new_sizes_are_not_kept_for_ever_and_those_in_use_are() -> None:
    always = filled._rows_on_device(GRID, window_of(7), CPU)
    alive = weakref.WeakSet[Tensor]()
    for side in range(8, 1008):
        rows = filled._rows_on_device(GRID, window_of(side), CPU)
        assert rows.positions.numel() == 8 * (side // 2)
        alive.add(rows.positions)
        assert filled._rows_on_device(GRID, window_of(side), CPU) is rows
        assert filled._rows_on_device(GRID, window_of(7), CPU) is always
    del rows
    gc.collect()
    assert filled.MOST < len(alive) <= 2 * filled.MOST


@pytest.mark.usefixtures("_nothing_kept")
def test_lists_that_are_part_of_a_graph_are_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    recording, waited = [True], []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording[0])
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(filled, "_rows_of_grid", lambda grid, window, device: (window.size, object()))
    monkeypatch.setattr(filled, "MOST", 3)
    recorded = [filled._rows_on_device(GRID, window_of(side), device) for side in range(7, 12)]
    assert not waited, "a graph cannot be recorded where the device is waited for"
    recording[0] = False
    for side in range(20, 40):
        filled._rows_on_device(GRID, window_of(side), device)
    assert len(filled._present) + len(filled._past) <= 2 * filled.MOST
    assert waited, "another stream may still read what is forgotten"
    assert [filled._rows_on_device(GRID, window_of(side), device) for side in range(7, 12)] == recorded
