"""Finds and loads the native library, chooses the form for this processor, and says what became of it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stantune.kernels.gate import readable
from stantune.process.forked import forked

# Of the environment: "off", or one of FORMS.
SWITCH = "STANTUNE_KERNELS"
FORMS = ("portable", "avx2", "avx512")
# Of the environment, too: whether convolutions are done by Winograd's minimal filtering, one of WINOGRAD.
WINOGRAD_SWITCH = "STANTUNE_WINOGRAD"
WINOGRAD = ("off", "auto", "always")  # native/api.hpp's numbers: never, where it pays, wherever it fits
# That of the library which belongs to this package: native/api.hpp's STAN_INTERFACE.
INTERFACE = 9
# Those of its functions that tell whether they had the memory and the threads that they need.
_TELLING = (
    *(f"stan_{name}_{way}" for name in ("block", "lrn", "batch_norm", "pool") for way in ("forward", "backward")),
    "stan_sgd",
)

_NAME = {"win32": "stantune_kernels.dll", "darwin": "libstantune_kernels.dylib"}.get(
    sys.platform, "libstantune_kernels.so"
)

_plain = ContextVar("plain", default=False)


class Kernels(NamedTuple):
    """What became of the native library.

    Attributes:
        library: it, or None where plain PyTorch does its work.
        form: which of FORMS it runs, "" where there is none.
        reason: why this form, or why none.
        winograd: which of WINOGRAD, as its number there.
    """

    library: ctypes.CDLL | None
    form: str
    reason: str
    winograd: int = 0


@cache
def kernels() -> Kernels:
    """Load the library once, in the form that the environment's STANTUNE_KERNELS asks for or the best one."""
    asked = os.environ.get(SWITCH, "").lower()
    if switched_off():
        return Kernels(None, "", f"{SWITCH}=off")
    path = _find()
    if path is None:
        return Kernels(
            None, "", f"{_NAME} was not built: install a C++20 compiler (GCC 11, Clang 14 or newer) and stantune again"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return Kernels(None, "", f"{path} cannot be loaded: {error}")
    if not hasattr(library, "stan_interface") or library.stan_interface() != INTERFACE:
        return Kernels(None, "", f"{path} is of another version of stantune; install stantune again")
    for name in _TELLING:
        getattr(library, name).errcheck = _checked
    _share_threads(library)
    best: int = library.stan_best_form()
    reason = f"the best that this processor runs, from {path}"
    if asked and asked not in FORMS:
        reason = f"{reason}; {SWITCH}={asked} is unknown, give off, {', '.join(FORMS)}"
    wanted = FORMS.index(asked) if asked in FORMS else best
    if wanted < best:
        reason = f"{SWITCH}={asked}, from {path}"
    elif wanted > best:
        reason = f"{SWITCH}={asked} cannot run on this processor; {reason}"
    winograd = os.environ.get(WINOGRAD_SWITCH, "").lower() or "auto"
    if winograd not in WINOGRAD:
        reason = f"{reason}; {WINOGRAD_SWITCH}={winograd} is unknown, give {', '.join(WINOGRAD)}"
        winograd = "auto"
    return Kernels(library, FORMS[library.stan_use_form(wanted)], reason, WINOGRAD.index(winograd))


def lack() -> str:
    """Say that native kernels are missing, and why; "" where they are there, or somebody switched them off."""
    found = kernels()
    if found.library is not None or switched_off():
        return ""
    return f"there are no native kernels, plain PyTorch does the work ({found.reason})"


def suits(*tensors: Tensor | None) -> bool:
    """Tell whether native kernels exist for these tensors here and now, and nothing asks to do without them.

    What native code may read is `gate.readable`'s to say: plain float32 on the CPU, and no mode that gives operations
    another meaning. Beside that there are no kernels under autocast and in torch.compile.
    """
    return wanted() and readable(*tensors)


def wanted() -> bool:
    """Tell whether there are native kernels and nothing asks to do without them: `suits` but for the tensors."""
    return (
        # First: torch.compile cannot look through what follows.
        not torch.compiler.is_compiling()
        and kernels().library is not None
        and not _plain.get()
        and not torch.is_autocast_enabled("cpu")
    )


def loaded() -> ctypes.CDLL:
    """Return the library, where `suits` has said that it is there."""
    library = kernels().library
    assert library is not None, "callers ask suits() first"
    return library


def address(tensor: Tensor | None) -> int | None:
    """Return where a tensor's numbers begin, as native code is told it; None for none."""
    return None if tensor is None else tensor.data_ptr()


def switched_off() -> bool:
    """Tell whether the environment asks for PyTorch alone."""
    return os.environ.get(SWITCH, "").lower() == "off"


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Do without native kernels within: what is trained here is what PyTorch alone would train."""
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def _find() -> Path | None:
    """Return the library's path: beside this file, or where an editable installation has put it."""
    places = [Path(__file__).with_name(_NAME)]
    with suppress(PackageNotFoundError):
        places.append(Path(str(distribution("stantune").locate_file(f"stantune/kernels/{_NAME}"))))
    return next((place for place in places if place.exists()), None)


def _checked(result: int, function: object, given: object) -> None:
    if result:
        raise MemoryError(
            "native kernels could not have the memory or the threads that they need: take smaller images or fewer "
            f"threads, or set {SWITCH}=off"
        )


def _share_threads(library: ctypes.CDLL) -> None:
    """Let the library use the threads of PyTorch's OpenMP runtime; without one, and in a fork, it makes its own."""
    # The library notices forks that come after it; here it is the child that loads it first.
    if forked() or not sys.platform.startswith("linux"):
        return
    # Other packages bring runtimes of their own. PyTorch's calls go where the linker finds them first: in what the
    # whole process has, such as what is preloaded, then in what PyTorch was linked with.
    for scope in (None, torch._C.__file__):
        runtime = ctypes.CDLL(scope)
        if hasattr(runtime, "GOMP_parallel"):
            library.stan_use_openmp(ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p))
            return
