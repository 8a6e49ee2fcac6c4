"""The CNN with maxout of Abnar et al. 2020."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdrun.models.layers import MOST_LAYERS, GlobalAverage, check_count, check_dropout, check_shape, named


class Maxout(nn.Module):
    """The maximum of each group of consecutive channels: `[N, F, H, W]` to `[N, units, H, W]`.

    Args:
        units: how many groups; divides F.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units

    def forward(self, x: Tensor) -> Tensor:
        groups: Tensor = x.unflatten(1, (self.units, -1))
        # Not `amax`, whose result is never channels_last.
        return functools.reduce(torch.maximum, groups.unbind(2))


def maxout_cnn(
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    filters: tuple[int, ...] = (128, 64, 64),
    units: tuple[int, ...] = (128, 64, 16),
    pool: tuple[int, ...] = (1, 2, 2),
    dropout: float = 0.3,
) -> nn.Sequential:
    """The CNN of Abnar, Dehghani and Zuidema 2020 for MNIST (released code: `vcnn_mnist7`): no hidden layer at its end.

    A layer is a 3x3 convolution without padding, maxout (none where there are as many units as filters), BatchNorm,
    ReLU, max-pooling (none at 1) and dropout; the global average of the last goes to the classifier. The released L2
    penalty of 2e-9 is left out. Initialised by PyTorch's defaults where Keras's are Glorot's.

    Args:
        num_classes: K, at least 2.
        in_channels: channels of the images.
        image_size: side of the square images, at least 8 and large enough for the layers: 12 with the defaults.
        filters: channels of each convolution, from one layer to `MOST_LAYERS`.
        units: channels after the maxout of each layer; each divides its filters.
        pool: side and stride of each max-pooling.
        dropout: probability that a value of a feature map is dropped in training, in [0, 1).

    Raises:
        ValueError: an argument out of range.
    """
    check_shape(num_classes, in_channels, image_size)
    check_dropout("dropout", dropout)
    _check_layers(filters, units, pool)
    network, channels, side = named(), in_channels, image_size
    for i, (wide, narrow, window) in enumerate(zip(filters, units, pool, strict=True)):
        side = (side - 2) // window
        if side < 1:
            raise ValueError(
                f"image_size={image_size}: nothing is left of it after layer{i + 1}; with pool={list(pool)} and 3x3 "
                f"convolutions without padding it must be at least {_smallest(pool)}"
            )
        layer = named(conv=nn.Conv2d(channels, wide, 3))
        if narrow < wide:
            layer.add_module("maxout", Maxout(narrow))
        layer.add_module("bn", nn.BatchNorm2d(narrow))
        layer.add_module("act", nn.ReLU())
        if window > 1:
            layer.add_module("pool", nn.MaxPool2d(window))
        layer.add_module("dropout", nn.Dropout(dropout))
        network.add_module(f"layer{i + 1}", layer)
        channels = narrow
    network.add_module("pool", GlobalAverage())
    network.add_module("classifier", nn.Linear(channels, num_classes))
    return network


def _check_layers(filters: Sequence[int], units: Sequence[int], pool: Sequence[int]) -> None:
    given = {"filters": filters, "units": units, "pool": pool}
    for name, values in given.items():
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"{name}={values!r}: must be a list with a number for each layer, at least one")
        if len(values) > MOST_LAYERS:
            raise ValueError(f"{name}=a list of {len(values)}: must be of at most {MOST_LAYERS} layers")
        for i, value in enumerate(values):
            check_count(f"{name}[{i}]", value, 1)
    if len({len(values) for values in given.values()}) > 1:
        raise ValueError(
            f"filters={list(filters)}, units={list(units)}, pool={list(pool)}: must have a number each for every layer"
        )
    for i, (wide, narrow) in enumerate(zip(filters, units, strict=True)):
        if wide % narrow:
            raise ValueError(f"units[{i}]={narrow}: must divide filters[{i}]={wide}, which are maximised in groups")


def _smallest(pool: Sequence[int]) -> int:
    """The side of the smallest image that leaves one pixel."""
    side = 1
    for window in reversed(pool):
        side = side * window + 2
    return side
