"""What each layer of the winner computes in a reduced iteration, in numbers for the page to draw."""

from __future__ import annotations

import base64
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stantune.errors import NoEffectWarning, StantuneError
from stantune.report.page.contract import Entries, Images, LayerMaps

if TYPE_CHECKING:
    from torch import Tensor

    from stantune.images.objective import ProblemObjective
    from stantune.report.stan.entries import LayerEntries

# A page is to be sent: so many images and layers, and of a larger output the middle.
IMAGES, LAYERS, SIDE = 3, 8, 64


def entries_of(objective: ProblemObjective, setting: dict[str, Any], weights: Path, seed: int) -> Entries | str:
    """Return what the layers compute with these weights, or why that cannot be shown.

    Args:
        objective: what was searched, under STAN; a rate of "auto" with its plan.
        setting: of the training that the weights are of.
        weights: their file.
        seed: of the images that are drawn, and of the grids.
    """
    from stantune.report.stan.entries import entries_report
    from stantune.report.stan.looking import images_to_show, looked_at, spares, take_weights, to_reduced
    from stantune.seeds import derive
    from stantune.training import checkpoint
    from stantune.training.trial import Trial

    stan = objective.stan
    assert stan is not None  # there is something to show
    if stan.least_rate == 1 or (stan.plan is not None and not any(layer.patterns for layer in stan.plan)):
        return "every entry is computed, in all layers"
    if stan.memo is not None:
        return "what a layer remembers of each sample is not kept with the weights"
    stan = replace(looked_at(stan), seed=seed)
    try:
        state = checkpoint.load_any(weights)
        splits = objective.splits
        with warnings.catch_warnings():
            # It was said where the search began.
            warnings.simplefilter("ignore", NoEffectWarning)
            trial = Trial(objective.problem, setting, splits, seed=derive("train", seed), stan=stan)
        assert trial.handle is not None
        if not spares(trial.handle):
            return "STAN spares no entries in this network"
        take_weights(trial, state)
        handle = to_reduced(trial)
        chosen = images_to_show(splits, IMAGES, seed)
        pixels = splits.train.images[chosen]
        layers = entries_report(trial.model, splits.normaliser(pixels)).layers
    except FileNotFoundError:
        return f"the weights {weights.name} are no longer there"
    except StantuneError as error:
        return str(error)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return f"the weights {weights.name} do not fit the network that the problem has now"
    return Entries(
        iteration=handle.iteration,
        trained=state["iteration"],
        images=_images(pixels),
        layers=[_maps(layer) for layer in layers[:LAYERS]],
        more=max(len(layers) - LAYERS, 0),
    )


def _images(pixels: Tensor) -> Images | None:
    """Return images, uint8 (B, H, W, C), as the page draws them; None for samples of another kind."""
    if pixels.dim() != 4 or str(pixels.dtype) != "torch.uint8":
        return None
    channels = 3 if pixels.shape[-1] == 3 else 1
    shown = [_middle(image)[..., :channels].contiguous() for image in pixels]
    rows, columns = shown[0].shape[:2]
    return Images(rows=rows, columns=columns, channels=channels, pixels=[_base64(image) for image in shown])


def _maps(layer: LayerEntries) -> LayerMaps:
    """Return a layer's maps, (B, H, W) each, in bytes."""
    height, width = layer.entries.shape[1:]
    computed = _middle(layer.entries[0])
    brightest = float(max(layer.exact.max(), layer.filled.max()))
    worst = float(layer.errors.max())

    def levels(maps: Tensor, top: float) -> list[str]:
        scaled = (maps * (255 / top if top else 0)).round().clamp(0, 255)
        return [_base64(_middle(each).byte()) for each in scaled]

    return LayerMaps(
        name=layer.name,
        pattern=layer.pattern,
        rows=computed.shape[0],
        columns=computed.shape[1],
        height=height,
        width=width,
        kept=layer.kept,
        error=layer.error,
        image_errors=layer.image_errors.tolist(),
        brightest=brightest,
        worst=worst,
        computed=[_base64(_middle(each).byte()) for each in layer.entries],
        exact=levels(layer.exact, brightest),
        filled=levels(layer.filled, brightest),
        errors=levels(layer.errors, worst),
    )


def _middle(image: Tensor) -> Tensor:
    """Return the middle of an image or a map, (H, W, ...)."""
    top, left = (max(length - SIDE, 0) // 2 for length in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def _base64(values: Tensor) -> str:
    return base64.b64encode(values.cpu().contiguous().numpy().tobytes()).decode()
