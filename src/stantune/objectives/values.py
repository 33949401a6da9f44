"""Values that a checkpoint can hold: what is read back by `weights_only=True`, which executes nothing."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stantune.errors import UsageError

# As they are.
PLAIN = {type(None), bool, int, float, complex, str, bytes}
_TORCH = {Tensor, nn.Parameter, torch.Size, torch.dtype, torch.device}
# The key of a dict that stands for what torch.load would refuse: an array, a scalar of NumPy's, …
_KIND = "stantune kind"
# A tensor whose storage is so many times what it spans of it is written without the rest.
_LOOSE = 2


def plain(value: Any, where: str) -> Any:
    """Return a value in kinds that a checkpoint can hold; `restored` takes it back.

    Args:
        value: tensors, arrays, numbers, texts, and lists, tuples, sets and dicts of them.
        where: what it is, for the message.

    Raises:
        UsageError: there is something else in it.
    """
    kind = type(value)
    if isinstance(value, Tensor) and kind in _TORCH and value.device.type not in ("cpu", "meta"):
        return {_KIND: "elsewhere", "value": value}
    if kind in PLAIN or kind in _TORCH:
        return value
    if kind in (list, tuple):
        return kind(plain(each, f"{where}[{place}]") for place, each in enumerate(value))
    if kind is set:
        elements = [plain(each, where) for each in value]
        return set(elements) if _hashable(elements) else {_KIND: "set", "value": elements}
    if kind in (dict, OrderedDict):
        keys = [plain(key, f"a key of {where}") for key in value]
        values = [plain(each, f"{where}[{key!r}]") for key, each in value.items()]
        if not _hashable(keys):
            return {_KIND: "keys", "keys": keys, "value": kind(enumerate(values))}
        made = kind(zip(keys, values, strict=True))
        if _KIND in made:
            raise UsageError(f"{where} has the key {_KIND!r}, which checkpoints need themselves; rename it")
        if hasattr(value, "_metadata"):
            # Versions of a state_dict's modules.
            vars(made)["_metadata"] = value._metadata
        return made
    if kind is Counter:
        return {_KIND: "counter", "value": plain(dict(value), where)}
    if isinstance(value, np.ndarray | np.generic) and kind in (np.ndarray, value.dtype.type):
        try:
            # A copy: it may be read-only, or backwards.
            tensor = torch.from_numpy(np.array(value, order="C"))
        except TypeError:
            raise _refusal(value, where, f"array of {value.dtype}") from None
        return {_KIND: "array" if kind is np.ndarray else "scalar", "value": tensor}
    raise _refusal(value, where, kind.__name__)


def restored(value: Any, device: str = "cpu") -> Any:
    """Return what `plain` was given; tensors that were not on the CPU are put on `device`."""
    kind = type(value)
    if kind in (list, tuple):
        return kind(restored(each, device) for each in value)
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        made = kind((restored(key, device), restored(each, device)) for key, each in value.items())
        if hasattr(value, "_metadata"):
            vars(made)["_metadata"] = value._metadata
        return made
    inner = value["value"]
    match value[_KIND]:
        case "elsewhere":
            # A leaf, or it would have no gradient.
            moved = inner.detach().to(device)
            return (
                nn.Parameter(moved, inner.requires_grad)
                if type(inner) is nn.Parameter
                else moved.requires_grad_(inner.requires_grad)
            )
        case "counter":
            return Counter(restored(inner, device))
        case "set":
            return set(restored(inner, device))
        case "keys":
            return type(inner)(zip(restored(value["keys"], device), restored(inner, device).values(), strict=True))
        case "array":
            return inner.numpy()
        case _:
            return inner.numpy()[()]


def tight(value: Any) -> Any:
    """Return what `plain` made without what its tensors are small parts of.

    torch.save writes the whole storage of a view: for one number all of the large tensor that it was taken from. What
    shares its storage with another tensor in here stays as it is, and shares it.
    """
    by_storage: dict[int, dict[int, Tensor]] = {}
    for each in filter(_has_storage, _tensors(value)):
        by_storage.setdefault(each.untyped_storage().data_ptr(), {})[id(each)] = each
    alone = [each for tensors in by_storage.values() if len(tensors) == 1 for each in tensors.values()]
    cut = {id(each): made for each in alone if (made := _cut(each)) is not None}
    return _replaced(value, cut) if cut else value


def has_lost(value: Any) -> bool:
    """Tell whether a tensor in what `plain` made has no numbers: it is on "meta", or its memory was given up."""
    return any(
        each.is_meta or (_has_storage(each) and each.numel() > 0 and each.untyped_storage().nbytes() == 0)
        for each in _tensors(value)
    )


def same(one: Any, other: Any) -> bool:
    """Tell whether two values that `plain` made are the same to the bit; False where nobody can tell."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        try:
            alike = (one.dtype, one.shape, one.requires_grad) == (other.dtype, other.shape, other.requires_grad)
            return alike and torch.equal(_bits(one), _bits(other))
        except RuntimeError:
            return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(each, other[key]) for key, each in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _has_storage(tensor: Tensor) -> bool:
    """Tell whether a tensor has a storage like others."""
    return tensor.layout is torch.strided and tensor.device.type in ("cpu", "cuda")


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in a value."""
    if isinstance(value, Tensor):
        yield value
        return
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    if isinstance(parts, list | tuple | set):
        for each in parts:
            if type(each) not in PLAIN:
                yield from _tensors(each)


def _cut(tensor: Tensor) -> Tensor | None:
    """Return a tensor in a storage that ends where it ends, None where its own is not much larger; strides stay."""
    steps = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    span = 1 + sum(steps) if tensor.numel() else 0
    loose = tensor.untyped_storage().nbytes() > _LOOSE * span * tensor.element_size()
    if not loose or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        return None
    flat = tensor.detach().as_strided((span,), (1,), tensor.storage_offset()).clone()
    made = flat.as_strided(tensor.shape, tensor.stride())
    if type(tensor) is nn.Parameter:
        made = nn.Parameter(made, tensor.requires_grad)
    vars(made).update(vars(tensor))
    return made.requires_grad_(tensor.requires_grad)


def _replaced(value: Any, by: Mapping[int, Tensor]) -> Any:
    """Return a value with other tensors in the places of some, by their ids."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, Tensor):
        return by.get(id(value), value)
    if kind in (list, tuple, set):
        return kind(_replaced(each, by) for each in value)
    if kind not in (dict, OrderedDict):
        return value
    made = kind((_replaced(key, by), _replaced(each, by)) for key, each in value.items())
    if hasattr(value, "_metadata"):
        vars(made)["_metadata"] = value._metadata
    return made


def _hashable(made: list[Any]) -> bool:
    """Tell whether all can be keys still: a scalar of NumPy's can, and what stands for it cannot."""
    try:
        hash(tuple(made))
    except TypeError:
        return False
    return True


def _refusal(value: object, where: str, kind: str) -> UsageError:
    return UsageError(
        f"{where} is of the kind {kind}, which a checkpoint cannot hold: to read it back would execute code; keep its "
        "numbers, texts and tensors, in lists and dicts"
    )
