"""Shared parts of the architecture families: convolution with BatchNorm, global average, initialisation, checks."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

SMALLEST_IMAGE = 8


def named(**modules: nn.Module) -> nn.Sequential:
    """The modules one after the other, each a child under its keyword's name."""
    return nn.Sequential(OrderedDict(modules))


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
    eps: float = 1e-5,
    activation: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution `conv`, BatchNorm `bn` and, when given, an activation `act`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the square kernel; odd.
        stride: of the convolution, both ways.
        padding: zeros on each side; None keeps the image's size at stride 1.
        groups: of the convolution.
        bias: whether the convolution has one. BatchNorm takes it out again; some released networks have it.
        eps: of the BatchNorm.
        activation: class of the activation; None for a linear output.
    """
    padding = kernel_size // 2 if padding is None else padding
    block = named(
        conv=nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias),
        bn=nn.BatchNorm2d(out_channels, eps=eps),
    )
    if activation is not None:
        block.add_module("act", activation())
    return block


class GlobalAverage(nn.Module):
    """Mean over the image: `[N, C, H, W]` to `[N, C]`; unlike adaptive pooling, deterministic backward on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def init_convolutions(network: nn.Module) -> None:
    """Draws every convolution's weight from N(0, 2 / (out_channels * kernel area)): kaiming normal, fan out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


MOST_LAYERS = 1_000
"""Of a network whose layers are options."""


def check_shape(num_classes: int, in_channels: int, image_size: int = SMALLEST_IMAGE) -> None:
    """Raises `ValueError` unless this can be the number of classes and the shape of the images of a network."""
    check_count("num_classes", num_classes, 2)
    check_count("in_channels", in_channels, 1)
    check_count("image_size", image_size, SMALLEST_IMAGE)


def check_count(name: str, value: int, low: int, high: int = 1_000_000) -> None:
    """Raises `ValueError` unless `value` is an integer from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: must be an integer, at least {low} and at most {high}")


def check_dropout(name: str, value: float) -> None:
    """Raises `ValueError` unless `value` is a probability below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value!r}: must be a probability, at least 0 and less than 1")
