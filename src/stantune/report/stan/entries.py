"""What one reduced iteration computes of each layer's output and how far the rest is from exact, in numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.stan.entries.entries import PATTERNS, Entries, EntryMatrix
from stantune.stan.entries.fill import neighbour_of_exact
from stantune.stan.layers.conv2d import StanConv2d
from stantune.stan.layers.convolution import StanConv1d


class LayerEntries(NamedTuple):
    """One use of one accelerated layer on B images; the measures are ours.

    Attributes:
        name: the layer's name in the model; from its second use in a forward pass on with the use's number.
        pattern: the name of the grid's pattern; "chosen" for an entry matrix of any other form, "all" for every entry.
        entries: E, bool (B, H, W): computed.
        exact: norm over the channels of the exact output Y, (B, H, W).
        filled: norm over the channels of fill(Y), (B, H, W).
        errors: norm over the channels of Y - fill(Y), over the root mean square of Y's norms in the same image,
            (B, H, W). So the root mean square of an image's map is its relative error.
        image_errors: ||Y - fill(Y)|| / ||Y|| of each image, (B,); 0 where Y is 0 all over.
        error: the same of all images together.
        kept: share of the entries that are computed.
    """

    name: str
    pattern: str
    entries: Tensor
    exact: Tensor
    filled: Tensor
    errors: Tensor
    image_errors: Tensor
    error: float
    kept: float


class EntriesReport(NamedTuple):
    """The accelerated layers of a model on the same B images, in the order in which the forward pass uses them."""

    layers: tuple[LayerEntries, ...]


def entries_report(model: nn.Module, images: Tensor) -> EntriesReport:
    """Return what the model's accelerated convolutions, as their handle has set them, make of their exact outputs.

    Every layer gets its exact input: the errors of the layers before it are not passed on. The model is in its former
    mode afterwards, and its running statistics are what they were.

    Args:
        model: an accelerated model, its handle at a reduced iteration. Neighbour fill alone.
        images: (B, C, H, W), as the model takes them; where a layer has an entry matrix, those that it was made for.

    Raises:
        UsageError: the model has no accelerated convolution or uses none, one is under the memo fill, or an output is
            not finite.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, StanConv1d | StanConv2d)}
    if not names:
        raise UsageError("no convolution of the model is accelerated; call accelerate_(model, Stan(...)) first")
    remembering = [name for module, name in names.items() if module.memory is not None]
    if remembering:
        raise UsageError(f"layer {remembering[0]!r} is under the memo fill, and this shows the neighbour fill alone")
    found: list[LayerEntries] = []
    uses = dict.fromkeys(names, 0)

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, StanConv1d | StanConv2d)  # hooked below
        uses[module] += 1
        name = names[module] if uses[module] == 1 else f"{names[module]} (use {uses[module]})"
        found.append(layer_entries(name, output if output.dim() == 4 else output.unsqueeze(2), module.grid))

    hooks = [module.register_forward_hook(look) for module in names]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    if not found:
        raise UsageError(f"the model's forward pass uses none of its accelerated layers {', '.join(names.values())}")
    return EntriesReport(tuple(found))


def layer_entries(name: str, exact: Tensor, entries: Entries | None) -> LayerEntries:
    """Return what the neighbour fill makes of an exact output.

    Args:
        name: the layer's name.
        exact: Y, (B, C, H, W).
        entries: what counts as computed; None for all.

    Raises:
        UsageError: Y holds infinities or NaN.
    """
    if not exact.isfinite().all():
        raise UsageError(f"the exact output of layer {name!r} is not finite; take weights of a training that went well")
    filled = exact if entries is None else neighbour_of_exact(exact, entries)
    computed = _matrix(exact, entries)
    # In float64: the squares of large values are beyond float32.
    norm, difference = exact.double().norm(dim=1), (exact - filled).double().norm(dim=1)
    mean_square = norm.square().mean((1, 2))
    # Where Y is 0 all over, so is its fill.
    unit = mean_square.sqrt().where(mean_square > 0, 1.0)
    whole = float(norm.norm())
    return LayerEntries(
        name,
        pattern_name(entries),
        computed,
        norm.float(),
        filled.double().norm(dim=1).float(),
        (difference / unit[:, None, None]).float(),
        (difference.square().mean((1, 2)).sqrt() / unit).float(),
        float(difference.norm()) / whole if whole else 0.0,
        float(computed.double().mean()),
    )


def pattern_name(entries: Entries | None) -> str:
    """Return what kind of entries these are, as LayerEntries.pattern."""
    if entries is None:
        return "all"
    if isinstance(entries, EntryMatrix):
        return "chosen"
    return next(name for name, pattern in PATTERNS.items() if pattern == entries.pattern)


def _matrix(exact: Tensor, entries: Entries | None) -> Tensor:
    """Return E for an output (B, C, H, W), bool (B, H, W)."""
    batch, _, height, width = exact.shape
    if isinstance(entries, EntryMatrix):
        return entries.entries
    if entries is None or not entries.fills(height, width):
        return torch.ones(batch, height, width, dtype=torch.bool)
    return entries.matrix(height, width).expand(batch, height, width)
