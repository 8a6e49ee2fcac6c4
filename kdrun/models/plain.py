"""The two small networks without skip connections: the plain CNN of the Tf-KD paper, and Hinton's MLP."""

from __future__ import annotations

from torch import nn

from kdrun.models.layers import MOST_LAYERS, check_count, check_dropout, check_shape, conv_bn, named


def cnn(num_classes: int, in_channels: int = 3, image_size: int = 32, dropout: float = 0.5) -> nn.Sequential:
    """The plain 5-layer CNN of Yuan et al. 2020 (released code: `Net`): 3 convolutions, 2 fully connected layers.

    Each convolution is followed by BatchNorm, then max-pooling, then ReLU, in this order; at `image_size` 32 the
    hidden layer is 2048 -> 128.

    Args:
        num_classes: K, at least 2.
        in_channels: channels of the images.
        image_size: side of the square images, at least 8; halved three times, rounding down.
        dropout: probability that a hidden unit is dropped in training, in [0, 1).

    Raises:
        ValueError: an argument outside these ranges.
    """
    check_shape(num_classes, in_channels, image_size)
    check_dropout("dropout", dropout)
    return named(
        layer1=_conv_layer(in_channels, 32),
        layer2=_conv_layer(32, 64),
        layer3=_conv_layer(64, 128),
        flatten=nn.Flatten(),
        hidden=named(
            fc=nn.Linear(128 * (image_size // 8) ** 2, 128),
            bn=nn.BatchNorm1d(128),
            act=nn.ReLU(),
            dropout=nn.Dropout(dropout),
        ),
        classifier=nn.Linear(128, num_classes),
    )


def _conv_layer(in_channels: int, out_channels: int) -> nn.Sequential:
    layer = conv_bn(in_channels, out_channels, 3, bias=True)
    layer.add_module("pool", nn.MaxPool2d(2))
    layer.add_module("act", nn.ReLU())
    return layer


def mlp(
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    hidden: tuple[int, ...] = (800, 800),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """The fully connected ReLU network of Hinton et al. 2015, part 3: 784-800-800-10 on MNIST.

    Its teacher is `hidden=(1200, 1200)` with dropout; the paper gives no rates, and the dropout paper's usual ones are
    0.5 for hidden units and 0.2 for pixels. Its bound on the norm of the incoming weights is not part of the network.
    That of Abnar et al. 2020 (released code: `ff_mnist4`) is `hidden=(512, 128, 32)` with `batch_norm` and dropout 0.1;
    its L1 and L2 penalties of 1e-5 are left out.

    Args:
        num_classes: K, at least 2.
        in_channels: channels of the images.
        image_size: side of the square images, at least 8.
        hidden: units of each hidden layer, from one layer to `MOST_LAYERS`.
        dropout: probability that a hidden unit is dropped in training, in [0, 1).
        input_dropout: the same for a pixel.
        batch_norm: BatchNorm in each hidden layer, after the ReLU and before the dropout.

    Raises:
        ValueError: an argument outside these ranges.
    """
    check_shape(num_classes, in_channels, image_size)
    check_dropout("dropout", dropout)
    check_dropout("input_dropout", input_dropout)
    if not isinstance(hidden, (list, tuple)) or not hidden:
        raise ValueError(f"hidden={hidden!r}: must be a list of the units of each hidden layer, at least one")
    if len(hidden) > MOST_LAYERS:
        raise ValueError(f"hidden=a list of {len(hidden)}: must be of at most {MOST_LAYERS} layers")
    network = named(flatten=nn.Flatten(), input_dropout=nn.Dropout(input_dropout))
    width = in_channels * image_size**2
    for i, units in enumerate(hidden):
        check_count(f"hidden[{i}]", units, 1)
        layer = named(fc=nn.Linear(width, units), act=nn.ReLU())
        if batch_norm:
            layer.add_module("bn", nn.BatchNorm1d(units))
        layer.add_module("dropout", nn.Dropout(dropout))
        network.add_module(f"layer{i + 1}", layer)
        width = units
    network.add_module("classifier", nn.Linear(width, num_classes))
    return network
