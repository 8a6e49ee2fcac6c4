"""Made-up images for tests and trials: any size, any number of classes, nothing to download."""

from __future__ import annotations

import torch

from ..splits import ImageSet, Splits

_SEED = 0
_CELLS = 4  # a class pattern is 4x4 cells of one colour each
_NOISE = 64  # largest change of a pixel, out of 255


def synthetic(num_classes: int, in_channels: int, image_size: int, train_size: int, test_size: int) -> Splits:
    """Each class is a coarse random pattern, each image its class's pattern with noise on every pixel.

    Always the same images for the same sizes; the classes take turns, so they are equally frequent.
    """
    generator = torch.Generator().manual_seed(_SEED)
    patterns = torch.randint(0, 256, (num_classes, _CELLS, _CELLS, in_channels), generator=generator)
    cell = torch.arange(image_size) * _CELLS // image_size
    enlarged = patterns[:, cell][:, :, cell]

    def images(size: int) -> ImageSet:
        labels = torch.arange(size) % num_classes
        shape = (size, image_size, image_size, in_channels)
        noise = torch.randint(-_NOISE, _NOISE + 1, shape, generator=generator)
        return ImageSet((enlarged[labels] + noise).clamp(0, 255).to(torch.uint8), labels)

    names = tuple(f"class {label}" for label in range(num_classes))
    return Splits(train=images(train_size), test=images(test_size), class_names=names)
