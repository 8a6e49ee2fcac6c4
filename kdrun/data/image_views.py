"""One random view of one image: resized crop, flip, colour jitter and RandAugment on uint8 pixels in the host's memory.

A view is a pure function of (seed, epoch, position of the image in the training set, number of the view), as those of
`augmentation.py` are: it can be made by any worker. The pixels are those of torchvision's functions for uint8 tensors
with the same parameters. The parameters are distributed as torchvision draws them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdrun.seeds import mix
from kdrun.spec.augmentation import Augmentation, ColorJitter, RandAugment

from .augmentation import augment_each, draw_flip
from .randomness import uniform32

NUM_ATTEMPTS = 10
"""Random pieces that RandomResizedCrop tries before it takes the middle of the image."""

_MOST_NUMBERS = 64
"""Random numbers of one view for one purpose, at most."""

_ORDERS = tuple(itertools.permutations(("brightness", "contrast", "saturation", "hue")))


def view(
    image: Tensor, augmentation: Augmentation, index: int, *, seed: int, epoch: int, size: int, number: int = 0
) -> Tensor:
    """The view of one image.

    Args:
        image: uint8 `[H, W, C]` on the CPU, of any strides; of any size with `crop_scale`, else H = W = `size`.
        augmentation: the law. Erasing and mixing are of normalised batches (`mixing.join_views`).
        index: position of the image in the training set, below 2**26.
        seed: of the data order and augmentation.
        epoch: counted from 0.
        size: height and width of the view.
        number: of the view, from 0: each is drawn for itself.

    Returns:
        uint8 `[size, size, C]`, contiguous.
    """
    where = {"seed": seed, "epoch": epoch, "number": number}
    if augmentation.crop_scale is not None:
        box = draw_crop(augmentation, index, image.shape[0], image.shape[1], **where)
        image = resized_crop(image, box, size)
    if augmentation.crop_padding or augmentation.rotation:
        image = augment_each(image.unsqueeze(0), torch.tensor([index]), augmentation, **where)[0]
    elif augmentation.flip and draw_flip(index, **where):
        image = image.flip(1)
    if augmentation.color_jitter != ColorJitter() or augmentation.rand_augment.num_ops:
        planes = image.permute(2, 0, 1).contiguous()  # sums of floats depend on the layout
        for name, factor in draw_jitter(augmentation.color_jitter, index, **where):
            planes = adjust(planes, name, factor)
        for name, magnitude in draw_operations(augmentation.rand_augment, index, size, **where):
            planes = operate(planes, name, magnitude)
        image = torch.stack(planes.unbind(), 2)  # faster than copying a permuted tensor
    return image.contiguous()


def draw_crop(
    augmentation: Augmentation, index: int, height: int, width: int, *, seed: int, epoch: int, number: int = 0
) -> tuple[int, int, int, int]:
    """Top, left, height and width in pixels of the piece that RandomResizedCrop cuts out of an image of this size."""
    assert augmentation.crop_scale is not None, "no resized crop"
    draws = _Draws("resized_crop", index, seed, epoch, number)
    narrowest, widest = augmentation.crop_ratio
    for _ in range(NUM_ATTEMPTS):
        area = height * width * draws.uniform(*augmentation.crop_scale)
        ratio = math.exp(draws.uniform(math.log(narrowest), math.log(widest)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return draws.below(height - h + 1), draws.below(width - w + 1), h, w
    w = min(width, round(height * widest))
    h = min(height, round(width / narrowest))
    return (height - h) // 2, (width - w) // 2, h, w


def draw_jitter(jitter: ColorJitter, index: int, *, seed: int, epoch: int, number: int = 0) -> list[tuple[str, float]]:
    """ColorJitter's changes in their order: what is adjusted, and the factor (of hue the shift)."""
    draws = _Draws("color_jitter", index, seed, epoch, number)
    order = _ORDERS[draws.below(len(_ORDERS))]
    factors = {}
    for name, strength in vars(jitter).items():
        low, high = (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)
        factors[name] = draws.uniform(low, high)
    return [(name, factors[name]) for name in order if getattr(jitter, name)]


def draw_operations(
    law: RandAugment, index: int, size: int, *, seed: int, epoch: int, number: int = 0
) -> list[tuple[str, float]]:
    """RandAugment's operations on a view of `size` x `size` pixels in their order: name and magnitude."""
    draws = _Draws("rand_augment", index, seed, epoch, number)
    operations = _operations(law.magnitude, law.num_magnitude_bins, size)
    drawn = []
    for _ in range(law.num_ops):
        name, magnitude, signed = operations[draws.below(len(operations))]
        negative = draws.below(2) == 0
        drawn.append((name, -magnitude if signed and negative else magnitude))
    return drawn


def resized_crop(image: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """A piece (top, left, height, width) of an image `[H, W, C]`, resized to `[size, size, C]`: bilinear, antialiased.

    The piece is copied before it is resized, without its surroundings and in the layout that torch resizes fastest.
    """
    from torchvision.transforms.v2 import functional

    top, left, height, width = box
    piece = image[top : top + height, left : left + width].contiguous().permute(2, 0, 1)
    resized: Tensor = functional.resize(piece, [size, size], antialias=True)
    return resized.permute(1, 2, 0)


def adjust(planes: Tensor, name: str, factor: float) -> Tensor:
    """What torchvision's `adjust_brightness`, and so on, makes of uint8 `[C, H, W]`."""
    from torchvision.transforms.v2 import functional

    adjusted: Tensor = getattr(functional, f"adjust_{name}")(planes, factor)
    return adjusted


def operate(planes: Tensor, name: str, magnitude: float) -> Tensor:
    """One operation of torchvision's RandAugment on uint8 `[C, H, W]`; black comes in from outside."""
    from torchvision.transforms.v2 import functional

    def affine(*, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        centre = [0.0, 0.0] if any(shear) else None  # the corner, as in AutoAugment's released code
        bilinear = functional.InterpolationMode.BILINEAR
        moved: Tensor = functional.affine(planes, 0.0, list(translate), 1.0, list(shear), bilinear, center=centre)
        return moved

    degrees = math.degrees(math.atan(magnitude))
    made: dict[str, Callable[[], Tensor]] = {
        "Identity": lambda: planes,
        "ShearX": lambda: affine(shear=(degrees, 0.0)),
        "ShearY": lambda: affine(shear=(0.0, degrees)),
        "TranslateX": lambda: affine(translate=(int(magnitude), 0)),
        "TranslateY": lambda: affine(translate=(0, int(magnitude))),
        "Rotate": lambda: functional.rotate(planes, magnitude, functional.InterpolationMode.BILINEAR),
        "Brightness": lambda: adjust(planes, "brightness", 1 + magnitude),
        "Color": lambda: adjust(planes, "saturation", 1 + magnitude),
        "Contrast": lambda: adjust(planes, "contrast", 1 + magnitude),
        "Sharpness": lambda: adjust(planes, "sharpness", 1 + magnitude),
        "Posterize": lambda: functional.posterize(planes, int(magnitude)),
        "Solarize": lambda: functional.solarize(planes, 255 * magnitude),
        "AutoContrast": lambda: functional.autocontrast(planes),
        "Equalize": lambda: functional.equalize(planes),
    }
    return made[name]()


@functools.lru_cache(maxsize=16)
def _operations(magnitude: int, bins: int, size: int) -> tuple[tuple[str, float, bool], ...]:
    """RandAugment's operations: name, magnitude, and whether half of them have it negative."""

    def strength(first: float, last: float) -> float:
        return float(torch.linspace(first, last, bins)[magnitude])

    return (
        ("Identity", 0.0, False),
        *((name, strength(0.0, 0.3), True) for name in ("ShearX", "ShearY")),
        *((name, strength(0.0, 150.0 / 331.0 * size), True) for name in ("TranslateX", "TranslateY")),
        ("Rotate", strength(0.0, 30.0), True),
        *((name, strength(0.0, 0.9), True) for name in ("Brightness", "Color", "Contrast", "Sharpness")),
        ("Posterize", float(8 - round(magnitude / ((bins - 1) / 4))), False),
        ("Solarize", strength(1.0, 0.0), False),
        ("AutoContrast", 0.0, False),
        ("Equalize", 0.0, False),
    )


class _Draws:
    """The random numbers of one view for one purpose, one after the other."""

    def __init__(self, purpose: str, index: int, seed: int, epoch: int, number: int) -> None:
        self._key = _key(purpose, seed, epoch, number)
        self._counter = index * _MOST_NUMBERS

    def below(self, limit: int) -> int:
        """From 0 to `limit - 1`."""
        value = uniform32(self._counter, self._key)
        self._counter += 1
        return (value * limit) >> 32

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * (self.below(1 << 32) / (1 << 32))


@functools.lru_cache(maxsize=64)
def _key(purpose: str, seed: int, epoch: int, number: int) -> int:
    return mix(purpose, seed, epoch, number)
