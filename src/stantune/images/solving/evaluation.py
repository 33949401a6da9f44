"""How good a network is on a split: measured exactly, never reduced."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stantune.images.data import Normaliser, Split, in_order
from stantune.images.solving.measures import MEASURES, Measure

EVALUATION_BATCH = 500


def measured(model: nn.Module, split: Split, normaliser: Normaliser, measure: Measure, device: str = "cpu") -> float:
    """Return what a measure gives on `split`; always exact, never reduced.

    What was accelerated is evaluated by the native kernels that it trains with.

    Args:
        model: it is in its former mode afterwards.
        split: at least one sample.
        normaliser: from samples to what the network sees.
        measure: what is measured.
        device: where the model is.
    """
    # STAN's layers need torch._dynamo, which takes longer than all else that a Problem imports. Training needs it, too.
    from stantune.stan.layers.fusion import evaluated_natively

    training = model.training
    model.eval()
    kept: list[Any] = []
    with torch.inference_mode(), evaluated_natively(model):
        for batch in in_order(split, EVALUATION_BATCH, normaliser, device):
            kept.append(measure.counts(model(batch.inputs), batch.targets))
    model.train(training)
    return measure.value(kept)


def error_percent(model: nn.Module, split: Split, normaliser: Normaliser, device: str = "cpu") -> float:
    """Return the share of wrongly classified samples of `split`, in percent; see `measured`."""
    return measured(model, split, normaliser, MEASURES["error"], device)
