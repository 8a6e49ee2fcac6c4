"""DenseNet-BC-121 (Huang et al. 2017) for small images, as released with Yuan et al. 2020."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun.models.layers import GlobalAverage, check_shape, conv_bn, named

GROWTH = 32


class DenseLayer(nn.Module):
    """Adds `GROWTH` channels, computed from all the channels so far, to them: BN-ReLU-conv1x1-BN-ReLU-conv3x3."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch = named(
            norm=nn.BatchNorm2d(in_channels),
            act=nn.ReLU(),
            reduce=conv_bn(in_channels, 4 * GROWTH, 1, activation=nn.ReLU),
            conv=nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.branch(x)), dim=1)


def densenet121(num_classes: int, in_channels: int = 3) -> nn.Sequential:
    """DenseNet-121: dense blocks of 6, 12, 24 and 16 layers with growth 32; transitions halve the channels.

    The stem is a bare 3x3 convolution without pooling, and the transitions at the start of layer2 to layer4 have no
    ReLU, as released.

    Raises:
        ValueError: `num_classes` below 2, or `in_channels` below 1.
    """
    check_shape(num_classes, in_channels)
    return dense_network(num_classes, nn.Conv2d(in_channels, 2 * GROWTH, 3, padding=1, bias=False))


def dense_network(num_classes: int, stem: nn.Module, *, transition_act: type[nn.Module] | None = None) -> nn.Sequential:
    """The blocks of DenseNet-121 behind a stem of `2 * GROWTH` channels.

    Args:
        num_classes: K.
        stem: the first layers.
        transition_act: activation between a transition's BatchNorm and its convolution; None is none.
    """
    channels = 2 * GROWTH
    network = named(stem=stem)
    for i, depth in enumerate((6, 12, 24, 16)):
        stage = nn.Sequential()
        if i > 0:
            stage.add_module("transition", _transition(channels, transition_act))
            channels //= 2
        for j in range(depth):
            stage.add_module(f"dense{j + 1}", DenseLayer(channels))
            channels += GROWTH
        network.add_module(f"layer{i + 1}", stage)
    network.add_module("head", named(norm=nn.BatchNorm2d(channels), act=nn.ReLU()))
    network.add_module("pool", GlobalAverage())
    network.add_module("classifier", nn.Linear(channels, num_classes))
    return network


def _transition(channels: int, activation: type[nn.Module] | None) -> nn.Sequential:
    return named(
        norm=nn.BatchNorm2d(channels),
        **({} if activation is None else {"act": activation()}),
        conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
        pool=nn.AvgPool2d(2),
    )
