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
    depthwise and a 1x1 convolution). As released with Yuan et al. all convolutions have a bias, and the first one on a
    way that halves the image keeps the channels; torchvision's are `lean`: no biases, half of the output's channels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, lean: bool = False) -> None:
        super().__init__()
        half = out_channels // 2
        self.downsamples = in_channels != out_channels
        inner = in_channels if self.downsamples and not lean else half
        bias = not lean
        stride = 2 if self.downsamples else 1
        self.branch = named(
            reduce=conv_bn(in_channels if self.downsamples else half, inner, 1, bias=bias, activation=nn.ReLU),
            depthwise=conv_bn(inner, inner, 3, stride=stride, groups=inner, bias=bias),
            expand=conv_bn(inner, half, 1, bias=bias, activation=nn.ReLU),
        )
        self.shortcut: nn.Module = nn.Identity()
        if self.downsamples:
            self.shortcut = named(
                depthwise=conv_bn(in_channels, in_channels, 3, stride=stride, groups=in_channels, bias=bias),
                expand=conv_bn(in_channels, half, 1, bias=bias, activation=nn.ReLU),
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
        **shuffle_stages(),
        head=conv_bn(464, 1024, 1, bias=True, activation=nn.ReLU),
        pool=GlobalAverage(),
        classifier=nn.Linear(1024, num_classes),
    )


def shuffle_stages(*, lean: bool = False) -> dict[str, nn.Sequential]:
    """`layer1` to `layer3`, each of which halves the image; from 24 to 464 channels."""
    stages, channels = {}, 24
    for number, (width, units) in enumerate(((116, 4), (232, 8), (464, 4))):
        others = (ShuffleUnit(width, width, lean=lean) for _ in range(units - 1))
        stages[f"layer{number + 1}"] = nn.Sequential(ShuffleUnit(channels, width, lean=lean), *others)
        channels = width
    return stages
