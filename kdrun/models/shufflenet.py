"""ShuffleNetV2 1x (Ma et al. 2018) for small images, as released with Yuan et al. 2020."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun.models.layers import GlobalAverage, check_shape, conv_bn, named


def concat_shuffled(left: Tensor, right: Tensor) -> Tensor:
    """Channels of two tensors `[N, C, H, W]` in turn, `[N, 2C, H, W]`: concatenation and 2-group shuffle in one copy.

    The result is laid out like `right`: each branch stacks along what its layout stores next to the channels, so that
    merging the two axes is a view.
    """
    if right.is_contiguous(memory_format=torch.channels_last):
        stacked = torch.stack((left.permute(0, 2, 3, 1), right.permute(0, 2, 3, 1)), dim=4)
        return stacked.flatten(3).permute(0, 3, 1, 2)
    return torch.stack((left, right), dim=2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Half the channels pass, half go through a 1x1, a 3x3 depthwise and a 1x1 convolution; then both are shuffled.

    Where the number of channels changes, both ways get all the channels and halve the image (`shortcut` with a 3x3
    depthwise and a 1x1 convolution). All convolutions have a bias, as released.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.downsamples = in_channels != out_channels
        inner = in_channels if self.downsamples else half
        stride = 2 if self.downsamples else 1
        self.branch = named(
            reduce=conv_bn(inner, inner, 1, bias=True, activation=nn.ReLU),
            depthwise=conv_bn(inner, inner, 3, stride=stride, groups=inner, bias=True),
            expand=conv_bn(inner, half, 1, bias=True, activation=nn.ReLU),
        )
        self.shortcut: nn.Module = nn.Identity()
        if self.downsamples:
            self.shortcut = named(
                depthwise=conv_bn(inner, inner, 3, stride=stride, groups=inner, bias=True),
                expand=conv_bn(inner, half, 1, bias=True, activation=nn.ReLU),
            )

    def forward(self, x: Tensor) -> Tensor:
        passed, processed = (x, x) if self.downsamples else x.chunk(2, dim=1)
        return concat_shuffled(self.shortcut(passed), self.branch(processed))


def shufflenetv2(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """ShuffleNetV2, width 1. The stem is a 3x3 convolution with BatchNorm, without ReLU and max-pooling, as released.

    Raises:
        ValueError: `num_classes` below 2, or `in_channels` below 1.
    """
    check_shape(num_classes, in_channels)
    return named(
        stem=conv_bn(in_channels, 24, 3, bias=True),
        layer1=_stage(24, 116, units=4),
        layer2=_stage(116, 232, units=8),
        layer3=_stage(232, 464, units=4),
        head=conv_bn(464, 1024, 1, bias=True, activation=nn.ReLU),
        pool=GlobalAverage(),
        classifier=nn.Linear(1024, num_classes),
    )


def _stage(in_channels: int, out_channels: int, *, units: int) -> nn.Sequential:
    others = (ShuffleUnit(out_channels, out_channels) for _ in range(units - 1))
    return nn.Sequential(ShuffleUnit(in_channels, out_channels), *others)
