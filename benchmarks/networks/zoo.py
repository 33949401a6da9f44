"""Networks as people train them, from torchvision, timm, transformers and others, with random weights, of small images.

They need the extra `models`: torchvision, timm, transformers, segmentation-models-pytorch, monai.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64
CLASSES = 10
PACKAGES = ("torchvision", "timm", "transformers", "segmentation_models_pytorch", "monai.networks.nets")


@dataclass(frozen=True)
class Network:
    """A network of the zoo.

    Attributes:
        kind: what kinds of network the docs tell apart.
        make: builds it, with random weights by torch's seed.
        task: what a label, one per image, is of: the image, each of its pixels, or a box in its middle.
    """

    kind: str
    make: Callable[[], nn.Module]
    task: Literal["image", "pixels", "box"] = "image"

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of an output (B, 10), (B, 10, H, W) or, of boxes, the loss itself.

        Args:
            output: of the network.
            labels: one per image, (B,).
        """
        if self.task == "box":
            return output
        if self.task == "pixels":
            labels = labels[:, None, None].expand(-1, *output.shape[2:])
        return F.cross_entropy(output, labels)


class Output(nn.Module):
    """A network whose output is a mapping or an object; this is the part of it that is trained, a tensor."""

    def __init__(self, network: nn.Module, part: str) -> None:
        """Take a network and the part's name."""
        super().__init__()
        self.network = network
        self.part = part

    def forward(self, images: Tensor) -> Tensor:
        """Return the part, (B, C, H, W), of images (B, 3, H, W)."""
        return self.network(images)[self.part]  # type: ignore[no-any-return]


class Detector(nn.Module):
    """A detector: each image has one box, in its middle; what it returns is its own loss, in evaluation its scores."""

    def __init__(self, network: nn.Module) -> None:
        """Take a detector of torchvision's."""
        super().__init__()
        self.network = network
        self.labels = torch.zeros(0, dtype=torch.int64)

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss, a scalar, of images (B, 3, H, W) under `labels` (B,), of class 0 where there are none.

        In evaluation the scores of all boxes that it finds, (N,).
        """
        if not self.training:
            return torch.cat([found["scores"] for found in self.network(list(images))])
        labels = self.labels if len(self.labels) == len(images) else torch.zeros(len(images), dtype=torch.int64)
        size = images.shape[-1]
        box = images.new_tensor([[size / 8, size / 8, size * 7 / 8, size * 7 / 8]])
        targets = [{"boxes": box, "labels": label.reshape(1)} for label in labels]
        losses: dict[str, Tensor] = self.network(list(images), targets)
        return torch.stack(list(losses.values())).sum()


def _of(module: str, name: str, **given: Any) -> Callable[[], nn.Module]:
    """Return a function that imports and calls what makes a network."""

    def make() -> nn.Module:
        return getattr(importlib.import_module(module), name)(**given)  # type: ignore[no-any-return]

    return make


def _torchvision(name: str, **given: Any) -> Callable[[], nn.Module]:
    return _of("torchvision.models", name, weights=None, num_classes=CLASSES, **given)


def _timm(name: str, **given: Any) -> Callable[[], nn.Module]:
    return _of("timm", "create_model", model_name=name, pretrained=False, num_classes=CLASSES, **given)


def _vgg11() -> nn.Module:
    """Return a VGG as it is used for small images: its three dense layers, of 120 million weights, are one."""
    network: Any = _torchvision("vgg11_bn")()
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(512, CLASSES)
    return network  # type: ignore[no-any-return]


def _segmentation(name: str) -> Callable[[], nn.Module]:
    make = _of("torchvision.models.segmentation", name, weights=None, weights_backbone=None, num_classes=CLASSES)
    return lambda: Output(make(), "out")


def _fcn() -> nn.Module:
    """Return torchvision's FCN, on a ResNet-18: on a ResNet-50 a step at batch 64 takes ten seconds."""
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    backbone = IntermediateLayerGetter(resnet18(weights=None), {"layer4": "out"})
    return Output(FCN(backbone, FCNHead(512, CLASSES)), "out")


def _segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return Output(SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES)), "logits")


def _retinanet() -> nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return Detector(RetinaNet(backbone, CLASSES, min_size=SIDE, max_size=SIDE))


RESIDUAL, PLAIN, DENSE = "residual, 3x3", "plain, 3x3", "concatenating"
SEPARABLE, GROUPED = "depthwise separable", "grouped"
SEGMENTING, U_NET = "segmentation", "U-Net"
ATTENTION, OTHER_LAYERS, DETECTING = "attention", "convolutions of its own class", "detector"

ZOO = {
    "resnet18": Network(RESIDUAL, _torchvision("resnet18")),
    "resnet50": Network("residual, 1x1 and 3x3", _torchvision("resnet50")),
    "vgg11_bn": Network(PLAIN, _vgg11),
    "repvgg_a0": Network(PLAIN, _timm("repvgg_a0")),
    "densenet121": Network(DENSE, _torchvision("densenet121")),
    "googlenet": Network(DENSE, _torchvision("googlenet", aux_logits=False, init_weights=False)),
    "squeezenet1_1": Network(DENSE, _torchvision("squeezenet1_1")),
    "hrnet_w18_small": Network(RESIDUAL, _timm("hrnet_w18_small")),
    "mobilenet_v2": Network(SEPARABLE, _torchvision("mobilenet_v2")),
    "mobilenet_v3_small": Network(SEPARABLE, _torchvision("mobilenet_v3_small")),
    "efficientnet_b0": Network(SEPARABLE, _torchvision("efficientnet_b0")),
    "shufflenet_v2": Network(SEPARABLE, _torchvision("shufflenet_v2_x1_0")),
    "convnext_atto": Network(SEPARABLE, _timm("convnext_atto")),
    "regnet_y_400mf": Network(GROUPED, _torchvision("regnet_y_400mf")),
    "resnext26ts": Network(GROUPED, _timm("resnext26ts")),
    "nf_regnet_b0": Network(OTHER_LAYERS, _timm("nf_regnet_b0")),
    "unet_resnet18": Network(
        U_NET,
        _of("segmentation_models_pytorch", "Unet", encoder_name="resnet18", encoder_weights=None, classes=CLASSES),
        "pixels",
    ),
    "unet_monai": Network(
        U_NET,
        _of(
            "monai.networks.nets",
            "UNet",
            spatial_dims=2,
            in_channels=3,
            out_channels=CLASSES,
            channels=(16, 32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            num_res_units=2,
        ),
        "pixels",
    ),
    "fcn_resnet18": Network(SEGMENTING, _fcn, "pixels"),
    "deeplabv3_mobilenet": Network(SEGMENTING, _segmentation("deeplabv3_mobilenet_v3_large"), "pixels"),
    "lraspp_mobilenet": Network(SEGMENTING, _segmentation("lraspp_mobilenet_v3_large"), "pixels"),
    "retinanet_resnet18": Network(DETECTING, _retinanet, "box"),
    "vit_tiny": Network(ATTENTION, _timm("vit_tiny_patch16_224", img_size=SIDE, patch_size=8)),
    "mobilevit_xs": Network(ATTENTION, _timm("mobilevit_xs")),
    "segformer_b0": Network(ATTENTION, _segformer, "pixels"),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """Return a network of the zoo, its weights by this seed."""
    torch.manual_seed(seed)
    return ZOO[name].make().train()


def batch_of(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random images (size, 3, 64, 64) and labels (size,), always the same of one seed."""
    chance = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, SIDE, SIDE, generator=chance)
    return images, torch.randint(CLASSES, (size,), generator=chance)


def loss_of(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss, a scalar, of a batch: images (B, 3, H, W), labels (B,)."""
    if isinstance(model, Detector):
        model.labels = labels
    return ZOO[name].loss(model(images), labels)


def without_chance(model: nn.Module) -> nn.Module:
    """Switch off dropout of all kinds, so that gradients can be compared; the rest goes on training."""
    for module in model.modules():
        if "drop" in type(module).__name__.lower() or type(module).__name__ == "StochasticDepth":
            module.eval()
    return model


def relative(error: float, size: float) -> float:
    """Return an error as a share of what it is of; infinite where that is nothing."""
    return error / size if size else math.inf
