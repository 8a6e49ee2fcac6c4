"""Networks for images of 224 x 224 pixels: those of torchvision, whose published weights fit.

Stems leave a quarter of an image's side, whole networks a 32nd: images should have at least 32 pixels a side.
Names, and so taps, are those of the networks for small images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from kdrun.models.densenet import GROWTH, dense_network
from kdrun.models.layers import GlobalAverage, check_dropout, check_shape, conv_bn, init_convolutions, named
from kdrun.models.mobilenet import inverted_stages
from kdrun.models.resnet import Block, basic_block, bottleneck, residual_network
from kdrun.models.shufflenet import shuffle_stages


def imagenet_resnet18(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-18 (He et al. 2016)."""
    return _residual(num_classes, in_channels, (64, 128, 256, 512), (2, 2, 2, 2), basic_block)


def imagenet_resnet34(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-34 (He et al. 2016)."""
    return _residual(num_classes, in_channels, (64, 128, 256, 512), (3, 4, 6, 3), basic_block)


def imagenet_resnet50(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNet-50 (He et al. 2016); the stride is on the 3x3 convolution."""
    return _residual(num_classes, in_channels, (256, 512, 1024, 2048), (3, 4, 6, 3), bottleneck)


def imagenet_resnext101_32x8d(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNeXt-101 with 32 groups of 8 channels in the first stage (Xie et al. 2017)."""
    block = partial(bottleneck, groups=32, group_width=8)
    return _residual(num_classes, in_channels, (256, 512, 1024, 2048), (3, 4, 23, 3), block)


def imagenet_densenet121(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """DenseNet-121 (Huang et al. 2017)."""
    check_shape(num_classes, in_channels)
    network = dense_network(num_classes, _stem(in_channels, 2 * GROWTH, 7), transition_act=nn.ReLU)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return network


def imagenet_mobilenetv2(num_classes: int, in_channels: int = 3, *, dropout: float = 0.2) -> nn.Sequential:
    """MobileNetV2 of width 1 (Sandler et al. 2018), with dropout before the classifier."""
    check_shape(num_classes, in_channels)
    check_dropout("dropout", dropout)
    network = named(
        stem=conv_bn(in_channels, 32, 3, stride=2, activation=nn.ReLU6),
        **inverted_stages(strides=(1, 2, 2, 2, 1, 2, 1), lean=True),
        head=conv_bn(320, 1280, 1, activation=nn.ReLU6),
        pool=GlobalAverage(),
        dropout=nn.Dropout(dropout),
        classifier=nn.Linear(1280, num_classes),
    )
    init_convolutions(network)
    classifier = network.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return network


def imagenet_shufflenetv2(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ShuffleNetV2 of width 1 (Ma et al. 2018)."""
    check_shape(num_classes, in_channels)
    return named(
        stem=_stem(in_channels, 24, 3),
        **shuffle_stages(lean=True),
        head=conv_bn(464, 1024, 1, activation=nn.ReLU),
        pool=GlobalAverage(),
        classifier=nn.Linear(1024, num_classes),
    )


def _residual(
    num_classes: int, in_channels: int, widths: Sequence[int], blocks: Sequence[int], block: Block
) -> nn.Sequential:
    check_shape(num_classes, in_channels)
    network = residual_network(num_classes, in_channels, stem=64, widths=widths, blocks=blocks, block=block)
    network.stem = _stem(in_channels, 64, 7)
    init_convolutions(network)
    return network


def _stem(in_channels: int, channels: int, kernel_size: int) -> nn.Sequential:
    """A strided convolution and a max-pooling of 3x3, strided too."""
    stem = conv_bn(in_channels, channels, kernel_size, stride=2, activation=nn.ReLU)
    stem.add_module("pool", nn.MaxPool2d(3, 2, padding=1))
    return stem
