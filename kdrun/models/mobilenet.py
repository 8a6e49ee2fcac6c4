"""MobileNetV2 (Sandler et al. 2018) for small images, as released with Yuan et al. 2020."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun.models.layers import GlobalAverage, check_shape, conv_bn, named


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection; added to the input where the shapes agree.

    All convolutions have a bias, and an expansion of 1 keeps its 1x1 convolution, as released.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.branch = named(
            expand=conv_bn(in_channels, inner, 1, bias=True, activation=nn.ReLU6),
            depthwise=conv_bn(inner, inner, 3, stride=stride, groups=inner, bias=True, activation=nn.ReLU6),
            project=conv_bn(inner, out_channels, 1, bias=True),
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
        layer1=_stage(32, 16, blocks=1, stride=1, expansion=1),
        layer2=_stage(16, 24, blocks=2, stride=2),
        layer3=_stage(24, 32, blocks=3, stride=2),
        layer4=_stage(32, 64, blocks=4, stride=2),
        layer5=_stage(64, 96, blocks=3, stride=1),
        layer6=_stage(96, 160, blocks=3, stride=1),
        layer7=_stage(160, 320, blocks=1, stride=1),
        head=conv_bn(320, 1280, 1, bias=True, activation=nn.ReLU6),
        pool=GlobalAverage(),
        classifier=nn.Linear(1280, num_classes),
    )


def _stage(in_channels: int, out_channels: int, *, blocks: int, stride: int, expansion: int = 6) -> nn.Sequential:
    first = InvertedResidual(in_channels, out_channels, stride=stride, expansion=expansion)
    others = (InvertedResidual(out_channels, out_channels, stride=1, expansion=expansion) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)
