"""VGG (Simonyan and Zisserman 2015) with BatchNorm for small images, as in RepDistiller (Tian et al. 2020)."""

from __future__ import annotations

from torch import nn

from kdrun.models.layers import GlobalAverage, check_shape, conv_bn, init_convolutions

WIDTHS = (64, 128, 256, 512, 512)


def vgg(num_classes: int, in_channels: int, *, depth: int) -> nn.Sequential:
    """A stem and four layers of `depth` 3x3 convolutions each; layers 1 to 3 halve the image, then it is averaged.

    Raises:
        ValueError: `num_classes` below 2, or `in_channels` below 1.
    """
    check_shape(num_classes, in_channels)
    network, channels = nn.Sequential(), in_channels
    for i, width in enumerate(WIDTHS):
        stage = nn.Sequential()
        for j in range(depth):
            stage.add_module(f"{j}", conv_bn(channels, width, 3, bias=True, activation=nn.ReLU))
            channels = width
        if i in (1, 2, 3):
            stage.insert(0, nn.MaxPool2d(2))
        network.add_module(f"layer{i}" if i else "stem", stage)
    network.add_module("pool", GlobalAverage())
    classifier = nn.Linear(channels, num_classes)
    network.add_module("classifier", classifier)
    init_convolutions(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return network


def vgg8(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """VGG-8: one convolution a stage."""
    return vgg(num_classes, in_channels, depth=1)


def vgg13(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """VGG-13: two convolutions a stage."""
    return vgg(num_classes, in_channels, depth=2)
