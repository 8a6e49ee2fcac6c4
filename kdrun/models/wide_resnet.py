"""Wide residual networks (Zagoruyko and Komodakis 2016) for small images, as in RepDistiller (Tian et al. 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun.models.layers import GlobalAverage, check_shape, init_convolutions, named


class PreActivation(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions; the shortcut is a 1x1 convolution where shapes change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.before = named(bn=nn.BatchNorm2d(in_channels), act=nn.ReLU())
        self.branch = named(
            conv1=_conv(in_channels, out_channels, 3, stride),
            bn=nn.BatchNorm2d(out_channels),
            act=nn.ReLU(),
            conv2=_conv(out_channels, out_channels, 3, 1),
        )
        changes = in_channels != out_channels or stride != 1
        self.shortcut = _conv(in_channels, out_channels, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.before(x)
        out: Tensor = self.branch(active)
        return out + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet(num_classes: int, in_channels: int, *, depth: int, width: int) -> nn.Sequential:
    """Three stages of `(depth - 4) / 6` blocks with 16, 32 and 64 times `width` channels, the last two halving.

    Raises:
        ValueError: `num_classes` below 2, or `in_channels` below 1.
    """
    check_shape(num_classes, in_channels)
    network = named(stem=_conv(in_channels, 16, 3, 1))
    blocks, channels = (depth - 4) // 6, 16
    for i, planes in enumerate((16 * width, 32 * width, 64 * width)):
        first = PreActivation(channels, planes, 1 if i == 0 else 2)
        others = (PreActivation(planes, planes, 1) for _ in range(blocks - 1))
        network.add_module(f"layer{i + 1}", nn.Sequential(first, *others))
        channels = planes
    network.add_module("head", named(bn=nn.BatchNorm2d(channels), act=nn.ReLU()))
    network.add_module("pool", GlobalAverage())
    classifier = nn.Linear(channels, num_classes)
    network.add_module("classifier", classifier)
    init_convolutions(network)
    nn.init.zeros_(classifier.bias)
    return network


def wrn_16_1(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """WRN-16-1: 2 blocks a stage, 16 to 64 channels."""
    return wide_resnet(num_classes, in_channels, depth=16, width=1)


def wrn_16_2(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """WRN-16-2: 2 blocks a stage, 32 to 128 channels."""
    return wide_resnet(num_classes, in_channels, depth=16, width=2)


def wrn_40_1(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """WRN-40-1: 6 blocks a stage, 16 to 64 channels."""
    return wide_resnet(num_classes, in_channels, depth=40, width=1)


def wrn_40_2(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """WRN-40-2: 6 blocks a stage, 32 to 128 channels."""
    return wide_resnet(num_classes, in_channels, depth=40, width=2)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
