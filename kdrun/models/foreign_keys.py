"""Names of tensors in other code's networks: RepDistiller (Tian et al. 2020) and mdistiller (Zhao et al. 2022).

Only networks that compute the same are listed. Theirs of the names MobileNetV2 (half as wide), ShuffleNetV1 and
ShuffleNetV2 (other units, no biases) are other networks, except mdistiller's MobileNetV2 for Tiny-ImageNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How a family of networks is named elsewhere.

    Attributes:
        source: whose names these are, for messages.
        paths: a pattern of a module's whole path there, and its path here. Of a tensor's name only the part before the
            last dot is such a path: `weight`, `running_var` and the like are the same.
        differs_at: sizes of images, in pixels, at which the network there computes something else.
    """

    source: str
    paths: Mapping[str, str]
    differs_at: tuple[int, ...] = ()

    def renamed(self, name: str) -> str | None:
        """The name here of a tensor there; None where the family has no such name."""
        path, dot, last = name.rpartition(".")
        for pattern, ours in self.paths.items():
            if found := re.fullmatch(pattern, path):
                return found.expand(ours) + dot + last
        return None


def _residual(layers: str, convolutions: int, shortcut: str, classifier: str) -> dict[str, str]:
    """Stem, blocks and classifier of a post-activation ResNet with the shortcut's and the classifier's name there."""
    block = rf"(layer[{layers}]\.\d+)\."
    branch = {rf"{block}(conv|bn){i + 1}": rf"\1.branch.{i}.\2" for i in range(convolutions)}
    ends = {"conv1": "stem.conv", "bn1": "stem.bn", classifier: "classifier"}
    shortcuts = {rf"{block}{shortcut}\.0": r"\1.shortcut.conv", rf"{block}{shortcut}\.1": r"\1.shortcut.bn"}
    return {**ends, **branch, **shortcuts}


def _vgg() -> dict[str, str]:
    """Two modules and a ReLU for each convolution, which are counted through there; pooling is a module of its own."""
    paths = {"classifier": "classifier"}
    for block, layer, first in (("block0", "stem", 0), ("block([123])", r"layer\1", 1), ("block4", "layer4", 0)):
        for i in range(2):
            paths[rf"{block}\.{3 * i}"] = rf"{layer}.{first + i}.conv"
            paths[rf"{block}\.{3 * i + 1}"] = rf"{layer}.{first + i}.bn"
    return paths


def _mobilenet() -> dict[str, str]:
    paths = {"pre.0": "stem.conv", "pre.1": "stem.bn", "conv1.0": "head.conv", "conv1.1": "head.bn"}
    paths["conv2"] = "classifier"  # a 1x1 convolution on the pooled image
    for i, part in enumerate(("expand", "depthwise", "project")):
        for j, module in enumerate(("conv", "bn")):
            paths[rf"stage([17])\.residual\.{3 * i + j}"] = rf"layer\1.0.branch.{part}.{module}"
            paths[rf"stage([2-6])\.(\d+)\.residual\.{3 * i + j}"] = rf"layer\1.\2.branch.{part}.{module}"
    return paths


_WIDE_BLOCK = r"block([123])\.layer\.(\d+)\."
LAYOUTS = (
    Layout("RepDistiller's ResNets for CIFAR", _residual("123", 2, "downsample", "fc")),
    Layout("RepDistiller's ResNet18 and ResNet50", _residual("1234", 3, "shortcut", "linear")),
    Layout(
        "RepDistiller's wide ResNets",
        {
            **{"conv1": "stem", "bn1": "head.bn", "fc": "classifier"},
            _WIDE_BLOCK + "bn1": r"layer\1.\2.before.bn",
            _WIDE_BLOCK + "bn2": r"layer\1.\2.branch.bn",
            _WIDE_BLOCK + "(conv[12])": r"layer\1.\2.branch.\3",
            _WIDE_BLOCK + "convShortcut": r"layer\1.\2.shortcut",
        },
    ),
    Layout("RepDistiller's VGGs", _vgg(), differs_at=(64,)),  # there it halves images of this size once more
    Layout("mdistiller's MobileNetV2 for Tiny-ImageNet", _mobilenet()),
)
"""mdistiller has RepDistiller's names; the Tf-KD release has those of ResNet18, ResNet50 and MobileNetV2."""
