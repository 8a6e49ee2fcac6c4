"""From pixels to a network's input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Normalisation:
    """`(x / 255 - mean) / std` of uint8 images `[N, H, W, C]`: float32 `[N, C, H, W]` in channels_last memory.

    Args:
        mean: per channel, of pixels scaled to [0, 1].
        std: likewise; positive.
        size: height and width.
        device: of the images.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], size: tuple[int, int], device: torch.device | str
    ) -> None:
        # As x * scale + shift. Spread over [H, W, C], because broadcasting along an inner dimension of three elements
        # would be the slowest part of a batch on the CPU.
        scale = torch.tensor([1 / (255 * deviation) for deviation in std])
        shift = torch.tensor([-centre / deviation for centre, deviation in zip(mean, std, strict=True)])
        self._scale = scale.expand(*size, len(scale)).contiguous().to(device)
        self._shift = shift.expand(*size, len(shift)).contiguous().to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(self._shift, pixels.float(), self._scale).permute(0, 3, 1, 2)
