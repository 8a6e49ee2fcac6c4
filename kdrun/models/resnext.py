"""ResNeXt-29 (Xie et al. 2017, part 5.3) for CIFAR, as released with Yuan et al. 2020."""

from __future__ import annotations

from functools import partial

from torch import nn

from kdrun.models.layers import init_convolutions
from kdrun.models.resnet import bottleneck, residual_network


def resnext29_8x64d(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ResNeXt-29 with 8 groups of 64 channels in the first stage, of 128 and 256 in the next two.

    Weights are kaiming normal (convolutions fan out, classifier fan in) and the classifier's bias is 0, as released.
    The released average over 8x8 is here one over the whole image, which is the same at 32x32.

    Raises:
        ValueError: `num_classes` below 2, or `in_channels` below 1.
    """
    block = partial(bottleneck, groups=8)
    network = residual_network(
        num_classes, in_channels, stem=64, widths=(256, 512, 1024), blocks=(3, 3, 3), block=block
    )
    init_convolutions(network)
    classifier = network.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    nn.init.kaiming_normal_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return network
