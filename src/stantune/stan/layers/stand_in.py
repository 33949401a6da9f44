"""What STAN's layers have in common as stand-ins of PyTorch's: how tools that know only those take them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from stantune.errors import UsageError

_Method = TypeVar("_Method", bound=Callable[..., Any])
_Layer = TypeVar("_Layer", bound=nn.Module)

_AND_THEN = "call restore_(model) first, or restore_ a copy.deepcopy of it, and"


class StandIn(nn.Module):
    """A layer that takes the place of one of PyTorch's own, whose parameters it has, under another class.

    Tools that ask for the class itself (`type(layer) is nn.Conv2d`) do not find it. Those that would go on without the
    layer, or fail in words of their own, are told. Tools that wrap a layer's forward (`layer._old_forward =
    layer.forward`) still call a stand-in's after `restore_`; each therefore does as the layer's class does, where that
    is none of STAN's any more.

    Attributes:
        original: PyTorch's class of such layers; not of containers, whose modules may have any name.
    """

    original: ClassVar[type[nn.Module]]

    def __prepare_scriptable__(self) -> nn.Module:
        raise UsageError(
            "torch.jit.script compiles the source of PyTorch's own layers, and STAN's are others; "
            f"{_AND_THEN} script that"
        )

    @property
    def qconfig(self) -> object:
        """How torch.ao.quantization is to observe this layer: it gives every layer of a model such a thing, or None."""
        if "qconfig" not in self.__dict__:
            raise AttributeError  # nn.Module says which
        return _unobserved(self.__dict__["qconfig"])

    @qconfig.setter
    def qconfig(self, wanted: object) -> None:
        self.__dict__["qconfig"] = _unobserved(wanted)

    @qconfig.deleter
    def qconfig(self) -> None:
        del self.__dict__["qconfig"]


def _unobserved(qconfig: object) -> object:
    """Return None for None; a layer that is to be quantized must be one of PyTorch's."""
    if qconfig is not None:
        raise UsageError(
            "torch.ao.quantization knows PyTorch's own layers by their classes, and would leave STAN's as they are; "
            f"{_AND_THEN} quantize that"
        )
    return qconfig


def taken_name(layer: nn.Module) -> str:
    """Return one of a layer's own attributes that what would stand in for it has itself, or is given; "" for none."""
    needed: set[str] = set()
    for kind in _below(StandIn):
        if vars(kind).get("original") is type(layer):
            needed.update(*({*vars(base), *base.__annotations__} for base in kind.__mro__ if issubclass(base, StandIn)))
    own = {*layer.__dict__, *layer._parameters, *layer._buffers, *layer._modules}
    # What every module has is meant to be replaced, and a quantization's settings are looked after.
    return min(own & needed - set(dir(nn.Module)) - {"qconfig"}, default="")


def _below(kind: type[StandIn]) -> Iterator[type[StandIn]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def copied(layer: _Layer, state: dict[str, Any], memo: dict[int, Any]) -> _Layer:
    """Return a deep copy of a layer, of which nothing but `state` goes along.

    For `__deepcopy__`: a parametrization gives a layer without one its own, by which all would go along.
    """
    made = layer.__new__(type(layer))
    memo[id(layer)] = made
    made.__setstate__(copy.deepcopy(state, memo))  # type: ignore[no-untyped-call]
    return made


def stand_in_for_(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Have tracers (torch.fx, and what extracts features by it) take a layer for one operation, as one of `kind`.

    They ask where its class comes from. The class itself has to say the truth, or it could not be pickled.
    """
    layer.__dict__["__module__"] = kind.__module__


def not_compiled(method: _Method) -> _Method:
    """Have torch.compile leave a method to Python: entries are other ones in each iteration, and so would programs be.

    Where all has to be in one program (`fullgraph=True`, torch.export in training mode), the error tells why.
    """
    reason = (
        "STAN computes other entries in each iteration; compile without fullgraph=True, export in evaluation mode, or "
        f"{_AND_THEN} take that"
    )
    told = {"reason": reason} if "reason" in signature(torch.compiler.disable).parameters else {}
    return torch.compiler.disable(method, **told)  # type: ignore[no-any-return,no-untyped-call]
