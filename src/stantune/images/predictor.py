"""Predictor: a trained network with its normaliser, from samples to what it says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.images.data import Normaliser
from stantune.images.data.splits import is_tokens


@dataclass(frozen=True)
class Inputs:
    """What a network takes: kept beside its weights, so that it can be used without its training set.

    Attributes:
        shape: of a sample as the data set holds it: (H, W, C), (features,) or (length,).
        dtype: of the samples there, "uint8" say.
        mean: see Normaliser.
        std: see Normaliser.
        scale: see Normaliser.
        classes: how many there are, None where the targets are none.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: Tensor | None
    std: Tensor | None
    scale: float
    classes: int | None

    @classmethod
    def of(cls, samples: Tensor, normaliser: Normaliser, classes: int | None) -> Inputs:
        """Return what a network takes that is trained on such samples, of which none is looked at."""
        # Copies: on the CPU, and of nothing that is larger.
        mean, std = (
            None if each is None else each.detach().cpu().clone() for each in (normaliser.mean, normaliser.std)
        )
        kind = str(samples.dtype).removeprefix("torch.")
        return cls(tuple(samples.shape[1:]), kind, mean, std, normaliser.scale, classes)

    def plain(self) -> dict[str, Any]:
        """Return it as a checkpoint can hold it; `Inputs(**…)` takes it back."""
        return asdict(self)


class Predictor(nn.Module):
    """A network that takes samples as they are, and not normalised; made by `stantune.load`, in evaluation mode.

    It is called with images (B, C, H, W), a table (B, features) or token ids (B, length), and returns what the network
    does, (B, classes) scores mostly. Numbers of any kind are taken, in the units of the data set: images that it holds
    as bytes are uint8, or floats from 0 to 255.

    Attributes:
        network: what was trained, for inputs that are normalised.
        setting: its parameters.
        metrics: what was measured of these weights, by name.
        classes: how many there are, None where the targets are none.
        input_shape: of a sample: (C, H, W), (features,) or (length,).
        input_dtype: in which the data set holds samples.
        mean: of the normaliser, (C, H, W), (C, 1, 1) or (features,); None where there is none.
        std: likewise.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, network: nn.Module, inputs: Inputs, setting: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Take a network with its weights, what it takes, and what is known of it."""
        super().__init__()
        # As in training: a convolution in another memory format may round otherwise.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.setting, self.metrics, self.classes = dict(setting), dict(metrics), inputs.classes
        shape = inputs.shape
        self.input_shape = (shape[-1], *shape[:-1]) if len(shape) == 3 else shape
        self.input_dtype: torch.dtype = getattr(torch, inputs.dtype)
        self._tokens = is_tokens(torch.empty(0, dtype=self.input_dtype))
        self._scale = inputs.scale
        self.register_buffer("mean", _channels_first(inputs.mean, len(shape)))
        self.register_buffer("std", _channels_first(inputs.std, len(shape)))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the network says of samples, (B, ...); raises UsageError where they are not of its shape."""
        if not isinstance(inputs, Tensor):
            kind = type(inputs).__name__
            raise UsageError(f"inputs are no tensor but of type {kind}; give a tensor, such as torch.as_tensor(array)")
        if inputs.is_complex() or (self._tokens and inputs.is_floating_point()):
            taken = "token ids, whole numbers" if self._tokens else "real numbers"
            raise UsageError(f"inputs are {str(inputs.dtype).removeprefix('torch.')}; give {taken}")
        fits = inputs.dim() == 1 + len(self.input_shape)
        if not fits or not (self._tokens or tuple(inputs.shape[1:]) == self.input_shape):
            wanted = ", ".join(map(str, ("B", *self.input_shape)))
            raise UsageError(f"inputs are of shape {tuple(inputs.shape)}; give ({wanted}), as the network was trained")
        said: Tensor = self.network(inputs.to(torch.int64) if self._tokens else self._normalised(inputs))
        return said

    def _normalised(self, inputs: Tensor) -> Tensor:
        """Do as Normaliser does, in the order of (B, C, H, W), and in operations that can be exported."""
        values = inputs.to(torch.float32)
        if values.dim() == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        if self.mean is not None:
            values = values - self.mean
        if self.std is not None:
            values = values / self.std
        return values if self._scale == 1.0 else values * self._scale


def _channels_first(values: Tensor | None, dims: int) -> Tensor | None:
    """Return a mean or deviation (H, W, C) as (C, H, W), one (C,) of images as (C, 1, 1), others as they are."""
    if values is None or dims != 3:
        return values
    return values.permute(2, 0, 1).contiguous() if values.dim() == 3 else values[:, None, None]
