"""Weights' gradients of convolutions with one input channel, such as a network's first on grey images, on CUDA devices.

cuDNN has one way for them that adds up in one order, and it takes longer than all else in a small network's step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stantune.kernels.library import switched_off

# Bytes of the matrices; those of a small network's grey images are a tenth of it.
MOST = 64 * 2**20


def with_fast_gradients_(model: nn.Module) -> int:
    """Have a network's convolutions of one input channel be OneChannelConv2d; return how many are that now.

    Nothing is changed, and 0 returned, where STANTUNE_KERNELS=off asks for PyTorch alone.
    """
    if switched_off():
        return 0
    chosen = [layer for layer in model.modules() if type(layer) is nn.Conv2d and suits(layer)]
    for layer in chosen:
        layer.__class__ = OneChannelConv2d
    return len(chosen)


def suits(layer: nn.Conv2d) -> bool:
    """Tell whether a layer is as it is written, and its weights can have their gradient by `weight_gradient`."""
    written = not {"forward", "_conv_forward"} & vars(layer).keys()
    return written and layer.in_channels == 1 and layer.padding_mode == "zeros" and layer.dilation == (1, 1)


class OneChannelConv2d(nn.Conv2d):
    """A convolution as PyTorch's, whose weights' gradient is a product of matrices for each image, and their sum.

    It is PyTorch's itself for other numbers than float32, under autocast, where its input is to have a gradient, and
    where the matrices would take more than MOST bytes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return PyTorch's result: (B, 1, H, W) to (B, O, H', W')."""
        if (
            not torch.is_grad_enabled()
            or not self.weight.requires_grad
            or input.requires_grad
            or input.dtype != torch.float32
            or input.dim() != 4
            or isinstance(self.padding, str)
            or torch.is_autocast_enabled(input.device.type)
            or self._bytes_seen(input) > MOST
        ):
            return super().forward(input)
        result: Tensor = _OneChannel.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.stride, self.padding
        )
        return result

    def _bytes_seen(self, input: Tensor) -> int:
        """Return the bytes of all windows that the filters see."""
        (above, beside), (down, across) = self._padded(), self.stride
        rows = (input.shape[2] + 2 * above - self.kernel_size[0]) // down + 1
        columns = (input.shape[3] + 2 * beside - self.kernel_size[1]) // across + 1
        return input.shape[0] * rows * columns * math.prod(self.kernel_size) * input.element_size()

    def _padded(self) -> tuple[int, int]:
        assert not isinstance(self.padding, str)
        above, beside = self.padding
        return above, beside


class _OneChannel(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, stride, padding = inputs
        ctx.save_for_backward(x)
        ctx.shape = weight.shape[2:], stride, padding

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return None, weight_gradient(x, gradient, *ctx.shape), of_bias, None, None


def weight_gradient(
    x: Tensor, gradient: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the gradient of a convolution's weights, (O, 1, k, l), given (B, 1, H, W) and (B, O, H', W')."""
    images, filters, rows, columns = gradient.shape
    padded = F.pad(x[:, 0], (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x[:, 0]
    windows = padded.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])
    # A product for each image: one of all positions of all images has few results, and would keep few cores busy.
    seen = windows.reshape(images, rows * columns, kernel[0] * kernel[1])
    of_images = torch.bmm(gradient.permute(0, 2, 3, 1).reshape(images, rows * columns, filters).transpose(1, 2), seen)
    return of_images.sum(0).view(filters, 1, *kernel)
