"""Names of tensors in other code's networks: RepDistiller (Tian et al. 2020), mdistiller (Zhao et al. 2022) and
torchvision.

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


def _torchvision_mobilenet() -> dict[str, str]:
    """Blocks are counted through, `features.1` to `features.17`; the first has no expansion."""
    paths = {"classifier.1": "classifier"}
    for i, module in enumerate(("conv", "bn")):
        paths |= {rf"features.0.{i}": f"stem.{module}", rf"features.18.{i}": f"head.{module}"}
    number = 0
    for layer, depth in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for block in range(depth):
            number += 1
            parts = ("depthwise", "project") if layer == 0 else ("expand", "depthwise", "project")
            for i, part in enumerate(parts):
                theirs = [f"{i}", f"{i + 1}"] if part == "project" else [f"{i}.0", f"{i}.1"]
                for name, module in zip(theirs, ("conv", "bn"), strict=True):
                    paths[rf"features\.{number}\.conv\.{name}"] = f"layer{layer + 1}.{block}.branch.{part}.{module}"
    return paths


def _torchvision_shufflenet() -> dict[str, str]:
    paths = {"conv1.0": "stem.conv", "conv1.1": "stem.bn", "conv5.0": "head.conv", "conv5.1": "head.bn"}
    paths["fc"] = "classifier"
    branches = {
        "branch1": (("shortcut.depthwise", 0), ("shortcut.expand", 2)),
        "branch2": (("branch.reduce", 0), ("branch.depthwise", 3), ("branch.expand", 5)),
    }
    for stage in (2, 3, 4):
        for branch, parts in branches.items():
            for part, first in parts:
                for i, module in enumerate(("conv", "bn")):
                    paths[rf"stage{stage}\.(\d+)\.{branch}\.{first + i}"] = rf"layer{stage - 1}.\1.{part}.{module}"
    return paths


def _torchvision_densenet() -> dict[str, str]:
    paths = {"features.conv0": "stem.conv", "features.norm0": "stem.bn", "features.norm5": "head.norm"}
    paths["classifier"] = "classifier"
    layer = r"features\.denseblock(\d)\.denselayer(\d+)\."
    inside = {"norm1": "norm", "conv1": "reduce.conv", "norm2": "reduce.bn", "conv2": "conv"}
    paths |= {layer + theirs: rf"layer\1.dense\2.branch.{ours}" for theirs, ours in inside.items()}
    for number in (1, 2, 3):
        paths[rf"features\.transition{number}\.(norm|conv)"] = rf"layer{number + 1}.transition.\1"
    return paths


_WIDE_BLOCK = r"block([123])\.layer\.(\d+)\."
LAYOUTS = (
    Layout("RepDistiller's ResNets for CIFAR and torchvision's ResNets", _residual("1234", 3, "downsample", "fc")),
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
    Layout("torchvision's MobileNetV2", _torchvision_mobilenet()),
    Layout("torchvision's ShuffleNetV2", _torchvision_shufflenet()),
    Layout("torchvision's DenseNets", _torchvision_densenet()),
)
"""mdistiller has RepDistiller's names; the Tf-KD release has those of ResNet18, ResNet50 and MobileNetV2."""
