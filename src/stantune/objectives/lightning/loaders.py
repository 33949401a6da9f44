"""A fit's data: loaders that begin each epoch with the random states that belong to it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from stantune.errors import UsageError
from stantune.seeds import derive

if TYPE_CHECKING:
    from stantune.objectives.lightning.fit import Fit


class Loaders(NamedTuple):
    """What `data(params)` gave: a data module, or loaders, or nothing where the module has its own."""

    module: Any = None
    train: Any = None
    validation: Any = None
    test: Any = None

    @classmethod
    def of(cls, data: Any) -> Loaders:
        """Take a data module, a loader, or a tuple of two or three; raises UsageError."""
        if data is None:
            return cls()
        if any(kind.__name__ == "LightningDataModule" for kind in type(data).__mro__):
            return cls(module=data)
        if not isinstance(data, tuple):
            return cls(train=data)
        if not 1 <= len(data) <= 3:
            raise UsageError(
                f"`data` gave a tuple of {len(data)}; give a data module, or loaders for training, validation and test"
            )
        return cls(None, *data)


@contextmanager
def seeded_loaders(package: ModuleType, fit: Fit) -> Iterator[dict[str, Any]]:
    """Give the arguments of `fit` that say the data; the loaders for training begin each epoch with its own seed."""
    seeded = _seeded(package, fit)
    if fit.loaders.train is not None:
        yield {"train_dataloaders": seeded(fit.loaders.train), "val_dataloaders": fit.loaders.validation}
        return
    source = fit.module if fit.loaders.module is None else fit.loaders.module
    made = source.train_dataloader
    before = vars(source).get("train_dataloader")
    source.train_dataloader = lambda: seeded(made())
    try:
        if source is fit.module:
            yield {"val_dataloaders": fit.loaders.validation}
        else:
            yield {"datamodule": source}
    finally:
        # A data module may be used again in the next segment.
        del source.train_dataloader
        if before is not None:
            source.train_dataloader = before


def _seeded(package: ModuleType, fit: Fit) -> Callable[[Any], Any]:
    combined: Any = importlib.import_module(f"{package.__name__}.utilities").CombinedLoader

    class Seeded(combined):  # type: ignore[misc]
        """Begins each epoch with the random states that belong to it."""

        # The epoch whose first batch is still to come.
        fresh: int | None = None

        def __iter__(self) -> Any:
            epoch = max(int(fit.trainer.current_epoch), fit.start)
            for place, loader in enumerate(self.flattened):
                _renew(loader, derive("loader", fit.seed, epoch, place))
            fit.seed_for("loaders", epoch)
            self.fresh = epoch
            return super().__iter__()

        def __next__(self) -> Any:
            if self.fresh is not None:
                fit.seed_for("order", self.fresh)
                self.fresh = None
            return super().__next__()

    def seeded(loaders: Any) -> Any:
        if isinstance(loaders, combined):
            return Seeded(loaders.iterables, loaders._mode)
        return Seeded(loaders, "max_size_cycle")

    return seeded


def _renew(loader: Any, seed: int) -> None:
    """Have a loader forget its epochs before: its own generators, and processes that would remember theirs."""
    sampler = getattr(loader, "batch_sampler", None)
    for holder in (loader, getattr(loader, "sampler", None), sampler, getattr(sampler, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
    if getattr(loader, "persistent_workers", False):
        loader._iterator = None
