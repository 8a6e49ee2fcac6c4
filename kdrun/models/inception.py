"""GoogLeNet (Szegedy et al. 2015) with BatchNorm for small images, as released with Yuan et al. 2020."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun.models.layers import GlobalAverage, check_shape, conv_bn, named


class Inception(nn.Module):
    """Four branches side by side: 1x1; 3x3; 5x5, made of two 3x3; and 3x3 max-pooling with a 1x1 projection.

    Args:
        in_channels: channels of the input.
        out1x1: output channels of the 1x1 branch.
        reduce3x3: channels inside the 3x3 branch.
        out3x3: its output channels.
        reduce5x5: channels inside the 5x5 branch.
        out5x5: its output channels.
        out_pool: output channels of the pooling branch.
    """

    def __init__(
        self,
        in_channels: int,
        out1x1: int,
        reduce3x3: int,
        out3x3: int,
        reduce5x5: int,
        out5x5: int,
        out_pool: int,
    ) -> None:
        super().__init__()
        self.branch1x1 = _conv(in_channels, out1x1, 1)
        self.branch3x3 = nn.Sequential(_conv(in_channels, reduce3x3, 1), _conv(reduce3x3, out3x3, 3))
        self.branch5x5 = nn.Sequential(
            _conv(in_channels, reduce5x5, 1),
            # The released code passes the number of channels once more here, and so as eps: 32 to 128, not 1e-5.
            _conv(reduce5x5, out5x5, 3, eps=float(out5x5)),
            _conv(out5x5, out5x5, 3),
        )
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _conv(in_channels, out_pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(x)), dim=1)


def googlenet(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """GoogLeNet with a stem of one 3x3 convolution, BatchNorm after every convolution, and no auxiliary classifiers.

    Convolutions have a bias, as released. The released `Dropout2d` on 1x1 maps is the dropout on vectors here.

    Raises:
        ValueError: `num_classes` below 2, or `in_channels` below 1.
    """
    check_shape(num_classes, in_channels)
    return named(
        stem=_conv(in_channels, 192, 3),
        layer1=named(
            a=Inception(192, 64, 96, 128, 16, 32, 32),
            b=Inception(256, 128, 128, 192, 32, 96, 64),
        ),
        layer2=named(
            pool=nn.MaxPool2d(3, stride=2, padding=1),
            a=Inception(480, 192, 96, 208, 16, 48, 64),
            b=Inception(512, 160, 112, 224, 24, 64, 64),
            c=Inception(512, 128, 128, 256, 24, 64, 64),
            d=Inception(512, 112, 144, 288, 32, 64, 64),
            e=Inception(528, 256, 160, 320, 32, 128, 128),
        ),
        layer3=named(
            pool=nn.MaxPool2d(3, stride=2, padding=1),
            a=Inception(832, 256, 160, 320, 32, 128, 128),
            b=Inception(832, 384, 192, 384, 48, 128, 128),
        ),
        pool=GlobalAverage(),
        dropout=nn.Dropout(0.4),
        classifier=nn.Linear(1024, num_classes),
    )


def _conv(in_channels: int, out_channels: int, kernel_size: int, *, eps: float = 1e-5) -> nn.Sequential:
    return conv_bn(in_channels, out_channels, kernel_size, bias=True, eps=eps, activation=nn.ReLU)
