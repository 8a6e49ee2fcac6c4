"""The networks. `kdrun.models.NAME(num_classes=K, in_channels=C)` makes one; it maps `[N, C, H, W]` to logits `[N, K]`.

Those are `image_networks()`. The others, `sequence_networks()`, are on tokens: see below. A network is found in the
modules of this package by its name.

    name                family                                     file           init
    cnn                 the Tf-KD paper's plain 5-layer CNN        plain.py       PyTorch's
    mlp                 Hinton's and Abnar's fully connected       plain.py       PyTorch's
    resnet18, 50        residual, 64 to 512 channels, 4 stages     resnet.py      PyTorch's
    resnet8, 14, 20,    residual, 16-32-64 channels, 3 stages      resnet.py      kaiming normal, fan out
      26, 32, 56, 110
    resnet8x4, 32x4     the same with 64-128-256 channels          resnet.py      kaiming normal, fan out
    wrn_16_1, 16_2,     wide residual, pre-activation, 3 stages    wide_resnet.py kaiming normal, fan out
      40_1, 40_2
    vgg8, 13            plain, 5 stages, BatchNorm                 vgg.py         kaiming normal, fan out
    resnext29_8x64d     grouped bottlenecks, 3 stages              resnext.py     kaiming normal, fan out
    mobilenetv2         inverted residuals                         mobilenet.py   PyTorch's
    shufflenetv2        channel split and shuffle                  shufflenet.py  PyTorch's
    densenet121         dense connectivity                         densenet.py    PyTorch's
    imagenet_resnet18,  torchvision's, for images of 224x224       imagenet.py    torchvision's
      34, 50, ..._resnext101_32x8d, ..._densenet121, ..._mobilenetv2, ..._shufflenetv2
    googlenet           Inception with BatchNorm                   inception.py   PyTorch's

    lstm                LSTM on tokens                             sequence.py    PyTorch's, embeddings N(0, 0.1)
    transformer         BERT's, GPT's and universal Transformers   sequence.py    N(0, 0.05)

All but the mlp, RepDistiller's (three stages, or VGG) and torchvision's are the networks of the Tf-KD release (Yuan
et al. 2020) for 32x32 images: no early downsampling. They take 1 or more channels and any images of 8x8 and more (cnn
and mlp: of `image_size`, which they are built for); in train mode at least 2 images.

Every one on images is a named sequence, so these names work as taps in all of them:

    stem -> layer1 -> layer2 -> ... -> [head] -> pool (one vector per image, [N, C]) -> classifier (logits [N, K])

(cnn has `flatten` and `hidden` in place of `pool`; mlp has only `flatten`, the layers and `classifier`.) A convolution
and the BatchNorm after it are the neighbours `conv` and `bn` in one `nn.Sequential`. Nothing computes in place, so what
a forward hook sees is what the module returned. The cost of a network is in `kdrun.models.cost`.

Those on sequences, `kdrun.models.NAME(num_classes=K, num_tokens=V, length=L, per_token=False)`, map int64 `[N, L']` to
logits `[N, K]`, or `[N * L', K]` with a label for each token (a language model). Their taps: `embedding`, `layers.0`,
... (not an LSTM's, which return tuples), [`norm`], `pool` (one vector per label) and `classifier`.

A new network is such a function, in this package or a trusted one:

>>> from kdrun.models.layers import GlobalAverage, conv_bn, named
>>> from kdrun.taps import outline
>>> def tiny(num_classes: int, in_channels: int = 3, width: int = 8) -> nn.Sequential:
...     return named(
...         layer1=conv_bn(in_channels, width, 3, activation=nn.ReLU),
...         layer2=conv_bn(width, 2 * width, 3, stride=2, activation=nn.ReLU),
...         pool=GlobalAverage(),
...         classifier=nn.Linear(2 * width, num_classes),
...     )
>>> found = outline(tiny(10).to("meta"), (3, 32, 32))
>>> found.maps, found.vector, found.num_classes
(['layer1', 'layer2'], 'pool', 10)
"""

import functools
import inspect
from collections.abc import Callable

from torch import nn

from kdrun import lazy


@functools.cache
def shipped_networks(*given: str) -> tuple[str, ...]:
    """Names of the networks that need these arguments and no others: the functions of this package's modules."""
    found = []
    for name in sorted(lazy.definitions(__name__)):
        parameters = inspect.signature(lazy.attribute(__name__, name)).parameters.values()
        if {each.name for each in parameters if each.default is each.empty} == set(given):
            found.append(name)
    return tuple(found)


def image_networks() -> tuple[str, ...]:
    return shipped_networks("num_classes")


def sequence_networks() -> tuple[str, ...]:
    return shipped_networks("num_classes", "num_tokens", "length")


def __getattr__(name: str) -> Callable[..., nn.Module]:
    network: Callable[..., nn.Module] = lazy.attribute(__name__, name)
    return network
