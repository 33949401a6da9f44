"""A convolution that computes some of its entries and fills the others, in PyTorch's operations; in one dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune.kernels.block.layout import is_last
from stantune.kernels.gate import DEVICES, common_device, ordinary, transformed
from stantune.stan.eligible import as_written
from stantune.stan.entries.entries import Entries, EntryMatrix, Grid
from stantune.stan.entries.fill import memo_at
from stantune.stan.entries.filled import Convolution, convolve_filled
from stantune.stan.entries.positions import conv2d_at
from stantune.stan.entries.strided import conv2d_kept, output_size
from stantune.stan.layers.geometry import Geometry, whole, window_of
from stantune.stan.layers.stan_layer import Memory, StanLayer, in_backward, result_type
from stantune.stan.layers.stand_in import not_compiled

# What autocast makes one type of.
_CAST = {torch.float32, torch.bfloat16, torch.float16}


class StanConvolution(StanLayer, nn.modules.conv._ConvNd):
    """What StanConv1d and StanConv2d share. A 1-D convolution is a 2-D one of a single row."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, C_out, H_out, W_out), of an input (B, C_in, H, W) or (C_in, H, W).

        In evaluation, and with nothing set on the layer, it is the original's. So it is for all tensors and modes that
        are not plain (`kernels.gate`), and for what the original refuses. (In one dimension there is no H.)
        """
        if not isinstance(self, StanConvolution):
            return type(self).forward(self, input)
        return self._trained(input) if self.training else self._exact(input)

    def _exact(self, input: Tensor) -> Tensor:
        return super().forward(input)  # type: ignore[no-any-return]  # nn.Conv1d's or nn.Conv2d's

    @not_compiled
    def _trained(self, input: Tensor) -> Tensor:
        try:
            device = self._device(input)
            if not device or self.came_by_others():
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
        reduces = self.memory is None and isinstance(self.entries_now(), Grid) and plain
        return "transformed" if reduces and transformed() else ""

    def _native_now(self, input: Tensor) -> bool:
        """Tell whether native kernels can take this input, plain and on the CPU as it and the parameters are."""
        return False

    def _trained_batch(self, input: Tensor, reduces: bool, native: bool) -> Tensor:
        # Once each: the handle may go on meanwhile, in another thread.
        grid, memory, watch = self.entries_now(), self.memory, self.watch
        if not reduces or (grid is None and memory is None):
            output = self._whole(input, native)
            if reduces and watch is not None and not in_backward():
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

    def _with_memory(self, input: Tensor, plane: Tensor, geometry: Geometry, memory: Memory, native: bool) -> Tensor:
        weight, _, stride, padding, dilation, _ = geometry
        size = output_size(plane, weight, stride, padding, dilation)
        sides = size if self.weight.dim() == 4 else size[1:]
        recalled = memory.recall(result_type(input), (len(input), len(weight), *sides))
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

    def _at(self, plane: Tensor, geometry: Geometry, entries: Entries, native: bool) -> Tensor:
        """Return some computed entries and the others filled from them, all of them in two dimensions."""
        convolution = Convolution(plane, *geometry)
        if isinstance(entries, Grid):
            self.note(entries.fills(*convolution.out), convolution.out)
        mark = self.mark()
        output = self.hold(convolve_filled(convolution, entries), mark)
        return output if isinstance(entries, Grid) else self._laid_out(output, plane, geometry.weight)

    def _among(self, plane: Tensor, geometry: Geometry, entries: Entries, values: Tensor, native: bool) -> Tensor:
        """Return some computed entries among the remembered ones, all of them in two dimensions."""
        if isinstance(entries, EntryMatrix):
            matrix = self._plane_of(entries.entries)
            return memo_at(conv2d_at(plane, *geometry, matrix), matrix, values)
        rows, columns = entries.pattern
        values[..., entries.top :: rows, entries.left :: columns] = conv2d_kept(plane, *geometry, entries)
        return values

    def _geometry(self, input: Tensor) -> tuple[Tensor, Geometry] | None:
        """Return the input, (B, C_in, H, W), and the convolution in two dimensions, with padding of zeros alone.

        None for what the original refuses; it says why in its own words then.
        """
        window, weight, bias, groups = window_of(self), self.weight, self.bias, whole(self.groups)
        if (
            window is None
            or input.dim() != weight.dim()
            or not input.numel()
            or groups is None
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
        return input, Geometry(weight, bias, stride, around, dilation, groups)

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


class StanConv1d(StanConvolution, nn.Conv1d):
    """An nn.Conv1d that computes only some of its entries while it trains; see StanConv2d."""

    original = nn.Conv1d
