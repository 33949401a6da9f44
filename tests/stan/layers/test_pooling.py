"""Poolings that native kernels do in a model: as PyTorch's own, bit for bit."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from compared import LAST, NATIVE
from torch import Tensor, nn

from stantune import Stan, accelerate_, restore_
from stantune.kernels.pays import pool_pays
from stantune.stan.layers.pooling import StanAvgPool2d, StanMaxPool2d

pytestmark = NATIVE

LAYERS = {
    "maxima": lambda: nn.MaxPool2d(2),
    "maxima, overlapping": lambda: nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 0), ceil_mode=True),
    "averages": lambda: nn.AvgPool2d(2),
    "averages, without padding": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "averages, divided otherwise": lambda: nn.AvgPool2d(3, 2, divisor_override=7),
}


def images(seed: int = 1) -> Tensor:
    """Return (3, 20, 14, 14), channels last."""
    return torch.randn(3, 20, 14, 14, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=LAST)


def accelerated(model: nn.Module) -> nn.Module:
    """Have native kernels do what they can of a copy."""
    ours = copy.deepcopy(model)
    accelerate_(ours, Stan(rate=1))
    return ours


def name_of(y: Tensor) -> str:
    assert y.grad_fn is not None
    return y.grad_fn.name()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_it_does_what_pytorchs_does(name: str, training: bool) -> None:
    layer = LAYERS[name]()
    ours = accelerated(layer)
    assert isinstance(ours, StanMaxPool2d | StanAvgPool2d)

    def passes(layer: nn.Module) -> list[Tensor]:
        x = images().requires_grad_()
        y = layer.train(training)(x)
        assert (name_of(y) == "_PoolBackward") == (layer is ours)
        return [y.detach(), *torch.autograd.grad(y, x, y.detach().cos())]

    for one, other in zip(passes(ours), passes(layer), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
    with torch.no_grad():
        assert torch.equal(ours(images()), layer(images()))


def test_what_it_was_not_made_for_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = accelerated(nn.MaxPool2d(2)), images().requires_grad_()
    assert name_of(layer(x)) == "_PoolBackward"
    stock = "MaxPool2DWithIndicesBackward0"
    assert name_of(layer(x.contiguous())) == stock
    assert name_of(layer(x.double())) == stock
    assert layer(x[0]).shape == (20, 7, 7)
    with torch.autocast("cpu"):
        assert name_of(layer(x)) == stock
    layer.return_indices = True
    assert layer(x)[1].dtype == torch.int64
    layer.return_indices = False
    layer.dilation = 2
    assert torch.equal(layer(x), F.max_pool2d(x, 2, dilation=2))
    layer.dilation = 1
    layer.kernel_size = [2, 2]
    assert torch.equal(layer(x), F.max_pool2d(x, 2))
    with monkeypatch.context() as patched:
        patched.setattr(nn.MaxPool2d, "forward", lambda self, input: input.exp())
        assert name_of(layer(x)) == "ExpBackward0"
    layer.kernel_size = 2
    monkeypatch.setattr(F, "max_pool2d", lambda input, *rest, **settings: input * 2.0)
    assert name_of(layer(x)) == "MulBackward0"


def test_a_setting_that_is_changed_is_read_anew() -> None:
    layer, x = accelerated(nn.AvgPool2d(2)), images()
    for size, stride in ((2, 2), (3, 1), ((4, 2), (3, 2))):
        layer.kernel_size, layer.stride = size, stride  # type: ignore[assignment]  # as nn.AvgPool2d has it
        assert torch.equal(layer(x), F.avg_pool2d(x, size, stride))


@pytest.mark.parametrize(
    ("layer", "error"),
    [
        (nn.MaxPool2d(2, padding=2), RuntimeError),
        (nn.MaxPool2d(20), RuntimeError),
        (nn.AvgPool2d(2, divisor_override=0), RuntimeError),
        (nn.MaxPool2d(2, stride=0), RuntimeError),
    ],
)
@pytest.mark.filterwarnings("ignore:STAN changes nothing")
def test_what_pytorch_refuses_it_refuses_in_its_own_words(layer: nn.Module, error: type[Exception]) -> None:
    with pytest.raises(error) as expected:
        layer(images())
    with pytest.raises(error) as found:
        accelerated(layer)(images())
    assert str(found.value) == str(expected.value)


def test_contiguous_images_stay_turned_through_a_pooling() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        # Of another stride than its windows, or a norm takes it along.
        return nn.Sequential(
            *(nn.Conv2d(20, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 1, 1)),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2)),
        )

    found = []
    for model in (accelerated(network()), network()):
        x = images().contiguous().requires_grad_()
        y = model(x)
        assert y.is_contiguous()
        found.append([y.detach(), *torch.autograd.grad(y.cos().sum(), x)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    model, turned = accelerated(network()), []
    for pool in (model[3], model[7]):  # type: ignore[index]
        natively = pool.natively  # type: ignore[union-attr]
        pool.natively = lambda input, natively=natively: turned.append(input.is_contiguous()) or natively(input)  # type: ignore[union-attr]
    model(images().contiguous())
    assert turned == [False, False]


@pytest.mark.parametrize("behind", [[], [nn.BatchNorm2d(4)], [nn.BatchNorm2d(4), nn.Identity()]])
def test_contiguous_images_of_one_position_are_contiguous_to_what_pytorch_does(behind: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(20, 4, 14), *behind, nn.MaxPool2d(2, 1, 1))
    x = images().contiguous()
    y, expected = accelerated(model)(x), model(x)
    assert y.stride() == expected.stride() == (16, 4, 2, 1)
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)


def test_a_watched_pooling_sees_what_it_would_see() -> None:
    model = accelerated(nn.Sequential(nn.Conv2d(20, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)))
    seen: list[Tensor] = []
    model[3].register_forward_hook(lambda layer, inputs, output: seen.extend([inputs[0], output]))  # type: ignore[index]
    model(images().contiguous())
    assert [each.is_contiguous() for each in seen] == [True, True]
    assert torch.equal(F.max_pool2d(seen[0], 2), seen[1])


def test_second_derivatives_are_pytorchs() -> None:
    for layer in (nn.MaxPool2d(2), nn.AvgPool2d(3, 2)):
        found = []
        for each in (accelerated(layer), layer):
            x = images().requires_grad_()
            (first,) = torch.autograd.grad(each(x).pow(3).sum(), x, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), x)[0])
        torch.testing.assert_close(*found)


def test_restored_copied_and_pickled() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten())
    ours = accelerated(model)
    assert [type(each) for each in ours] == [StanMaxPool2d, StanAvgPool2d, nn.Flatten]  # type: ignore[union-attr]
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(again(images()), model(images()))
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    assert list(ours.state_dict()) == []
    restore_(ours)
    assert [type(each) for each in ours.modules()] == [type(each) for each in model.modules()]
    assert not any("__module__" in each.__dict__ for each in ours.modules())


def test_compiled_it_is_pytorchs() -> None:
    layer = nn.MaxPool2d(2)
    ours = torch.compile(accelerated(layer), backend="eager", fullgraph=True)
    assert torch.equal(ours(images()), layer(images()))


def test_the_handle_counts_them() -> None:
    model = nn.Sequential(nn.Conv2d(20, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.AvgPool2d(2))
    handle = accelerate_(model, Stan(rate=0.5))
    assert handle.pools == 2
    assert "1 of 1 layers and 1 batch norm and 2 poolings changed" in repr(handle)
    restore_(model)
    assert accelerate_(model, Stan(rate=0.5, native=False)).pools == 0


def test_a_pooling_may_be_shared_by_models() -> None:
    pool = nn.MaxPool2d(2)
    models = [nn.Sequential(nn.Conv2d(20, 4, 3), pool) for _ in range(2)]
    for model in models:
        assert accelerate_(model, Stan(rate=1)).pools == 1
    restore_(models[0])
    assert type(pool) is nn.MaxPool2d
    assert models[1](images()).shape == (3, 4, 6, 6)


def test_where_it_pays() -> None:
    assert pool_pays(16 * 64 * 32 * 32, 64, False)
    assert not pool_pays(16 * 64 * 8 * 8, 64, False)
    assert not pool_pays(16 * 64 * 16 * 16, 64, True)
    assert not pool_pays(16 * 72 * 32 * 32, 72, False)
