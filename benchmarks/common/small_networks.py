"""Everyday networks for benchmarks that need no other package, mostly narrow: ResNet-18, VGG, U-Net, SqueezeNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of the built-in data: (C, H, W).
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


class Residual(nn.Module):
    """ResNet's basic block (He et al. 2016)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, filters, H / stride, W / stride)."""
        output = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(input)))))
        return F.relu(output + self.shortcut(input))


def resnet18(width: int = 16, classes: int = 10) -> nn.Module:
    """Return a ResNet-18 whose first stage has `width` channels instead of 64."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = width
    for stage in range(4):
        filters = width << stage
        layers += [Residual(channels, filters, 2 if stage else 1), Residual(filters, filters, 1)]
        channels = filters
    return _initialised(nn.Sequential(*layers, *_head(channels, classes)))


def resnet18_for_32(classes: int = 10) -> nn.Module:
    """Return a ResNet-18 for images of 32x32: a 3x3 stem, and no pooling behind it."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Residual(channels, filters, stride), Residual(filters, filters, 1)]
        channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def vgg(width: int = 16, classes: int = 10, norm: bool = True) -> nn.Module:
    """Return a VGG-13 with global average pooling whose first stage has `width` channels instead of 64."""
    layers: list[nn.Module] = []
    channels = 3
    for factor in (1, 2, 4, 8, 8):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width * factor, 3, padding=1)]
            layers += [nn.BatchNorm2d(width * factor), nn.ReLU()] if norm else [nn.ReLU()]
            channels = width * factor
        layers.append(nn.MaxPool2d(2))
    return _initialised(nn.Sequential(*layers, *_head(channels, classes)))


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) with batch norm and padding, `width` instead of 64 channels at the top."""

    def __init__(self, width: int = 8, depth: int = 4, classes: int = 10) -> None:
        super().__init__()
        widths = [width << stage for stage in range(depth + 1)]
        self.down = nn.ModuleList(
            _double(before, filters) for before, filters in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * filters, filters, 2, 2) for filters in widths[-2::-1])
        self.merge = nn.ModuleList(_double(2 * filters, filters) for filters in widths[-2::-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the classes' scores of each pixel, (B, classes, H, W)."""
        kept: list[Tensor] = []
        for stage, block in enumerate(self.down):
            images = block(F.max_pool2d(images, 2) if stage else images)
            kept.append(images)
        for up, merge, before in zip(self.up, self.merge, kept[-2::-1], strict=True):
            images = merge(torch.cat([before, up(images)], 1))
        return self.head(images)  # type: ignore[no-any-return]


class Fire(nn.Module):
    """SqueezeNet's block (Iandola et al. 2016)."""

    def __init__(self, channels: int, squeezed: int, filters: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(channels, squeezed, 1), nn.ReLU())
        self.expand1 = nn.Sequential(nn.Conv2d(squeezed, filters, 1), nn.ReLU())
        self.expand3 = nn.Sequential(nn.Conv2d(squeezed, filters, 3, padding=1), nn.ReLU())

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, 2 filters, H, W)."""
        squeezed = self.squeeze(input)
        return torch.cat([self.expand1(squeezed), self.expand3(squeezed)], 1)


def squeezenet(classes: int = 10) -> nn.Module:
    """Return SqueezeNet 1.1 without its dropout."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool()),
        *(Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192)),
        *(Fire(384, 64, 256), Fire(512, 64, 256)),
        *(nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _double(channels: int, filters: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before in (channels, filters):
        layers += [nn.Conv2d(before, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
    return nn.Sequential(*layers)


def _initialised(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
