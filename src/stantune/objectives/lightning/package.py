"""Lightning itself: which of its two packages, its hooks and numbers, and how it is kept quiet and interruptible."""

from __future__ import annotations

import importlib
import logging
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from stantune.errors import StantuneError, UsageError

MISSING = "Lightning is not installed; pip install 'stantune[lightning]'"
LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")


def package_of(module: Any) -> ModuleType:
    """Return the one of Lightning's two packages that a module is of: its Trainer knows its own modules alone."""
    root = _root_of(module)
    if root is not None:
        return importlib.import_module("lightning.pytorch" if root == "lightning" else root)
    compiled = getattr(module, "_orig_mod", None)
    if _root_of(compiled) is not None:
        raise UsageError(
            f"`module` gave what torch.compile made of a {type(compiled).__name__}; give the LightningModule itself, "
            "and compile its parts where it makes them, as by self.net.compile() in its __init__"
        )
    raise UsageError(
        f"`module` gave a {type(module).__name__}, which is no LightningModule; give a function from a setting to one"
    )


def _root_of(module: Any) -> str | None:
    """Return the name that the package of a LightningModule begins with, None of what is none."""
    for kind in type(module).__mro__:
        root = kind.__module__.partition(".")[0]
        if kind.__name__ == "LightningModule" and root in ("lightning", "pytorch_lightning"):
            return root
    return None


def require_lightning() -> None:
    """Raise StantuneError where neither of the packages is installed."""
    for name in ("lightning", "pytorch_lightning"):
        with suppress(ImportError):
            importlib.import_module(name)
            return
    raise StantuneError(MISSING)


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics of Lightning's as numbers."""
    numbers = {}
    for name, value in metrics.items():
        with suppress(TypeError, ValueError, RuntimeError):
            numbers[str(name)] = float(value)
    return numbers


def has_hook(package: ModuleType, thing: Any, hook: str) -> bool:
    """Tell whether a module or a data module has a hook of its own."""
    if thing is None:
        return False
    if hook in vars(thing):
        return True
    bases = (package.LightningModule, package.LightningDataModule)
    return all(getattr(type(thing), hook) is not getattr(base, hook, None) for base in bases)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what Lightning says of each fit, and would say for each trial; real warnings pass."""
    # All of them, since the package that was imported last speaks for the other one, too.
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    with warnings.catch_warnings():
        for name in ("lightning", "lightning_fabric"):
            with suppress(ImportError):
                module = "fabric.utilities.warnings" if name == "lightning" else "utilities.warnings"
                warnings.simplefilter("ignore", importlib.import_module(f"{name}.{module}").PossibleUserWarning)
        # What Lightning's developers will have to change.
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(pytorch_)?lightning(_fabric)?\.")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C through, which Lightning makes an exit and ignores from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
