"""A training stood at a reduced iteration, to look at what its layers compute there: for `entries` and for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stantune.seeds import derive
from stantune.stan.config import Stan
from stantune.stan.handle import StanHandle
from stantune.stan.schedule import Phase
from stantune.training.trainable import Splits
from stantune.training.trial import Trial


def take_weights(trial: Trial, state: Mapping[str, Any]) -> None:
    """Take over weights and iteration; the training may have been an exact one, or under other settings of STAN.

    Raises KeyError, TypeError, ValueError or RuntimeError where they do not fit the network.
    """
    assert trial.handle is not None  # it was given STAN
    trial.model.load_state_dict(state["model"])
    trial.iteration = state["iteration"]
    trial.handle.seek(trial.iteration)


def looked_at(stan: Stan) -> Stan:
    """Return settings under which each training, wherever it stands, soon comes to a reduced iteration.

    Of several rates they have the least; `stan` has a rate in numbers, or "annealed".
    """
    return replace(stan, rate=stan.least_rate, pretrain=0, tail=0, period=stan.period or 1)


def spares(handle: StanHandle) -> bool:
    """Tell whether any layer computes only some of its entries in reduced iterations."""
    return any(line.patterns for line in handle.report)


def to_reduced(trial: Trial) -> StanHandle:
    """Go on to the first reduced iteration after the next refresh; return the handle, which is there.

    The trial is under settings of `looked_at`, and spares entries: else there is no such iteration.
    """
    handle = trial.handle
    assert handle is not None  # it was given STAN
    while handle.phase is not Phase.REFRESH:
        assert handle.phase is Phase.REDUCED, "an exact one has no end"
        handle.step()
    if handle.stan.chooses:
        # With gradients, as in training: without them layers are exact, and choose nothing.
        trial.model(trial.batches.at(handle.iteration).inputs)
    handle.step()
    return handle


def images_to_show(splits: Splits, count: int, seed: int) -> Tensor:
    """Return the places of so many training images, int64 (count,)."""
    generator = torch.Generator().manual_seed(derive("pictured", seed))
    return torch.randperm(len(splits.train), generator=generator, device="cpu")[:count]
