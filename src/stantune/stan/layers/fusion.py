"""Runs of layers that native kernels do as one: a convolution or a batch norm with what follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from torch.nn.parameter import is_lazy

from stantune.kernels.block.follow import Follow
from stantune.kernels.block.layout import is_last
from stantune.kernels.library import suits
from stantune.kernels.pays import may_pay
from stantune.stan.eligible import called_as_written, class_as_written
from stantune.stan.layers.conv2d import StanConv2d, has_native_form
from stantune.stan.layers.convolution import StanConv1d
from stantune.stan.layers.linear import StanLinear
from stantune.stan.layers.norm import StanBatchNorm2d
from stantune.stan.layers.pooling import StanAvgPool2d, StanMaxPool2d, StanPool2d, pool_of
from stantune.stan.layers.stan_layer import forget_
from stantune.stan.layers.stand_in import StandIn, stand_in_for_, taken_name


class StanSequential(StandIn, nn.Sequential):
    """An nn.Sequential that passes a layer's ReLU and pooling on to it, where it can do them natively.

    It computes what the original does. A layer with hooks, or that somebody has patched, is always called by itself.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return what the layers in turn make of the input, as nn.Sequential does."""
        if not isinstance(self, StanSequential):
            return type(self).forward(self, input)
        if type(input) is not Tensor or torch.compiler.is_compiling() or not class_as_written(nn.Sequential):
            return super().forward(input)  # type: ignore[no-any-return,no-untyped-call]
        modules = list(self)
        place = 0
        turned = False  # whether the input is channels last here, and contiguous to everybody else
        while place < len(modules):
            module = modules[place]
            place += 1
            if isinstance(module, StanConv2d):
                follow, taken = follow_of(modules[place : place + 2])
                if _takes_either(module) and input.dim() == 4 and module.is_native(input, follow):
                    place += taken
                    contiguous = not is_last(module.weight) and (turned or not is_last(input))
                    turned = contiguous and _goes_on(modules, place)
                    input = module.followed(input, follow, turned if contiguous else None)
                    continue
            elif isinstance(module, StanBatchNorm2d) and _takes_either(module):
                behind = _behind_norm(module, input, modules[place : place + 2])
                if behind is not None:
                    place += behind.taken
                    input = module.followed(input, behind.relu, behind.pool)
                    input, turned = _handed_on(input, turned, modules, place)
                    continue
            elif turned and isinstance(module, StanPool2d) and _takes_either(module) and module.is_native(input):
                input, turned = _handed_on(module.natively(input), True, modules, place)
                continue
            input = module(_turned_back(input) if turned else input)
            turned = False
        return input


def _goes_on(modules: Sequence[nn.Module], place: int) -> bool:
    """Tell whether what is channels last here, and contiguous to everybody else, may stay so for the next module."""
    return place < len(modules) and _takes_either(modules[place])


def _handed_on(x: Tensor, turned: bool, modules: Sequence[nn.Module], place: int) -> tuple[Tensor, bool]:
    """Return what the next module gets, (B, C, H, W), and whether it is still channels last for these alone."""
    if turned and not _goes_on(modules, place):
        return _turned_back(x), False
    return x, turned


def _turned_back(x: Tensor) -> Tensor:
    """Return what was channels last here, (B, C, H, W), as it is to everybody else: contiguous, by its strides, too."""
    x = x.contiguous()
    # Of one channel or one position it is both, and was left as it is.
    return x.flatten().view(x.shape) if is_last(x) else x


def _takes_either(module: nn.Module) -> bool:
    """Tell whether a module is native where its input lets it be, and nobody watches it or has patched it."""
    if isinstance(module, StanConv2d):
        # Who watches a layer wants the convolution's own output.
        if module.watched_now() or module.came_by_others():
            return False
        return called_as_written(module, nn.Conv2d) and unobserved(module)
    if isinstance(module, StanBatchNorm2d):
        return called_as_written(module, nn.BatchNorm2d) and unobserved(module)
    if isinstance(module, StanPool2d):
        return called_as_written(module, module.original) and unobserved(module)
    return False


def make_native_(model: nn.Module, exact_ones: bool = True) -> list[nn.Module]:
    """Have layers that native kernels may do faster in training, and what follows them; return what was changed.

    A plain nn.Conv2d becomes a StanConv2d, a plain nn.BatchNorm2d a StanBatchNorm2d, a plain pooling a StanMaxPool2d or
    StanAvgPool2d, and a plain nn.Sequential that holds one of the former two a StanSequential; not so where somebody
    has given one of them a forward method of its own. STAN's convolutions and linear layers learn their names, for
    errors.

    Args:
        model: any module.
        exact_ones: whether layers become native that are none of STAN's yet, and compute every entry.
    """
    changed: list[nn.Module] = []
    follows = follows_in(model)
    for name, module in model.named_modules():
        if exact_ones and may_become_native(module, follows):
            module.__class__ = NATIVE[type(module)]
            changed.append(module)
        if isinstance(module, StanConv1d | StanConv2d | StanLinear):
            module.stan_name = name
            stand_in_for_(module, module.original)
        elif isinstance(module, StanBatchNorm2d | StanPool2d):
            stand_in_for_(module, module.original)
    for module in model.modules():
        if (
            type(module) is nn.Sequential
            and "forward" not in module.__dict__
            and any(type(child) in (StanConv2d, StanBatchNorm2d) for child in module)
        ):
            module.__class__ = StanSequential
            changed.append(module)
    return changed


def may_become_native(module: nn.Module, follows: Mapping[nn.Module, Follow]) -> bool:
    """Tell whether a layer of PyTorch's has a native form that pays for some input; `follows` is `follows_in`'s."""
    if taken_name(module):
        return False
    if type(module) is nn.Conv2d:
        return may_be_native(module, follows.get(module, Follow()))
    if type(module) in (nn.MaxPool2d, nn.AvgPool2d):
        return "forward" not in module.__dict__ and pool_of(module) is not None
    return (
        type(module) is nn.BatchNorm2d
        and "forward" not in module.__dict__
        and suits(module.running_mean, module.running_var, module.weight, module.bias)
    )


def may_be_native(layer: nn.Conv2d, follow: Follow) -> bool:
    """Tell whether a layer has a native form that pays for some input; asking at each pass takes its time, too."""
    if not has_native_form(layer) or "forward" in layer.__dict__:
        return False
    stride = layer.stride[0] if isinstance(layer.stride, tuple) else layer.stride
    return may_pay(layer.weight.shape[2], stride, follow)


# What PyTorch's layers become.
NATIVE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: StanConv2d,
    nn.BatchNorm2d: StanBatchNorm2d,
    nn.MaxPool2d: StanMaxPool2d,
    nn.AvgPool2d: StanAvgPool2d,
    nn.Sequential: StanSequential,
}


def order_(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the model's four-dimensional parameters anew; they stay the same objects. Lazy ones have no shape yet."""
    for parameter in model.parameters():
        if not is_lazy(parameter) and parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


@contextmanager
def natively(model: nn.Module) -> Iterator[None]:
    """Train the model's layers natively within, exactly."""
    changed = make_native_(model)
    try:
        yield
    finally:
        for module in changed:
            forget_(module)
            module.__class__ = next(plain for plain, native in NATIVE.items() if type(module) is native)


@contextmanager
def evaluated_natively(model: nn.Module) -> Iterator[None]:
    """Have the model's StanConv2d compute natively in evaluation, too, within: exact but for rounding."""
    layers = [module for module in model.modules() if isinstance(module, StanConv2d)]
    for layer in layers:
        layer.natively_evaluated = True
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("natively_evaluated", None)


def follows_in(model: nn.Module) -> dict[nn.Module, Follow]:
    """Return what can be done with each of the model's convolutions that stand in an nn.Sequential."""
    found: dict[nn.Module, Follow] = {}
    for sequential in model.modules():
        if type(sequential) is nn.Sequential or type(sequential) is StanSequential:
            modules = list(sequential)  # a layer may stand there several times, which children() leaves out
            for place, module in enumerate(modules):
                if isinstance(module, nn.Conv2d):
                    follow = follow_of(modules[place + 1 : place + 3])[0]
                    # Of one that stands there twice, where native code spares the most.
                    if module not in found or found[module].pool == "none":
                        found[module] = follow
    return found


def follow_of(modules: Sequence[nn.Module]) -> tuple[Follow, int]:
    """Return what of the next two modules can be done with a convolution before them, and how many those are."""
    kinds = [_kind(module) for module in modules]
    relu = "relu" in kinds[:1]
    pool = modules[1] if relu and len(kinds) > 1 and kinds[1] == "pool" else None
    if kinds[:1] == ["pool"]:
        pool = modules[0]
        # After a maximum, which ReLU may change places with, but not after an average.
        relu = kinds[1:] == ["relu"] and isinstance(pool, nn.MaxPool2d)
    if pool is None:
        return Follow(relu=relu), int(relu)
    does = pool_of(pool)
    assert does is not None, "_kind has asked"
    return Follow("average" if does.average else "max", does.size, does.stride, does.ceil, relu), 1 + int(relu)


class _BehindNorm(NamedTuple):
    """What is done along with a batch norm: ReLU, the windows of a maximum; and how many modules those are."""

    relu: bool
    pool: tuple[int, int] | None
    taken: int


def _behind_norm(norm: StanBatchNorm2d, x: Tensor, modules: Sequence[nn.Module]) -> _BehindNorm | None:
    """Return what of the next two modules is done along with a norm of x (B, C, H, W); None where that is PyTorch's."""
    follow, taken = follow_of(modules)
    parts = follow.pool == "max" and follow.size == follow.stride and not follow.ceil
    if parts and norm.is_native(x, follow.relu, follow.size):
        return _BehindNorm(follow.relu, follow.size, taken)
    relu = any(_kind(each) == "relu" for each in modules[:1])
    return _BehindNorm(relu, None, int(relu)) if norm.is_native(x, relu, None) else None


def unobserved(module: nn.Module) -> bool:
    """Tell whether nobody sees what goes in and out of the module: it has no hooks."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        # By their names: PyTorch's own _has_any_global_hook is younger than 2.7.
        or _global_forward_hooks
        or _global_forward_pre_hooks
        or _global_backward_hooks
        or _global_backward_pre_hooks
    )


def _kind(module: nn.Module) -> str:
    """Return "relu", "pool" or "", for what the native form of a convolution cannot do."""
    kind = _FOLLOWING.get(type(module))
    if kind is None or not called_as_written(module, kind) or not unobserved(module):
        return ""
    if kind is nn.ReLU:
        return "relu"
    pool = pool_of(module)
    plain = pool is not None and pool.padding == (0, 0) and min(*pool.size, *pool.stride) > 0 and not pool.divisor
    return "pool" if plain else ""


# What may follow a convolution, and which of PyTorch's layers it is.
_FOLLOWING: dict[type[nn.Module], type[nn.Module]] = {
    nn.ReLU: nn.ReLU,
    nn.MaxPool2d: nn.MaxPool2d,
    StanMaxPool2d: nn.MaxPool2d,
    nn.AvgPool2d: nn.AvgPool2d,
    StanAvgPool2d: nn.AvgPool2d,
}
