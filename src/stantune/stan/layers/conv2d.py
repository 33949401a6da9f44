"""The 2-D convolution that computes some of its entries: as any other, or by native kernels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from stantune.kernels.block.convolve import convolve, convolve_into
from stantune.kernels.block.follow import Follow
from stantune.kernels.block.lists import Lists
from stantune.kernels.gate import in_memory
from stantune.kernels.library import suits, wanted
from stantune.kernels.pays import Work, pays
from stantune.stan.eligible import as_written
from stantune.stan.entries.entries import Entries, EntryMatrix, Grid, check_entries
from stantune.stan.entries.lists import lists_among, lists_of
from stantune.stan.entries.strided import output_size
from stantune.stan.layers.convolution import StanConvolution
from stantune.stan.layers.geometry import Geometry, Window, hashable, read_window, whole, window_of
from stantune.stan.layers.stan_layer import in_backward
from stantune.stan.layers.stand_in import not_compiled


class StanConv2d(StanConvolution, nn.Conv2d):
    """An nn.Conv2d that computes only the entries of `grid` while it trains; exact in evaluation or with no grid.

    `stantune.accelerate_` turns an nn.Conv2d into one in place, so that Parameters, hooks, names and every reference to
    the layer stay what they were.

    Attributes:
        natively_evaluated: whether native kernels compute the exact output in evaluation, too (`evaluated_natively`).
    """

    natively_evaluated: bool = False
    original = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, C_out, H_out, W_out), of an input (B, C_in, H, W) or (C_in, H, W).

        In evaluation, and with nothing set on the layer, it is the original's.
        """
        if not isinstance(self, StanConv2d):
            return type(self).forward(self, input)
        if self.training:
            return self._named_exact(input) if self._is_idle(input) else self._trained(input)
        if self.natively_evaluated and self.is_native(input, Follow()):
            return self._natively(input, Follow(), None)
        return self._exact(input)

    def _is_idle(self, input: Tensor) -> bool:
        """Tell at once whether there is nothing to do here but the original's work: for small layers asking is dear."""
        return (
            self.grid is None
            and self.memory is None
            and self.watch is None
            and self.passed is None
            and type(input) is Tensor
            and not (input.is_nested or torch.compiler.is_compiling())
            and (self.earlier is None or not in_backward())
            # Under a parametrization each look at the weight computes it once more.
            and ("parametrizations" in self._modules or not self._takes(input, Follow()))
        )

    def _named_exact(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (last := self.__dict__.get("last")) is not None:
            last[None] = "reduced"  # it ran in this iteration
        try:
            return self._exact(input)
        except Exception as error:
            self._named(error)
            raise

    def is_native(self, input: Tensor, follow: Follow) -> bool:
        """Tell whether native kernels are to do what this layer and `follow` now do with an input (B, C_in, H, W)."""
        ready = self.memory is None if self.training else self.natively_evaluated
        return ready and as_written(self) and suits(input, self.weight, self.bias) and self._takes(input, follow)

    def _native_now(self, input: Tensor) -> bool:
        return wanted() and in_memory(input, self.weight, self.bias) and self._takes(input, Follow())

    def _takes(self, input: Tensor, follow: Follow) -> bool:
        """Tell whether settings and shapes are such, and native code pays: what PyTorch refuses is its to refuse."""
        # Asked at each pass of each layer, so that all that follows from numbers alone is kept.
        settings = (hashable(self.stride), hashable(self.padding), hashable(self.dilation), whole(self.groups))
        listed = self.training and (self.memory is not None or self.entries_now() is not None)
        planes = input.is_contiguous() and self.weight.is_contiguous()
        return _is_for_native(
            input.shape, self.weight.shape, settings, self.padding_mode, follow, listed, planes, torch.get_num_threads()
        )

    @not_compiled
    def followed(self, input: Tensor, follow: Follow, last: bool | None = None) -> Tensor:
        """Return what a ReLU or a pooling after it makes of the layer's output; where `is_native` alone.

        Args:
            input: (B, C_in, H, W).
            follow: the ReLU and the pooling.
            last: whether the output is to be channels last in memory; None as PyTorch would.

        Returns:
            (B, C_out, H_out, W_out), those of the pooling.
        """
        try:
            grid = self.entries_now() if self.training and self._begin() else None
            return self._natively(input, follow, grid, last)
        except Exception as error:
            self._named(error)
            raise

    def _natively(
        self, input: Tensor, follow: Follow, grid: Grid | EntryMatrix | None, last: bool | None = None
    ) -> Tensor:
        window = window_of(self)
        assert window is not None, "_is_for_native has asked"
        if grid is None:
            return convolve(input, self.weight, self.bias, window.stride, window.padding, None, follow, last)
        lists, mark = self._lists(input, window, grid), self.mark()
        return self.hold(
            convolve(input, self.weight, self.bias, window.stride, window.padding, lists, follow, last), mark
        )

    def _lists(self, input: Tensor, window: Window, grid: Grid | EntryMatrix) -> Lists | None:
        size = output_size(input, self.weight, window.stride, window.padding, window.dilation)
        if not len(input):
            return None
        if isinstance(grid, EntryMatrix):
            check_entries(grid.entries, (len(input), *size))
        else:
            self.note(grid.fills(*size), size)
        return lists_of(grid, *size)

    def _whole(self, input: Tensor, native: bool) -> Tensor:
        return self._natively(input, Follow(), None) if native else super()._whole(input, native)

    def _at(self, plane: Tensor, geometry: Geometry, entries: Entries, native: bool) -> Tensor:
        if not native:
            return super()._at(plane, geometry, entries, native)
        weight, bias, stride, padding, dilation, _ = geometry
        lists = self._lists(plane, Window(tuple(stride), tuple(padding), tuple(dilation)), entries)
        mark = self.mark()
        return self.hold(convolve(plane, weight, bias, stride, padding, lists, Follow()), mark)

    def _among(self, plane: Tensor, geometry: Geometry, entries: Entries, values: Tensor, native: bool) -> Tensor:
        if not native or not values.is_contiguous(memory_format=torch.channels_last):
            return super()._among(plane, geometry, entries, values, native)
        weight, bias, stride, padding, *_ = geometry
        return convolve_into(values, plane, weight, bias, stride, padding, lists_among(entries, *values.shape[2:]))


@lru_cache(maxsize=4096)
def _is_for_native(
    input: torch.Size,
    weight: torch.Size,
    settings: tuple[Any, Any, Any, Any],
    padding_mode: str,
    follow: Follow,
    listed: bool,
    planes: bool,
    threads: int,
) -> bool:
    """Tell whether native code is to do a convolution.

    Args:
        input: its shape.
        weight: its shape.
        settings: stride, padding and dilation, as `hashable` makes them, and groups, as `whole` does.
        padding_mode: the layer's.
        follow: what follows it.
        listed: whether only some entries are computed, for which PyTorch has no form.
        planes: whether input and weight are contiguous, not channels last.
        threads: PyTorch's number of them.
    """
    stride, padding, dilation, groups = settings
    if len(input) not in (3, 4) or padding_mode != "zeros" or groups != 1 or input[-3] != weight[1]:
        return False
    try:
        window = read_window(weight[2:], stride, padding, dilation)
    except (TypeError, ValueError):
        return False
    if window is None or window.dilation != (1, 1):
        return False
    left, right, top, bottom = window.padding
    rows = (input[-2] + top + bottom - weight[2]) // window.stride[0] + 1
    columns = (input[-1] + left + right - weight[3]) // window.stride[1] + 1
    if min(rows, columns) < 1:
        return False
    if listed:
        return True
    batch = input[0] if len(input) == 4 else 1
    kernel, size = (weight[2], weight[3]), (input[-2], input[-1])
    down, across = window.stride
    work = Work(batch, weight[1], weight[0], kernel, (down, across), size, (rows, columns), planes)
    return pays(work, follow, threads)


def has_native_form(layer: nn.Module) -> bool:
    """Tell whether native kernels exist for a layer as it is: a plain 2-D convolution, float32, on a CPU."""
    if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros" or layer.groups != 1 or not as_written(layer):
        return False
    window = window_of(layer)
    return window is not None and window.dilation == (1, 1) and suits(layer.weight, layer.bias)
