"""The layers that STAN puts in place of PyTorch's: they compute some of their entries and fill the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune.kernels.blocks import Follow, convolve, convolve_into
from stantune.kernels.library import suits
from stantune.stan.entries import Entries, EntryMatrix, Grid
from stantune.stan.fill import memo_at
from stantune.stan.filled import Convolution, convolve_filled
from stantune.stan.linear import linear_in_block
from stantune.stan.lists import lists_among, lists_of
from stantune.stan.positions import conv2d_at
from stantune.stan.strided import conv2d_kept, output_size


class Recollection(NamedTuple):
    """What a reduced iteration under the memo fill begins with.

    Attributes:
        entries: those that are computed now; of a linear layer the run of its neurons.
        values: (B, C, H, W), or (B, N) of a linear layer: what every entry had at its sample's last visit; a tensor
            that the layer may write into.
    """

    entries: Grid | EntryMatrix | slice
    values: Tensor


class Memory(Protocol):
    """What a layer remembers of the samples of the present batch."""

    def recall(self, dtype: torch.dtype) -> Recollection | None:
        """Return what the batch had last, in `dtype`; None where this iteration computes every entry."""
        ...

    def remember(self, output: Tensor, entries: Grid | EntryMatrix | slice | None) -> None:
        """Keep an output, (B, C, H, W) or (B, N), without its graph; `entries` are those computed, None for all."""
        ...


class _StanLayer(nn.Module):
    """What the handle sets on a layer for one iteration; a copied or pickled layer has none of it and is exact.

    Attributes:
        grid: the entries to compute, an EntryMatrix of a 1-D layer being (B, L); None for all.
        watch: called with the exact output, without its graph, where `grid` is None.
        memory: what skipped entries receive under the memo fill.
        passed: called at each forward pass in training.
    """

    grid: Grid | EntryMatrix | None = None
    watch: Callable[[Tensor], None] | None = None
    memory: Memory | None = None
    passed: Callable[[], None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in SET_BY_HANDLE}


SET_BY_HANDLE = ("grid", "watch", "memory", "passed")


class _Geometry(NamedTuple):
    """A convolution's arguments after the input, as `conv2d_kept` takes them, in two dimensions."""

    weight: Tensor
    bias: Tensor | None
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


class _StanConvolution(_StanLayer, nn.modules.conv._ConvNd):
    """What StanConv1d and StanConv2d share. A 1-D convolution is a 2-D one of a single row."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, C_out, H_out, W_out), of an input (B, C_in, H, W) or (C_in, H, W).

        In evaluation, and with nothing set on the layer, it is the original's. (In one dimension there is no H.)
        """
        return self._trained(input) if self.training else self._exact(input)

    def _exact(self, input: Tensor) -> Tensor:
        return super().forward(input)  # type: ignore[no-any-return]  # nn.Conv1d's or nn.Conv2d's

    # The grid is another one in each iteration: compiled, each would be a program of its own.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _trained(self, input: Tensor) -> Tensor:
        if self.passed is not None:
            self.passed()
        sides = self.weight.dim() - 2
        if input.dim() == sides + 1:
            return self._trained_batch(input.unsqueeze(0)).squeeze(0)
        return self._trained_batch(input)

    def _trained_batch(self, input: Tensor) -> Tensor:
        if not len(input):
            return self._exact(input)
        if self.memory is not None:
            return self._with_memory(input, self.memory)
        if self.grid is None:
            output = self._exact(input)
            if self.watch is not None:
                self.watch(self._in_2d(output.detach()))
            return output
        plane, geometry = self._geometry(input)
        grid = self.grid if isinstance(self.grid, Grid) else EntryMatrix(self._plane_of(self.grid.entries))
        return self._back(convolve_filled(Convolution(plane, *geometry), grid))

    def _with_memory(self, input: Tensor, memory: Memory) -> Tensor:
        plane, geometry = self._geometry(input)
        weight, _, stride, padding, dilation, _ = geometry
        recalled = memory.recall(_result_type(input))
        size = output_size(plane, weight, stride, padding, dilation)
        if recalled is None or (isinstance(recalled.entries, Grid) and not recalled.entries.covers(*size)):
            output = self._whole(input)
            memory.remember(output.detach(), None)
            return output
        assert not isinstance(recalled.entries, slice)
        # A view that is written into would have its whole base's gradient made and cut again.
        values = self._in_2d(recalled.values).detach()
        output = self._among(plane, geometry, recalled.entries, values)
        memory.remember(self._back(output.detach()), recalled.entries)
        return self._back(output)

    def _whole(self, input: Tensor) -> Tensor:
        """Return every entry, which the memory then keeps."""
        return self._exact(input)

    def _among(self, plane: Tensor, geometry: _Geometry, entries: Entries, values: Tensor) -> Tensor:
        """Return some computed entries among the remembered ones, all of them in two dimensions."""
        if isinstance(entries, EntryMatrix):
            matrix = self._plane_of(entries.entries)
            return memo_at(conv2d_at(plane, *geometry, matrix), matrix, values)
        rows, columns = entries.pattern
        values[..., entries.top :: rows, entries.left :: columns] = conv2d_kept(plane, *geometry, entries)
        return values

    def _geometry(self, input: Tensor) -> tuple[Tensor, _Geometry]:
        """Return the input, (B, C_in, H, W), and the convolution in two dimensions, with padding of zeros alone."""
        around = list(self._reversed_padding_repeated_twice)
        if self.padding_mode != "zeros":
            input = F.pad(input, around, mode=self.padding_mode)
            around = [0] * len(around)
        if self.weight.dim() == 4:
            return input, _Geometry(self.weight, self.bias, self.stride, around, self.dilation, self.groups)
        return self._in_2d(input), _Geometry(
            self.weight.unsqueeze(2), self.bias, (1, *self.stride), (*around, 0, 0), (1, *self.dilation), self.groups
        )

    def _plane_of(self, entries: Tensor) -> Tensor:
        return entries if self.weight.dim() == 4 else entries.unsqueeze(1)

    def _in_2d(self, tensor: Tensor) -> Tensor:
        return tensor if self.weight.dim() == 4 else tensor.unsqueeze(2)

    def _back(self, output: Tensor) -> Tensor:
        return output if self.weight.dim() == 4 else output.squeeze(2)


class StanConv1d(_StanConvolution, nn.Conv1d):
    """An nn.Conv1d that computes only some of its entries while it trains; see StanConv2d."""


class StanConv2d(_StanConvolution, nn.Conv2d):
    """An nn.Conv2d that computes only the entries of `grid` while it trains; exact in evaluation or with no grid.

    `stantune.accelerate_` turns an nn.Conv2d into one in place, so that Parameters, hooks, names and every reference to
    the layer stay what they were.

    Attributes:
        natively_evaluated: whether native kernels compute the exact output in evaluation, too (`evaluated_natively`).
    """

    natively_evaluated: bool = False

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, C_out, H_out, W_out), of an input (B, C_in, H, W) or (C_in, H, W).

        In evaluation, and with nothing set on the layer, it is the original's.
        """
        if not self.training and self.is_native(input):
            return self.followed(input, Follow())  # type: ignore[no-any-return]
        return super().forward(input)

    def is_native(self, input: Tensor) -> bool:
        """Tell whether native kernels can do what this layer has to do now with an input (B, C_in, H, W)."""
        ready = self.memory is None if self.training else self.natively_evaluated
        return ready and self._has_kernels(input)

    def _has_kernels(self, input: Tensor) -> bool:
        return input.dim() == 4 and len(input) > 0 and has_native_form(self) and suits(input)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def followed(self, input: Tensor, follow: Follow) -> Tensor:
        """Return what a ReLU or a pooling after it makes of the layer's output; where `is_native` alone.

        Args:
            input: (B, C_in, H, W).
            follow: the ReLU and the pooling.

        Returns:
            (B, C_out, H_out, W_out), those of the pooling.
        """
        if self.training and self.passed is not None:
            self.passed()
        return self._natively(input, follow)

    def _trained_batch(self, input: Tensor) -> Tensor:
        if not self.is_native(input):
            return super()._trained_batch(input)
        output = self._natively(input, Follow())
        if self.watch is not None:
            self.watch(output.detach())
        return output

    def _natively(self, input: Tensor, follow: Follow) -> Tensor:
        around = self._reversed_padding_repeated_twice
        lists = None
        if self.training and self.grid is not None:
            lists = lists_of(self.grid, *output_size(input, self.weight, self.stride, around, self.dilation))
        return convolve(input, self.weight, self.bias, self.stride, around, lists, follow)

    def _whole(self, input: Tensor) -> Tensor:
        return self._natively(input, Follow()) if self._has_kernels(input) else super()._whole(input)

    def _among(self, plane: Tensor, geometry: _Geometry, entries: Entries, values: Tensor) -> Tensor:
        if not self._has_kernels(plane) or not values.is_contiguous(memory_format=torch.channels_last):
            return super()._among(plane, geometry, entries, values)
        weight, bias, stride, padding, *_ = geometry
        return convolve_into(values, plane, weight, bias, stride, padding, lists_among(entries, *values.shape[2:]))


def has_native_form(layer: nn.Module) -> bool:
    """Tell whether native kernels exist for a layer as it is: a plain 2-D convolution, float32, on a CPU."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.padding_mode == "zeros"
        and layer.groups == 1
        and tuple(layer.dilation) == (1, 1)
        and suits(layer.weight, layer.bias)
    )


class StanLinear(_StanLayer, nn.Linear):
    """An nn.Linear that computes only a drawn run of its neurons while it trains (memo fill).

    Which neurons is the same for all samples of a batch, so that the products stay dense.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, out_features), of an input (B, in_features).

        Inputs of other shapes, evaluation and a layer without memory are the original's.
        """
        if not self.training or input.dim() != 2 or not len(input) or self.memory is None:
            return super().forward(input)
        return self._with_memory(input, self.memory)  # type: ignore[no-any-return]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _with_memory(self, input: Tensor, memory: Memory) -> Tensor:
        recalled = memory.recall(_result_type(input))
        if recalled is None:
            output = super().forward(input)
            memory.remember(output.detach(), None)
            return output
        assert isinstance(recalled.entries, slice)
        output = linear_in_block(input, self.weight, self.bias, recalled.entries, recalled.values)
        memory.remember(output.detach(), recalled.entries)
        return output


def _result_type(input: Tensor) -> torch.dtype:
    """Return the type of a product with this input: autocast's where it is on."""
    kind = input.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
