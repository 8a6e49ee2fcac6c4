"""Converts a student's views to the input of a teacher of another dataset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conversion(nn.Module):
    """From one dataset's normalised images to another's: size, channels, mean and standard deviation.

    Pixels are brought back to [0, 1], repeated (1 -> 3 channels) or averaged (3 -> 1), resized bilinearly
    (antialiased where that shrinks them), and normalised anew. That is ours: the papers that transfer between datasets
    resize and crop the files themselves.

    Args:
        mean: of the student's images, one entry per channel, of pixels in [0, 1].
        std: likewise.
        image_size: height and width in pixels that the teacher takes.
        to_mean: of the teacher's images, one entry for each of its channels.
        to_std: likewise.
    """

    mean: Tensor
    std: Tensor
    to_mean: Tensor
    to_std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        to_mean: Sequence[float],
        to_std: Sequence[float],
    ) -> None:
        super().__init__()
        self._image_size = image_size
        for name, values in (("mean", mean), ("std", std), ("to_mean", to_mean), ("to_std", to_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Converts `[N, C, H, W]` to `[N, C', image_size, image_size]`, in channels_last memory."""
        pixels = x * self.std + self.mean
        channels = self.to_mean.shape[1]
        if pixels.shape[1] != channels:
            pixels = pixels.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
        if pixels.shape[-1] != self._image_size:
            pixels = F.interpolate(pixels, size=2 * (self._image_size,), mode="bilinear", antialias=True)
        return ((pixels - self.to_mean) / self.to_std).contiguous(memory_format=torch.channels_last)
