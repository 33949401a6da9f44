"""How good a network is on a split: measured exactly, never reduced."""

from __future__ import annotations

import torch
from torch import nn

from stantune.images.data import Normaliser, Split, in_order
from stantune.stan.fusion import evaluated_natively

EVALUATION_BATCH = 500


def error_percent(model: nn.Module, split: Split, normaliser: Normaliser, device: str = "cpu") -> float:
    """Return the share of wrongly classified images of `split`, in percent; always exact, never reduced.

    What was accelerated is evaluated by the native kernels that it trains with.

    An image whose scores are not all finite is wrong: weights that are no numbers any more (spoilt by the very last
    iteration, so that no loss could tell) must not pass for a guess that is right one time in ten.

    Args:
        model: images (B, C, H, W) to scores (B, classes); it is in its former mode afterwards.
        split: at least one image.
        normaliser: from pixels to what the network sees.
        device: where the model is.
    """
    training = model.training
    model.eval()
    wrong = 0
    with torch.inference_mode(), evaluated_natively(model):
        for batch in in_order(split, EVALUATION_BATCH, normaliser, device):
            scores = model(batch.inputs)
            right = (scores.argmax(1) == batch.targets) & scores.isfinite().all(1)
            wrong += len(batch.targets) - int(right.sum())
    model.train(training)
    return 100.0 * wrong / len(split)
