"""Batch norms that native kernels do: as PyTorch's own, alone and with the ReLU behind them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from compared import LAST, NATIVE, agree
from torch import Tensor, nn
from torch.func import functional_call

from stantune import Stan, accelerate_, restore_
from stantune.kernels.pays import norm_pays
from stantune.stan.layers.fusion import StanSequential
from stantune.stan.layers.norm import StanBatchNorm2d

pytestmark = NATIVE

KINDS: dict[str, Callable[[], nn.BatchNorm2d]] = {
    "plain": lambda: nn.BatchNorm2d(6),
    "no learned scale and shift": lambda: nn.BatchNorm2d(6, affine=False),
    "no averages": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "cumulative averages": lambda: nn.BatchNorm2d(6, momentum=None),
    "still averages": lambda: nn.BatchNorm2d(6, momentum=0.0),
    "large eps": lambda: nn.BatchNorm2d(6, eps=0.1, momentum=0.5),
}


def images(seed: int = 1) -> Tensor:
    """Return (5, 6, 7, 7), channels last."""
    generator = torch.Generator().manual_seed(seed)
    return (2.0 + 3.0 * torch.randn(5, 6, 7, 7, generator=generator)).contiguous(memory_format=LAST)


def accelerated(model: nn.Module) -> nn.Module:
    """Have native kernels do what they can of a copy."""
    ours = copy.deepcopy(model)
    accelerate_(ours, Stan(rate=1))
    return ours


def trained(model: nn.Module, steps: int = 3) -> list[Tensor]:
    """Return outputs, gradients and the state after some passes, the last one in evaluation."""
    found = []
    for seed in range(steps):
        x = images(seed).requires_grad_()
        y = model(x)
        model.zero_grad()
        (y * y.detach().cos()).sum().backward()
        assert x.grad is not None
        found += [y.detach(), x.grad, *(each.grad for each in model.parameters() if each.grad is not None)]
    found += [each.detach().float() for each in model.state_dict().values()]
    return [*found, model.eval()(images(9)).detach()]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_does_what_pytorchs_does(kind: str, relu: bool) -> None:
    layer = KINDS[kind]()
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    model = nn.Sequential(layer, *([nn.ReLU(inplace=True)] if relu else []))
    ours = accelerated(model)
    agree(trained(ours), trained(model))
    assert list(ours.state_dict()) == list(model.state_dict())


def operations(y: Tensor) -> list[str]:
    """Return the names of what made a tensor, the last one first, along the first input of each."""
    names, node = [], y.grad_fn
    while node is not None and "Accumulate" not in node.name():
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return names


def test_relu_is_done_along_with_it_unless_somebody_looks_between() -> None:
    model = accelerated(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()))
    x = images().requires_grad_()
    assert operations(model(x)) == ["_BatchNormBackward"]
    seen: list[Tensor] = []
    hook = model[0].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    assert operations(model(x)) == ["ReluBackward0", "_BatchNormBackward"]
    assert float(seen[0].detach().min()) < 0.0
    hook.remove()
    model[1].forward = torch.tanh
    assert operations(model(x)) == ["TanhBackward0", "_BatchNormBackward"]


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Module])
@pytest.mark.parametrize("method", ["__call__", "_call_impl"])
def test_a_class_whose_calls_are_patched_is_called(
    kind: type[nn.Module], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = accelerated(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)))
    seen: list[nn.Module] = []
    calls = getattr(kind, method)
    monkeypatch.setattr(
        kind, method, lambda self, *given, **named: seen.append(self) or calls(self, *given, **named), raising=False
    )
    model(images())
    assert {each for each in model if isinstance(each, kind)} <= set(seen)  # type: ignore[union-attr]


BEHIND = {
    "maximum": lambda: [nn.MaxPool2d(2)],
    "ReLU, maximum": lambda: [nn.ReLU(), nn.MaxPool2d((2, 3))],
    "maximum, ReLU": lambda: [nn.MaxPool2d(3), nn.ReLU(inplace=True)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", BEHIND)
def test_a_maximum_pooling_is_done_along_with_it(behind: str, kind: str) -> None:
    model = nn.Sequential(KINDS[kind](), *BEHIND[behind]())
    if kind != "cumulative averages":
        assert operations(accelerated(model)(images().requires_grad_())) == ["_BatchNormBackward"]
    agree(trained(accelerated(model)), trained(model))


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ([nn.ReLU(), nn.MaxPool2d(3, 2)], ["_PoolBackward", "_BatchNormBackward"]),
        ([nn.ReLU(), nn.MaxPool2d(2, padding=1)], ["_PoolBackward", "_BatchNormBackward"]),
        ([nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)], ["_PoolBackward", "_BatchNormBackward"]),
        ([nn.ReLU(), nn.AvgPool2d(2)], ["_PoolBackward", "_BatchNormBackward"]),
        ([nn.AvgPool2d(2), nn.ReLU()], ["ReluBackward0", "_PoolBackward", "_BatchNormBackward"]),
        ([nn.Tanh(), nn.MaxPool2d(2)], ["_PoolBackward", "TanhBackward0", "_BatchNormBackward"]),
        # A window is larger than its image.
        ([nn.MaxPool2d((7, 40))], None),
    ],
)
def test_another_pooling_is_done_after_it(behind: list[nn.Module], expected: list[str] | None) -> None:
    model = nn.Sequential(nn.BatchNorm2d(6), *behind)
    ours = accelerated(model)
    if expected is None:
        with pytest.raises(RuntimeError, match="Output size is too small"):
            ours(images())
        return
    assert operations(ours(images().requires_grad_())) == expected
    agree(trained(accelerated(model)), trained(model))


def test_contiguous_images_are_pooled_as_pytorch_lays_them_out() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    agree(trained(accelerated(model)), trained(model))
    x = images().contiguous()
    y = accelerated(model[:-1])(x)
    assert y.is_contiguous()
    torch.testing.assert_close(accelerated(model)(x), model(x))


def test_what_it_was_not_made_for_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = accelerated(nn.BatchNorm2d(6))
    assert operations(layer(images().requires_grad_())) == ["_BatchNormBackward"]
    stock = ["NativeBatchNormBackward0"]
    assert operations(layer(images().contiguous().requires_grad_())) == stock
    assert operations(copy.deepcopy(layer).double()(images().double().requires_grad_())) == stock
    assert operations(layer.eval()(images().requires_grad_())) == stock
    layer.train()
    with torch.autocast("cpu"):
        assert operations(layer(images().requires_grad_())) == stock
    with monkeypatch.context() as patched:
        patched.setattr(nn.BatchNorm2d, "forward", lambda self, input: input.exp())
        assert operations(layer(images().requires_grad_())) == ["ExpBackward0"]
    monkeypatch.setattr(F, "batch_norm", lambda input, *rest: input * 2.0)
    assert operations(layer(images().requires_grad_())) == ["MulBackward0"]


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (torch.zeros(6, 7, 7), "expected 4D input"),
        (torch.zeros(2, 5, 7, 7), "running_mean should contain 5 elements not 6"),
        (torch.zeros(1, 6, 1, 1), "Expected more than 1 value per channel"),
    ],
)
def test_what_pytorch_refuses_it_refuses_in_its_own_words(what: Tensor, sentence: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        accelerated(nn.BatchNorm2d(6))(what)


@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_eps_that_is_not_above_zero_is_pytorchs_to_judge(eps: float) -> None:
    layer = accelerated(nn.BatchNorm2d(6, eps=eps))
    assert isinstance(layer, StanBatchNorm2d)
    assert not layer.is_native(images(), False, None)


def test_averages_that_require_a_gradient_are_refused_as_pytorch_does() -> None:
    layer = accelerated(nn.BatchNorm2d(6))
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'running_mean'"):
        functional_call(layer, {"running_mean": torch.zeros(6, requires_grad=True)}, (images(),))


@pytest.mark.parametrize("relu", [False, True])
def test_a_bias_that_moves_before_the_backward_pass_changes_no_gradient(relu: bool) -> None:
    model = nn.Sequential(nn.BatchNorm2d(6), *([nn.ReLU()] if relu else []))

    def gradients(model: nn.Module) -> list[Tensor]:
        x = images().requires_grad_()
        y = model(x)
        with torch.no_grad():
            model[0].bias.add_(1.0)  # type: ignore[index,operator,union-attr]
        return list(torch.autograd.grad(y.cos().sum(), [x, *model.parameters()]))

    agree(gradients(accelerated(model)), gradients(model))


def test_contiguous_images_are_turned_once_for_convolutions_and_norms() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), *(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    )
    y = accelerated(model)(images().contiguous().requires_grad_())
    assert y.is_contiguous()
    native = {"_BlockBackward", "_BatchNormBackward"}
    assert set(operations(y)) - native == {"CloneBackward0"}
    assert operations(y).count("CloneBackward0") == 1
    agree(trained(accelerated(model)), trained(model))


def test_second_derivatives_are_pytorchs() -> None:
    model = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU())

    def penalty(model: nn.Module) -> Tensor:
        x = images().requires_grad_()
        (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        first.square().sum().backward()
        assert x.grad is not None
        return x.grad

    torch.testing.assert_close(penalty(accelerated(model)), penalty(model), rtol=1e-3, atol=1e-3)


def test_the_bias_has_a_second_derivative_of_zero_where_relu_cuts_off_by_it() -> None:
    model = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU())
    x = images().requires_grad_()
    for each in (model, accelerated(model)):
        (first,) = torch.autograd.grad((each(x) * images(2)).sum(), x, create_graph=True)
        # Not None, which optimizers pass over.
        (second,) = torch.autograd.grad(first.square().sum(), each[0].bias)  # type: ignore[index,union-attr,arg-type]
        assert torch.equal(second, torch.zeros(6))


def test_restored_copied_and_pickled() -> None:
    model = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    ours = accelerated(model)
    assert type(ours) is StanSequential
    assert type(ours[0]) is StanBatchNorm2d
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        agree(trained(other), trained(copy.deepcopy(model)))
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file))
    restore_(ours)
    assert [type(module) for module in ours.modules()] == [type(module) for module in model.modules()]
    assert not any("__module__" in module.__dict__ for module in ours.modules())


def test_the_handle_counts_them() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    handle = accelerate_(model, Stan(rate=0.5))
    assert handle.norms == 1
    assert "1 of 1 layers and 1 batch norm changed" in repr(handle)
    restore_(model)
    assert accelerate_(model, Stan(rate=0.5, native=False)).norms == 0


def test_where_it_pays() -> None:
    # The first layer of a small network; the last of a wide one; and the same of one image.
    assert norm_pays(100 * 28 * 28, 16, False, False)
    assert norm_pays(16 * 8 * 8, 64, True, False)
    assert not norm_pays(16 * 8 * 8, 64, False, False)
    assert not norm_pays(100 * 28 * 28, 256, False, False)
    assert not norm_pays(7 * 7, 512, True, False)
    assert norm_pays(16 * 8 * 8, 64, False, True)
    assert not norm_pays(4 * 8 * 8, 64, True, True)
