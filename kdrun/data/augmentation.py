"""Random crop, flip and rotation of a whole batch: one gather from the resident images.

A view is a pure function of (seed, epoch, position of the image in the training set, number of the view): the same
whatever the batch, the order or the device, so it can be replayed, shared and resumed. Everything is integer
arithmetic, rotation included (16.16 fixed point), and the result is bit for bit what torchvision's RandomCrop,
RandomHorizontalFlip and RandomRotation make of a PIL image with the same parameters.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.seeds import mix
from kdrun.spec.augmentation import Augmentation

from .randomness import uniform32

NUM_ANGLES = 4096
_NUM_STREAMS = 4  # dx, dy, flip, angle
_FIXED_POINT_BITS = 16
_LARGEST_SIDE = 8192  # pixels; beyond it the fixed-point coordinates could leave int32


@dataclass(frozen=True)
class Parameters:
    """The random choices of N views.

    Attributes:
        dx: left edge `[N]` of the crop in the padded image, int64, 0 to `2 * crop_padding`.
        dy: its top edge `[N]`, likewise.
        flip: whether the crop is mirrored, bool `[N]`.
        angle: which of the `NUM_ANGLES` angles the result is turned by, int64 `[N]`; see `angle_degrees`.
    """

    dx: Tensor
    dy: Tensor
    flip: Tensor
    angle: Tensor


def draw(augmentation: Augmentation, index: Tensor, *, seed: int, epoch: int, number: int = 0) -> Parameters:
    """The choices for the images at positions `index` (int64 `[N]`) of the training set in one epoch.

    `number` is 0 for the view that every run has, and more for further ones.
    """
    streams = torch.arange(_NUM_STREAMS, device=index.device)
    draws = uniform32(index.unsqueeze(1) * _NUM_STREAMS + streams, _key(seed, epoch, number))
    dx, dy, flip, angle = draws.unbind(1)
    num_offsets = 2 * augmentation.crop_padding + 1
    return Parameters(
        dx=(dx * num_offsets) >> 32,
        dy=(dy * num_offsets) >> 32,
        flip=flip < (1 << 31 if augmentation.flip else 0),
        angle=(angle * NUM_ANGLES) >> 32,
    )


def draw_flip(index: int, *, seed: int, epoch: int, number: int = 0) -> bool:
    """The `flip` that `draw` has for one image, without operations on tensors."""
    return uniform32(index * _NUM_STREAMS + 2, _key(seed, epoch, number)) < 1 << 31


@functools.lru_cache(maxsize=16)
def _key(seed: int, epoch: int, number: int) -> int:
    return mix("augmentation", seed, epoch, *([number] if number else []))


def angle_degrees(angle: int, rotation: float) -> float:
    """The middle of the `angle`-th of `NUM_ANGLES` equal parts of `[-rotation, rotation]`, counter-clockwise."""
    return rotation * ((2 * angle + 1) / NUM_ANGLES - 1)


def augment(
    images: Tensor, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, number: int = 0
) -> Tensor:
    """Gathers one random view of each image.

    Args:
        images: uint8 `[M, H, W, C]`, contiguous: the whole training set, of images larger than the crop padding.
        index: int64 `[N]`, positions in it, on the same device; N * H * W below 2**31.
        augmentation: of which padded crop, flip and rotation are made here.
        seed: of the data order and augmentation.
        epoch: counted from 0.
        number: of the view, from 0: each is drawn for itself.

    Returns:
        uint8 `[N, H, W, C]`, on the device of `images`.

    Raises:
        ValueError: a side exceeds 8192 pixels.
    """
    num_images, height, width, channels = images.shape
    chosen = images.view(num_images, -1).index_select(0, index).view(-1, height, width, channels)
    return augment_each(chosen, index, augmentation, seed=seed, epoch=epoch, number=number)


def augment_each(
    images: Tensor, index: Tensor, augmentation: Augmentation, *, seed: int, epoch: int, number: int = 0
) -> Tensor:
    """`augment` where `images [N, H, W, C]` are those of the positions `index [N]` alone."""
    num_images, height, width, channels = images.shape
    if not augmentation.moves_pixels:
        return images
    if max(height, width) > _LARGEST_SIDE:
        raise ValueError(f"images of {width} x {height} pixels: augmentation allows sides up to {_LARGEST_SIDE}")
    assert num_images * height * width < 1 << 31, "positions within a batch are int32"
    drawn = draw(augmentation, index, seed=seed, epoch=epoch, number=number)

    # `x` and `y` are, for every output pixel, the column and row it comes from: first within the cropped and flipped
    # image, then within the original. Without rotation they are [N, 1, W] and [N, H, 1], with it [N, H, W].
    x = torch.arange(width, dtype=torch.int32, device=images.device).view(1, 1, width)
    y = torch.arange(height, dtype=torch.int32, device=images.device).view(1, height, 1)
    if augmentation.rotation:
        table = _rotation_table(augmentation.rotation, height, width, images.device)
        x, y = _rotated(x, y, table.index_select(0, drawn.angle))
    flip = _per_image(drawn.flip)
    left = _per_image(drawn.dx - augmentation.crop_padding)
    top = _per_image(drawn.dy - augmentation.crop_padding)
    x = (x * (1 - 2 * flip)).add_(left + flip * (width - 1))
    y = y + top

    # The gather is from the pixels of these N images, with a black one first for positions outside.
    outside = _outside(x, left, width) | _outside(y, top, height)
    first = torch.arange(num_images, dtype=torch.int32, device=images.device).view(-1, 1, 1) * (height * width)
    pixel = ((y * width).add_(first) + x).bitwise_or_(outside).add_(1)
    pixels = F.pad(images.reshape(-1, channels), (0, 0, 1, 0))
    return pixels.index_select(0, pixel.view(-1)).view(-1, height, width, channels)


def _outside(position: Tensor, start: Tensor, size: int) -> Tensor:
    """-1 (all bits set) where a column or row has no source, 0 elsewhere.

    The crop covers `[start, start + size)` of the image, which covers `[0, size)`: what the rotation takes from
    beyond the crop, or the crop from beyond the image, is black. (A flip maps the crop onto itself.) The sign of
    the two distances is read as bits because comparisons are several times slower on the CPU.
    """
    first = start.clamp(min=0)
    last = (start + (size - 1)).clamp(max=size - 1)
    return (position - first).bitwise_or_(last - position).bitwise_right_shift_(31)


def _per_image(values: Tensor) -> Tensor:
    """`[N]` as int32 `[N, 1, 1]`."""
    return values.to(torch.int32).view(-1, 1, 1)


def _rotated(x: Tensor, y: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row, int32 `[N, H, W]`, that each pixel of the rotated image comes from (possibly outside).

    Args:
        x: columns `[1, 1, W]`, int32.
        y: rows `[1, H, 1]`, int32.
        coefficients: rows `[N, 6]` of the rotation table.
    """
    xx, xy, x0, yx, yy, y0 = (coefficient.view(-1, 1, 1) for coefficient in coefficients.unbind(1))
    source_x = (xx * x + (xy * y + x0)).bitwise_right_shift_(_FIXED_POINT_BITS)
    source_y = (yx * x + (yy * y + y0)).bitwise_right_shift_(_FIXED_POINT_BITS)
    return source_x, source_y


@functools.lru_cache(maxsize=16)
def _rotation_table(rotation: float, height: int, width: int, device: torch.device) -> Tensor:
    """The inverse rotations of all angles, int32 `[NUM_ANGLES, 6]`, kept on the device."""
    rows = [_inverse_rotation(angle_degrees(angle, rotation), height, width) for angle in range(NUM_ANGLES)]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _inverse_rotation(degrees: float, height: int, width: int) -> tuple[int, ...]:
    """The affine map from a rotated pixel to its source, in 16.16 fixed point, exactly as PIL computes it.

    `Image.rotate` rounds the cosine and sine to 15 decimals and turns about the centre (W/2, H/2); its nearest
    neighbour transform evaluates the map at pixel centres and rounds the six coefficients to 16 fractional bits.
    """
    radians = -math.radians(degrees % 360.0)
    cosine, sine = round(math.cos(radians), 15), round(math.sin(radians), 15)
    x0 = cosine * (-width / 2) + sine * (-height / 2) + width / 2
    y0 = -sine * (-width / 2) + cosine * (-height / 2) + height / 2
    matrix = (
        *(cosine, sine, x0 + cosine * 0.5 + sine * 0.5),
        *(-sine, cosine, y0 - sine * 0.5 + cosine * 0.5),
    )
    return tuple(math.floor(value * (1 << _FIXED_POINT_BITS) + 0.5) for value in matrix)
