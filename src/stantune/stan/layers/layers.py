"""The layers that STAN puts in place of PyTorch's: they compute some of their entries and fill the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from threading import get_ident
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune.errors import StanWarning
from stantune.kernels.blocks import Follow, Lists, convolve, convolve_into, is_last
from stantune.kernels.gate import DEVICES, common_device, in_memory, ordinary, transformed
from stantune.kernels.library import suits, wanted
from stantune.kernels.pays import Work, pays
from stantune.stan.eligible import as_written
from stantune.stan.entries.entries import Entries, EntryMatrix, Grid, check_entries
from stantune.stan.entries.fill import memo_at
from stantune.stan.entries.filled import Convolution, convolve_filled
from stantune.stan.entries.lists import lists_among, lists_of
from stantune.stan.entries.positions import conv2d_at
from stantune.stan.entries.strided import conv2d_kept, output_size
from stantune.stan.layers.linear import linear_in_block
from stantune.stan.layers.stand_in import StandIn, not_compiled


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


class _StanLayer(StandIn):
    """What the handle sets on a layer for one iteration; a copied or pickled layer has none of it and is exact.

    Attributes:
        grid: the entries to compute, an EntryMatrix of a 1-D layer being (B, L); None for all.
        watch: called with the exact output, without its graph, where `grid` is None.
        memory: what skipped entries receive under the memo fill.
        passed: called at each forward pass in training.
        stan_name: the layer's name in the model, for errors.
        original: PyTorch's class of such layers.
        sizes: (H_out, W_out) of the last output that was large enough to be filled, under True, and of the last that
            was not, under False; None where nobody asks.
        last: what the last training pass of each thread, by its number, was; under None that of any thread. "reduced"
            if it might be, "without gradients" or "not plain" (`kernels.gate`) if it was exact for that.
    """

    grid: Grid | EntryMatrix | None = None
    watch: Callable[[Tensor], None] | None = None
    memory: Memory | None = None
    passed: Callable[[], None] | None = None
    stan_name: str | None = None
    sizes: dict[bool, tuple[int, int]] | None = None
    last: dict[int | None, str]
    original: ClassVar[type[nn.Module]]

    def __getstate__(self) -> dict[str, Any]:
        dropped = set(SET_BY_HANDLE) - {"__module__"}  # a copy stands in for the same class
        return {key: value for key, value in self.__dict__.items() if key not in dropped}

    def _begin(self) -> bool:
        """Say that a pass in training begins; tell whether it may be reduced, watched and remembered.

        A pass without gradients trains nothing: it takes statistics (`update_bn`), or it is the first pass of a
        reentrant checkpoint. It is exact, and so is what such a checkpoint computes again in the backward pass: its
        gradients are then those of what the loss has seen.
        """
        if not torch.is_grad_enabled():
            self._took("without gradients")
            return False
        last = self._took("reduced")
        if last == "without gradients":
            _say_reentrant()
        if last != "reduced":
            return False
        if self.passed is not None:
            self.passed()
        return True

    def note(self, fills: bool, size: tuple[int, int]) -> None:
        """Take down an output's size, (H_out, W_out), and whether it was large enough to be filled."""
        if self.sizes is not None:
            self.sizes[fills] = size

    def _took(self, pass_: str) -> str:
        """Take down what a pass is; return what it has to be, if it is one again: within a backward pass."""
        # Other threads may be at this layer, too, such as one that only evaluates; PyTorch's own go backward only.
        last, thread = self.__dict__.setdefault("last", {}), get_ident()
        if torch._C._current_graph_task_id() != -1:
            return last.get(thread, last.get(None, pass_))  # type: ignore[no-any-return]
        last[thread] = last[None] = pass_
        return pass_

    def _named(self, error: Exception) -> None:
        """Add the layer's name to an error of PyTorch's."""
        if self.stan_name is not None:
            error.add_note(f"in layer {self.stan_name!r}" if self.stan_name else "in the model, a single layer")


SET_BY_HANDLE = ("grid", "watch", "memory", "passed", "stan_name", "sizes", "last", "__module__")


@cache
def _say_reentrant() -> None:
    """Say, once in a process, why a model that is checkpointed in this way computes every entry."""
    warnings.warn(
        "layers within a reentrant checkpoint train exactly, since its first pass has no gradients; give checkpoint "
        "use_reentrant=False for STAN to reduce them",
        StanWarning,
        stacklevel=2,
    )


# What autocast makes one type of.
_CAST = {torch.float32, torch.bfloat16, torch.float16}


class _Geometry(NamedTuple):
    """A convolution's arguments after the input, as `conv2d_kept` takes them, in two dimensions."""

    weight: Tensor
    bias: Tensor | None
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


class _Window(NamedTuple):
    """Settings of a convolution, each with as many numbers as it has sides, the padding in F.pad's order."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


class _StanConvolution(_StanLayer, nn.modules.conv._ConvNd):
    """What StanConv1d and StanConv2d share. A 1-D convolution is a 2-D one of a single row."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, C_out, H_out, W_out), of an input (B, C_in, H, W) or (C_in, H, W).

        In evaluation, and with nothing set on the layer, it is the original's. So it is for all tensors and modes that
        are not plain (`kernels.gate`), and for what the original refuses. (In one dimension there is no H.)
        """
        return self._trained(input) if self.training else self._exact(input)

    def _exact(self, input: Tensor) -> Tensor:
        return super().forward(input)  # type: ignore[no-any-return]  # nn.Conv1d's or nn.Conv2d's

    @not_compiled
    def _trained(self, input: Tensor) -> Tensor:
        try:
            device = self._device(input)
            if not device:
                self._took("not plain")
                return self._exact(input)
            single = input.dim() == self.weight.dim() - 1
            if single and self.padding_mode != "zeros":
                return self._exact(input)  # whose padding has words of its own for it
            native = device == "CPU" and self._native_now(input)
            reduces = self._begin()
            if single:
                return self._trained_batch(input.unsqueeze(0), reduces, native).squeeze(0)
            return self._trained_batch(input, reduces, native)
        except Exception as error:
            self._named(error)
            raise

    def _device(self, input: Tensor) -> str:
        """Return the device of input and parameters, "" where STAN's own forms were not made for what they are now."""
        if input is None or not as_written(self):
            return ""
        if ordinary():
            device = common_device(input, self.weight, self.bias)
            if not device or not input.dtype.is_floating_point:
                return ""  # nothing spreads the entries of complex numbers
            if input.dtype == self.weight.dtype:
                return device
            both = {input.dtype, self.weight.dtype}
            return device if both <= _CAST and torch.is_autocast_enabled(device.lower()) else ""
        # Transforms also compute a reduced pass a second time (gradients of each sample), which must be the same pass.
        plain = type(input) is Tensor and input.dtype == self.weight.dtype and input.device.type.upper() in DEVICES
        plain = plain and input.dtype.is_floating_point
        reduces = self.memory is None and isinstance(self.grid, Grid) and plain
        return "transformed" if reduces and transformed() else ""

    def _native_now(self, input: Tensor) -> bool:
        """Tell whether native kernels can take this input, plain and on the CPU as it and the parameters are."""
        return False

    def _trained_batch(self, input: Tensor, reduces: bool, native: bool) -> Tensor:
        # Once each: the handle may go on meanwhile, in another thread.
        grid, memory, watch = self.grid, self.memory, self.watch
        if not reduces or (grid is None and memory is None):
            output = self._whole(input, native)
            if reduces and watch is not None:
                watch(self._in_2d(output.detach()))
            return output
        found = self._geometry(input)
        if found is None:
            return self._exact(input)
        plane, geometry = found
        if memory is not None:
            return self._with_memory(input, plane, geometry, memory, native)
        assert grid is not None
        grid = grid if isinstance(grid, Grid) else EntryMatrix(self._plane_of(grid.entries))
        return self._back(self._at(plane, geometry, grid, native))

    def _with_memory(self, input: Tensor, plane: Tensor, geometry: _Geometry, memory: Memory, native: bool) -> Tensor:
        weight, _, stride, padding, dilation, _ = geometry
        recalled = memory.recall(_result_type(input))
        size = output_size(plane, weight, stride, padding, dilation)
        if recalled is None or (isinstance(recalled.entries, Grid) and not recalled.entries.covers(*size)):
            output = self._whole(input, native)
            memory.remember(output.detach(), None)
            return output
        assert not isinstance(recalled.entries, slice)
        # A view that is written into would have its whole base's gradient made and cut again.
        values = self._in_2d(recalled.values).detach()
        output = self._among(plane, geometry, recalled.entries, values, native)
        memory.remember(self._back(output.detach()), recalled.entries)
        return self._back(self._laid_out(output, plane, weight))

    def _whole(self, input: Tensor, native: bool) -> Tensor:
        """Return every entry."""
        return self._exact(input)

    def _at(self, plane: Tensor, geometry: _Geometry, entries: Entries, native: bool) -> Tensor:
        """Return some computed entries and the others filled from them, all of them in two dimensions."""
        convolution = Convolution(plane, *geometry)
        if isinstance(entries, Grid):
            self.note(entries.fills(*convolution.out), convolution.out)
        output = convolve_filled(convolution, entries)
        return output if isinstance(entries, Grid) else self._laid_out(output, plane, geometry.weight)

    def _among(self, plane: Tensor, geometry: _Geometry, entries: Entries, values: Tensor, native: bool) -> Tensor:
        """Return some computed entries among the remembered ones, all of them in two dimensions."""
        if isinstance(entries, EntryMatrix):
            matrix = self._plane_of(entries.entries)
            return memo_at(conv2d_at(plane, *geometry, matrix), matrix, values)
        rows, columns = entries.pattern
        values[..., entries.top :: rows, entries.left :: columns] = conv2d_kept(plane, *geometry, entries)
        return values

    def _window(self) -> _Window | None:
        """Return stride, padding and dilation as they are now, None where the original would not take them."""
        try:
            return _window_of(
                self.weight.shape[2:],
                _hashable(self.stride),
                # The original, too, reads either the one or the other.
                _hashable(self.padding if self.padding_mode == "zeros" else [0]),
                _hashable(self.dilation),
            )
        except (TypeError, ValueError):
            return None

    def _geometry(self, input: Tensor) -> tuple[Tensor, _Geometry] | None:
        """Return the input, (B, C_in, H, W), and the convolution in two dimensions, with padding of zeros alone.

        None for what the original refuses; it says why in its own words then.
        """
        window, weight, bias, groups = self._window(), self.weight, self.bias, self.groups
        if (
            window is None
            or input.dim() != weight.dim()
            or not input.numel()
            or type(groups) is not int
            or input.shape[1] != weight.shape[1] * groups
        ):
            return None
        around = list(window.padding)
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        stride, dilation = window.stride, window.dilation
        if weight.dim() == 3:
            input, weight = self._in_2d(input), weight.unsqueeze(2)
            stride, dilation, around = (1, *stride), (1, *dilation), [*around, 0, 0]
        if (
            len(weight) % groups
            or not weight.numel()
            or (bias is not None and bias.shape != weight.shape[:1])
            or min(output_size(input, weight, stride, around, dilation)) < 1
        ):
            return None
        return input, _Geometry(weight, bias, stride, around, dilation, groups)

    def _laid_out(self, output: Tensor, plane: Tensor, weight: Tensor) -> Tensor:
        """Return an output in two dimensions in the memory format that the original's would have."""
        last = is_last(plane) or is_last(weight)
        return output.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def _plane_of(self, entries: Tensor) -> Tensor:
        return entries if self.weight.dim() == 4 else entries.unsqueeze(1)

    def _in_2d(self, tensor: Tensor) -> Tensor:
        return tensor if self.weight.dim() == 4 else tensor.unsqueeze(2)

    def _back(self, output: Tensor) -> Tensor:
        return output if self.weight.dim() == 4 else output.squeeze(2).contiguous()


def _hashable(setting: object) -> Any:
    return tuple(setting) if isinstance(setting, list) else setting


@lru_cache(maxsize=1024)
def _window_of(kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any) -> _Window | None:
    """Return a layer's settings as F.conv2d reads them; None where it refuses them, or might."""
    sides = len(kernel)

    def numbers(setting: Any) -> tuple[int, ...]:
        several = setting if isinstance(setting, tuple) else (setting,)
        several = several * sides if len(several) == 1 else several
        if len(several) != sides or any(type(number) is not int for number in several):
            raise ValueError(setting)
        return several

    strides, dilations = numbers(stride), numbers(dilation)
    if min(*strides, *dilations) < 1:
        return None
    if padding == "same":
        if max(strides) != 1:
            return None
        spans = [step * (taps - 1) for step, taps in zip(dilations, kernel, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in spans]
    elif padding == "valid":
        pairs = [(0, 0)] * sides
    else:
        pairs = [(number, number) for number in numbers(padding)]
    around = tuple(number for pair in reversed(pairs) for number in pair)
    return None if min(around) < 0 else _Window(strides, around, dilations)


class StanConv1d(_StanConvolution, nn.Conv1d):
    """An nn.Conv1d that computes only some of its entries while it trains; see StanConv2d."""

    original = nn.Conv1d


class StanConv2d(_StanConvolution, nn.Conv2d):
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
            and not self._takes(input, Follow())
        )

    def _named_exact(self, input: Tensor) -> Tensor:
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
        settings = (_hashable(self.stride), _hashable(self.padding), _hashable(self.dilation), self.groups)
        listed = self.training and (self.grid is not None or self.memory is not None)
        planes = input.is_contiguous() and self.weight.is_contiguous()
        return _is_for_native(input.shape, self.weight.shape, settings, self.padding_mode, follow, listed, planes)

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
            grid = self.grid if self.training and self._begin() else None
            return self._natively(input, follow, grid, last)
        except Exception as error:
            self._named(error)
            raise

    def _natively(
        self, input: Tensor, follow: Follow, grid: Grid | EntryMatrix | None, last: bool | None = None
    ) -> Tensor:
        window = self._window()
        assert window is not None, "_is_for_native has asked"
        lists = None if grid is None else self._lists(input, window, grid)
        return convolve(input, self.weight, self.bias, window.stride, window.padding, lists, follow, last)

    def _lists(self, input: Tensor, window: _Window, grid: Grid | EntryMatrix) -> Lists | None:
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

    def _at(self, plane: Tensor, geometry: _Geometry, entries: Entries, native: bool) -> Tensor:
        if not native:
            return super()._at(plane, geometry, entries, native)
        weight, bias, stride, padding, dilation, _ = geometry
        lists = self._lists(plane, _Window(tuple(stride), tuple(padding), tuple(dilation)), entries)
        return convolve(plane, weight, bias, stride, padding, lists, Follow())

    def _among(self, plane: Tensor, geometry: _Geometry, entries: Entries, values: Tensor, native: bool) -> Tensor:
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
) -> bool:
    """Tell whether native code is to do a convolution.

    Args:
        input: its shape.
        weight: its shape.
        settings: stride, padding, dilation and groups, as the layer has them.
        padding_mode: the layer's.
        follow: what follows it.
        listed: whether only some entries are computed, for which PyTorch has no form.
        planes: whether input and weight are contiguous, not channels last.
    """
    stride, padding, dilation, groups = settings
    if len(input) not in (3, 4) or padding_mode != "zeros" or groups != 1 or input[-3] != weight[1]:
        return False
    try:
        window = _window_of(weight[2:], stride, padding, dilation)
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
    return pays(Work(batch, weight[1], weight[0], kernel, (down, across), size, (rows, columns), planes), follow)


def has_native_form(layer: nn.Module) -> bool:
    """Tell whether native kernels exist for a layer as it is: a plain 2-D convolution, float32, on a CPU."""
    if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros" or layer.groups != 1 or not as_written(layer):
        return False
    window = _StanConvolution._window(layer)  # type: ignore[arg-type]  # it asks for nothing but settings
    return window is not None and window.dilation == (1, 1) and suits(layer.weight, layer.bias)


class StanLinear(_StanLayer, nn.Linear):
    """An nn.Linear that computes only a drawn run of its neurons while it trains (memo fill).

    Which neurons is the same for all samples of a batch, so that the products stay dense.
    """

    original = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, out_features), of an input (B, in_features).

        Inputs of other shapes, evaluation and a layer without memory are the original's.
        """
        memory = self.memory
        return super().forward(input) if not self.training or memory is None else self._trained(input, memory)

    @not_compiled
    def _trained(self, input: Tensor, memory: Memory) -> Tensor:
        try:
            if not self._takes(input) or not self._begin():
                return super().forward(input)
            return self._with_memory(input, memory)
        except Exception as error:
            self._named(error)
            raise

    def _takes(self, input: Tensor) -> bool:
        """Tell whether this is a plain batch for the layer; what is not, its original takes or refuses."""
        return (
            input is not None
            and ordinary()
            and "parametrizations" not in self._modules
            and bool(common_device(input, self.weight, self.bias))
            and input.dim() == 2
            and len(input) > 0
            and input.shape[1] == self.weight.shape[1]
        )

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
