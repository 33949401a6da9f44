"""How a process that trains is made as the one that the search was begun in, which is left as it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from stantune.errors import StantuneError
from stantune.process.alone import found
from stantune.protocols import Objective


def kept() -> AbstractContextManager[None]:
    """Return what leaves this process as it is; one without PyTorch has nothing that a search would change."""
    if "torch" not in sys.modules:
        return nullcontext()
    from stantune.process.runtime import kept_process

    return kept_process()


def unusual() -> dict[str, Any]:
    """Return what PyTorch is set to here that is not usual, to be put in place where is trained."""
    return found().settings


def noted(settings: dict[str, Any], what: Objective, device: str) -> dict[str, Any]:
    """Return those settings that the results of an objective depend on."""
    if not settings:
        return {}
    from stantune.process.settings import noted_settings

    own = getattr(what, "sets", ())
    return {name: value for name, value in noted_settings(settings, device).items() if name not in own}


def put_in_place(settings: dict[str, Any]) -> tuple[Callable[[], None], ...]:
    """Return what puts settings in place in the process that trains."""
    if not settings:
        return ()
    from stantune.process.runtime import flush_denormals

    # In all of PyTorch's threads, too, which the caller's own setting may not have reached.
    return Settings(settings), partial(flush_denormals, "flush-denormal" in settings)


class Settings:
    """Puts in place what PyTorch was set to in this process, in others, to which it is pickled.

    This process is so already where no training has set something for itself, which is to keep that: it may be another
    thread's. Only what each thread has its own of is put in place here.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    def __call__(self) -> None:
        """Call it before anything computes."""
        from stantune.process.settings import OF_A_THREAD, put_settings

        put_settings({name: value for name, value in self._settings.items() if name in OF_A_THREAD})

    def __reduce__(self) -> tuple[Any, ...]:
        """Be what puts all of them in place."""
        from stantune.process.settings import put_settings

        return partial, (put_settings, self._settings)


@dataclass(frozen=True)
class NativeKernels:
    """Has a node of a cluster compute by the native kernels of the machine that the search was begun on.

    Attributes:
        environment: what asks for them.
        form: which they are, "" for none; None where a device computes, which has no forms.
    """

    environment: dict[str, str]
    form: str | None

    def __call__(self) -> None:
        """Call it before anything computes; raises StantuneError where this node has others."""
        from stantune.kernels.library import SWITCH, kernels

        os.environ.update(self.environment)
        found = kernels()
        if self.form not in (None, found.form):
            raise StantuneError(
                f"the search computes by {_words(self.form)}, and here are {_words(found.form)} ({found.reason}): the "
                "last bits of its result depend on them, so install stantune with a compiler on all nodes, or set "
                f"{SWITCH} for the command to what all of them have, avx2, portable or off"
            )


def _words(form: str) -> str:
    return f"native kernels of the form {form}" if form else "no native kernels"


def native_kernels(what: Objective, device: str) -> tuple[Callable[[], None], ...]:
    """Return what has nodes compute by this machine's native kernels; nothing where the objective uses none."""
    if getattr(what, "stan", None) is None:
        return ()
    from stantune.kernels.library import SWITCH, WINOGRAD, WINOGRAD_SWITCH, kernels

    if device != "cpu":
        return (
            NativeKernels({name: os.environ[name] for name in (SWITCH, WINOGRAD_SWITCH) if name in os.environ}, None),
        )
    here = kernels()
    return (NativeKernels({SWITCH: here.form or "off", WINOGRAD_SWITCH: WINOGRAD[here.winograd]}, here.form),)
