"""Corruptions of whole test sets, after MNIST-C (Mu and Gilmer 2019): what they ask of a network outside its data.

Each is a pure function from uint8 `[N, H, W, C]` to the same, on the images' device. What is random is a function of
the position in the set and of the corruption's name: the whole test set, corrupted at once, is always the same.

The definitions are those of google-research/mnist-c, `corruptions.py`, at its default severities. The draws are ours:
an image that MNIST-C shifts to the left may go to the right here. MNIST-C's images are 28x28; at other sizes lengths
are the same shares of the side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.data.randomness import uniform32
from kdrun.seeds import mix

_SHIFT = 3 / 28  # share of the side
_SCALE = 0.7
_ROTATION = 0.4  # radians
_CHUNK = 512  # images: bounds the memory of float64 copies


def translate(images: Tensor) -> Tensor:
    """Shifts each image by 3/28 of its height and of its width, each up or down, left or right at random; black enters.

    At 28x28, as in MNIST-C at severity 3, by 3 pixels. At other sizes rounded to whole pixels, at least 1.
    """
    height, width = images.shape[1:3]
    down, right = (max(1, round(_SHIFT * side)) for side in (height, width))
    padded = F.pad(images, (0, 0, right, right, down, down))
    shifted = torch.empty_like(images)
    choice = 2 * _coin(images, "translate rows") + _coin(images, "translate columns")
    for number, (top, left) in enumerate([(0, 0), (0, 2 * right), (2 * down, 0), (2 * down, 2 * right)]):
        chosen = choice == number
        shifted[chosen] = padded[chosen, top : top + height, left : left + width]
    return shifted


def scale(images: Tensor) -> Tensor:
    """Shrinks each image to 70 % about its centre, bilinear, black around it (MNIST-C at severity 3).

    A pixel at an offset from the centre is the value at 1/0.7 of it, between four pixels. There is no smoothing.
    """
    matrix = torch.eye(2, dtype=torch.float64) / _SCALE
    return _warped(images, matrix.expand(len(images), 2, 2))


def rotate(images: Tensor) -> Tensor:
    """Turns each image by 0.4 radians about its centre, either way at random, bilinear, black around it.

    MNIST-C at its default severity, 2.
    """
    angle = _ROTATION * (2 * _coin(images, "rotate").cpu().double() - 1)
    rows = [torch.stack([angle.cos(), -angle.sin()], dim=1), torch.stack([angle.sin(), angle.cos()], dim=1)]
    return _warped(images, torch.stack(rows, dim=1))


def stripe(images: Tensor) -> Tensor:
    """Inverts all but the middle half of the columns: at 28x28, as in MNIST-C, the first 7 and the last 7."""
    columns = torch.arange(images.shape[2], device=images.device)
    quarter = images.shape[2] // 4
    outer = (columns < quarter) | (columns >= images.shape[2] - quarter)
    return torch.where(outer[:, None], 255 - images, images)


def _coin(images: Tensor, purpose: str) -> Tensor:
    """0 or 1 for each image, int64 `[N]`: a function of its position and of what it is drawn for."""
    positions = torch.arange(len(images), device=images.device)
    return uniform32(positions, mix("corruption", purpose)) >> 31


def _warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Images whose pixel at offset (x, y) from the centre is what the original has at `matrix @ (x, y)`.

    Between pixels bilinear, outside black, rounded to the nearest.

    Args:
        images: uint8 `[N, H, W, C]`.
        matrices: float64 `[N, 2, 2]`, in pixels.
    """
    num_images, height, width, channels = images.shape
    # affine_grid takes coordinates in halves of the sides.
    ratio = torch.tensor([[1.0, height / width], [width / height, 1.0]], dtype=torch.float64)
    affine = F.pad(matrices * ratio, (0, 1)).to(images.device)
    warped = torch.empty_like(images)
    for start in range(0, num_images, _CHUNK):
        part = slice(start, start + _CHUNK)
        pixels = images[part].permute(0, 3, 1, 2).double()
        grid = F.affine_grid(affine[part], [len(pixels), channels, height, width], align_corners=False)
        sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        # Half a level is common (`scale` halves the way between pixels): it goes up, whatever the rounding before it.
        warped[part] = (sampled + (0.5 + 1e-6)).floor().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return warped
