"""The one gate in front of all that computes in its own way: which tensors, and under which modes, that may be done.

Everything here is an allow-list. PyTorch's ways of giving a tensor another meaning (subclasses, modes, transforms,
wrappers, lazy bits) grow from release to release, and each of them shows in the dispatch keys: a tensor or a state with
a key that is not listed here is PyTorch's own business.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext

# Devices whose plain tensors the reduced layers were made for, as dispatch keys call them.
DEVICES = ("CPU", "CUDA", "MPS", "XPU")
_ORDINARY = {"BackendSelect", "ADInplaceOrView"}
_INFERENCE = {"BackendSelect"}

# What was found out about keys: states by their two sets, tensors by theirs. Both hold a few in a process.
_states: dict[tuple[int, int], bool] = {}
_devices: dict[int, str] = {}

# Asked for by each layer in each pass, so that their names are not looked up again.
_keys_of, _included, _excluded = (
    torch._C._dispatch_keys,
    torch._C._dispatch_tls_local_include_set,
    torch._C._dispatch_tls_local_exclude_set,
)
_functions = torch._C._len_torch_function_stack
_float32 = torch.float32
# No storage has so many bytes: what lies farther was not given up, as can be told at once.
_FAR = 2**40


def ordinary() -> bool:
    """Tell whether operations now do what they say: no mode of tracing, faking, transforming or counting is active.

    Grad modes, inference mode, autocast and a default device are ordinary.
    """
    include, exclude = _included(), _excluded()
    key = include.raw_repr(), exclude.raw_repr()
    known = _states.get(key)
    if known is None:
        known = _states[key] = _is_ordinary(_names(include), _names(exclude))
    # A dual level is Python's own: its tensors look like any other. 0 is the first one's number.
    return known and forward_ad._current_level < 0 and (not _functions() or _functions_are_plain())


def transformed() -> bool:
    """Tell whether all that is not ordinary now is a transform of torch.func, which follows PyTorch's operations."""
    include, exclude = _names(_included()), _names(_excluded())
    levels = {"FuncTorchDynamicLayerFrontMode", "FuncTorchDynamicLayerBackMode"}
    return bool(include & levels) and _is_ordinary(include - levels, exclude) and not _functions()


def common_device(*tensors: Tensor | None) -> str:
    """Return which of DEVICES these tensors or parameters of numbers in memory are on, "" where they are not just that.

    Not so: subclasses, FakeTensor, meta, sparse, nested, quantized and MKL-DNN tensors, wrappers of torch.func, lazily
    negated or conjugated ones and known zeros. None counts as plain, and as being wherever the others are.
    """
    common = ""
    for each in tensors:
        if each is not None:
            device = device_of(each)
            if not device or device != (common or device):
                return ""
            common = device
    return common


def readable(*tensors: Tensor | None) -> bool:
    """Tell whether native code may go through these by their addresses now: plain, on the CPU, float32, in memory."""
    return ordinary() and common_device(*tensors) == "CPU" and in_memory(*tensors)


def in_memory(*tensors: Tensor | None) -> bool:
    """Tell whether tensors that are plain and on the CPU are float32, and somewhere: none empty, none given up."""
    # all() takes twice as long.
    for each in tensors:
        if each is not None and (each.dtype is not _float32 or (each.data_ptr() < _FAR and not is_somewhere(each))):
            return False
    return True


def is_somewhere(tensor: Tensor) -> bool:
    """Tell whether a plain tensor has numbers in memory: it has some, and its storage was not given up.

    The address of what was given up is not 0 but as far from 0 as the tensor is from its storage's beginning.
    """
    return tensor.data_ptr() > tensor.element_size() * tensor.storage_offset()


def device_of(tensor: Tensor) -> str:
    """Return which of DEVICES a plain tensor is on, "" for any other one."""
    kind = type(tensor)
    if kind is not Tensor and kind is not nn.Parameter:
        return ""
    keys = _keys_of(tensor)
    raw = keys.raw_repr()
    known = _devices.get(raw)
    if known is None:
        known = _devices[raw] = _device(_names(keys))
    return known


def _names(keys: object) -> set[str]:
    """Return the names in a set of dispatch keys."""
    return set(str(keys).removeprefix("DispatchKeySet(").removesuffix(")").split(", ")) - {""}


def _is_ordinary(include: set[str], exclude: set[str]) -> bool:
    # Each kind of autocast is excluded but where it is on.
    rest = {name for name in exclude if not name.startswith("Autocast")}
    if include == _ORDINARY:
        return not rest
    return include == _INFERENCE and all(name.startswith("Autograd") for name in rest)


def _device(names: set[str]) -> str:
    # What was made under inference mode lacks the keys of autograd.
    for device in DEVICES:
        if device in names and names <= {device, f"Autograd{device}", f"Autocast{device}", "ADInplaceOrView"}:
            return device
    return ""


def _functions_are_plain() -> bool:
    """Tell whether nobody overrides functions; a default device only fills in what native code never leaves out."""
    stack = range(_functions())
    return all(type(torch._C._get_function_stack_at(place)) is DeviceContext for place in stack)
