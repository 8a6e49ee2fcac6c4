"""Residual networks (He et al. 2016) for small images.

`resnet18` and `resnet50` are the ImageNet networks with a 3x3 stem and no early pooling, as released with Yuan et al.
2020 (there an average over 4x4 at the end: the same at 32x32). `resnet8`, 14, 20, 26, 32, 56 and 110 are the CIFAR
family of He et al., part 4.2, as in RepDistiller (Tian et al. 2020): where He et al. shorten with zero padding, these
project.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.models.layers import GlobalAverage, check_shape, conv_bn, init_convolutions, named

Block = Callable[[int, int, int], nn.Module]  # (in_channels, out_channels, stride) -> block


class Residual(nn.Module):
    """`relu(branch(x) + shortcut(x))`; the shortcut is a 1x1 convolution with BatchNorm wherever the shape changes."""

    def __init__(self, branch: nn.Module, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same_shape else conv_bn(in_channels, out_channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def basic_block(in_channels: int, out_channels: int, stride: int) -> Residual:
    """Two 3x3 convolutions."""
    branch = nn.Sequential(
        conv_bn(in_channels, out_channels, 3, stride=stride, activation=nn.ReLU),
        conv_bn(out_channels, out_channels, 3),
    )
    return Residual(branch, in_channels, out_channels, stride)


def bottleneck(in_channels: int, out_channels: int, stride: int, *, groups: int = 1, group_width: int = 64) -> Residual:
    """1x1, 3x3 (strided, grouped), 1x1 convolution; inside, each group has `group_width` channels per 256 outside."""
    inner = groups * group_width * out_channels // 256
    branch = nn.Sequential(
        conv_bn(in_channels, inner, 1, activation=nn.ReLU),
        conv_bn(inner, inner, 3, stride=stride, groups=groups, activation=nn.ReLU),
        conv_bn(inner, out_channels, 1),
    )
    return Residual(branch, in_channels, out_channels, stride)


def residual_network(
    num_classes: int, in_channels: int, *, stem: int, widths: Sequence[int], blocks: Sequence[int], block: Block
) -> nn.Sequential:
    """A 3x3 stem, stages of residual blocks (each stage but the first halves the image), global mean, classifier.

    Args:
        num_classes: K, at least 2.
        in_channels: channels of the images.
        stem: channels after the stem.
        widths: channels after each stage.
        blocks: blocks in each stage.
        block: makes one.

    Raises:
        ValueError: `num_classes` or `in_channels` outside these ranges.
    """
    check_shape(num_classes, in_channels)
    network = named(stem=conv_bn(in_channels, stem, 3, activation=nn.ReLU))
    channels = stem
    for i, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
        first = block(channels, width, 1 if i == 0 else 2)
        network.add_module(f"layer{i + 1}", nn.Sequential(first, *(block(width, width, 1) for _ in range(depth - 1))))
        channels = width
    network.add_module("pool", GlobalAverage())
    network.add_module("classifier", nn.Linear(channels, num_classes))
    return network


def resnet18(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-18 for small images, as released with Yuan et al. 2020."""
    return residual_network(
        num_classes, in_channels, stem=64, widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2), block=basic_block
    )


def resnet50(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-50 for small images, as released with Yuan et al. 2020; the stride is on the 3x3 convolution."""
    return residual_network(
        num_classes, in_channels, stem=64, widths=(256, 512, 1024, 2048), blocks=(3, 4, 6, 3), block=bottleneck
    )


def resnet8(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-8 of the CIFAR family: 1 block in each of 3 stages."""
    return _cifar_resnet(num_classes, in_channels, depth=8)


def resnet14(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-14 of the CIFAR family: 2 blocks in each of 3 stages."""
    return _cifar_resnet(num_classes, in_channels, depth=14)


def resnet20(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-20 of the CIFAR family: 3 blocks in each of 3 stages."""
    return _cifar_resnet(num_classes, in_channels, depth=20)


def resnet26(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-26 of the CIFAR family: 4 blocks in each of 3 stages."""
    return _cifar_resnet(num_classes, in_channels, depth=26)


def resnet32(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-32 of the CIFAR family: 5 blocks in each of 3 stages."""
    return _cifar_resnet(num_classes, in_channels, depth=32)


def resnet56(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-56 of the CIFAR family: 9 blocks in each of 3 stages."""
    return _cifar_resnet(num_classes, in_channels, depth=56)


def resnet110(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-110 of the CIFAR family: 18 blocks in each of 3 stages."""
    return _cifar_resnet(num_classes, in_channels, depth=110)


def resnet8x4(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-8 of the CIFAR family, four times as wide but for the stem, as in RepDistiller."""
    return _cifar_resnet(num_classes, in_channels, depth=8, stem=32, width=64)


def resnet32x4(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-32 of the CIFAR family, four times as wide but for the stem, as in RepDistiller."""
    return _cifar_resnet(num_classes, in_channels, depth=32, stem=32, width=64)


def _cifar_resnet(num_classes: int, in_channels: int, depth: int, *, stem: int = 16, width: int = 16) -> nn.Sequential:
    blocks = (depth - 2) // 6  # of two convolutions, in three stages; beside them the stem and the classifier
    network = residual_network(
        num_classes,
        in_channels,
        stem=stem,
        widths=(width, 2 * width, 4 * width),
        blocks=(blocks,) * 3,
        block=basic_block,
    )
    init_convolutions(network)
    return network
