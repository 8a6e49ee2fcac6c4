"""MobileNetV2 (Sandler et al. 2018) for small images, as released with Yuan et al. 2020."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun.models.layers import GlobalAverage, check_shape, conv_bn, named


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection; added to the input where the shapes agree.

    As released with Yuan et al. all convolutions have a bias, and an expansion of 1 keeps its 1x1 convolution;
    torchvision's are `lean`, without both.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int, lean: bool = False) -> None:
        super().__init__()
        inner, bias = in_channels * expansion, not lean
        expand = {"expand": conv_bn(in_channels, inner, 1, bias=bias, activation=nn.ReLU6)}
        self.branch = named(
            **({} if lean and expansion == 1 else expand),
            depthwise=conv_bn(inner, inner, 3, stride=stride, groups=inner, bias=bias, activation=nn.ReLU6),
            project=conv_bn(inner, out_channels, 1, bias=bias),
        )
        self.skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x)
        return out + x if self.skip else out


def mobilenetv2(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """MobileNetV2, width 1. The stem is a 1x1 convolution with padding 1, so 32x32 images become 34x34, as released.

    The released classifier is a 1x1 convolution on the pooled 1x1 map: here a linear layer, which computes the same.

    Raises:
        ValueError: `num_classes` below 2, or `in_channels` below 1.
    """
    check_shape(num_classes, in_channels)
    return named(
        stem=conv_bn(in_channels, 32, 1, padding=1, bias=True, activation=nn.ReLU6),
        **inverted_stages(strides=(1, 2, 2, 2, 1, 1, 1)),
        head=conv_bn(320, 1280, 1, bias=True, activation=nn.ReLU6),
        pool=GlobalAverage(),
        classifier=nn.Linear(1280, num_classes),
    )


def inverted_stages(*, strides: tuple[int, ...], lean: bool = False) -> dict[str, nn.Sequential]:
    """`layer1` to `layer7` with the first stride of each; from 32 to 320 channels."""
    stages, channels = {}, 32
    widths, depths = (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1)
    for number, (width, depth, stride) in enumerate(zip(widths, depths, strides, strict=True)):
        expansion = 1 if number == 0 else 6
        blocks = [InvertedResidual(channels, width, stride=stride, expansion=expansion, lean=lean)]
        blocks += [InvertedResidual(width, width, stride=1, expansion=expansion, lean=lean) for _ in range(depth - 1)]
        stages[f"layer{number + 1}"], channels = nn.Sequential(*blocks), width
    return stages
