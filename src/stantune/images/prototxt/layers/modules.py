"""Caffe's layers of several inputs and its Scale layer, and networks that are no chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Operation = Literal["sum", "prod", "max"]


class Concat(nn.Module):
    """Caffe's Concat: inputs (B, C, ...) one behind the other along the channels."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return (B, all channels, ...)."""
        return torch.cat(inputs, 1)


class Eltwise(nn.Module):
    """Caffe's Eltwise: inputs of one shape, value by value summed (times `coefficients`), multiplied or the largest."""

    def __init__(self, operation: Operation = "sum", coefficients: Sequence[float] = ()) -> None:
        super().__init__()
        self.operation = operation
        self.coefficients = tuple(coefficients)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return a tensor of the inputs' shape."""
        if self.coefficients:
            inputs = tuple(each * by for each, by in zip(inputs, self.coefficients, strict=True))
        result = inputs[0]
        for each in inputs[1:]:
            if self.operation == "sum":
                result = result + each
            else:
                result = result * each if self.operation == "prod" else torch.maximum(result, each)
        return result

    def extra_repr(self) -> str:
        """Give the settings for the module's printed form."""
        return f"{self.operation}, {self.coefficients}" if self.coefficients else self.operation


class Scale(nn.Module):
    """Caffe's Scale: each channel of (B, C, ...) times a learned weight, and plus a learned bias where it has one."""

    bias: nn.Parameter | None

    def __init__(self, channels: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of x's shape."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        scaled = x * self.weight.view(shape)
        return scaled if self.bias is None else scaled + self.bias.view(shape)

    def extra_repr(self) -> str:
        """Give the settings for the module's printed form."""
        return f"{len(self.weight)}, bias={self.bias is not None}"


class Graph(nn.Module):
    """Modules that take the results of others before them; the last one's result is the network's.

    `inputs` says of each by its place what it takes: places of others, or -1 for the network's own input.
    """

    def __init__(self, layers: Mapping[str, nn.Module], inputs: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._names = tuple(layers)
        self._inputs = tuple(inputs)

    def forward(self, data: Tensor) -> Tensor:
        """Return the result of the last module."""
        results: list[Tensor] = []
        for name, places in zip(self._names, self._inputs, strict=True):
            results.append(getattr(self, name)(*(data if place < 0 else results[place] for place in places)))
        return results[-1]
