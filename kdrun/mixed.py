"""Labels of images that are mixed in pairs (mixup, cutmix)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Mixed(NamedTuple):
    """The second labels of a batch of N mixed images.

    Attributes:
        y: labels of the partners, `[N]`, int64.
        weight: of the image's own label, `[N]`, float32 in [0, 1]; that of the partner's is `1 - weight`.
    """

    y: Tensor
    weight: Tensor
