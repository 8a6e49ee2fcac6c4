"""Corruptions against padding and slices, and against a bilinear computation pixel by pixel."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdrun.papers.abnar2020.corruptions import rotate, scale, stripe, translate

CORRUPTIONS = (translate, scale, rotate, stripe)

SIZES = [(28, 28, 1), (8, 8, 1), (32, 32, 3), (9, 14, 2), (1, 1, 1)]


def random_images(num: int, height: int, width: int, channels: int) -> torch.Tensor:
    """Without black, so that what is filled in is told apart."""
    generator = torch.Generator().manual_seed(num * height * width * channels)
    return torch.randint(1, 256, (num, height, width, channels), generator=generator, dtype=torch.uint8)


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """An image `[H, W, C]`, black entering."""
    height, width, _ = image.shape
    padded = F.pad(image, (0, 0, *[abs(right)] * 2, *[abs(down)] * 2))
    top, left = abs(down) - down, abs(right) - right
    return padded[top : top + height, left : left + width]


def directions(images: torch.Tensor, by_rows: int, by_columns: int) -> list[tuple[int, int]]:
    """Which of the four shifts each image got; fails where none is equal."""
    ways = [(down, right) for down in (-by_rows, by_rows) for right in (-by_columns, by_columns)]
    found = []
    for image, moved in zip(images, translate(images), strict=True):
        (way,) = [way for way in ways if torch.equal(moved, shifted(image, *way))]
        found.append(way)
    return found


def between(image: torch.Tensor, row: float, column: float) -> torch.Tensor:
    """The bilinear value `[C]` at a place of an image `[H, W, C]`, black outside."""
    height, width, channels = image.shape
    value = torch.zeros(channels, dtype=torch.float64)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < height and 0 <= c < width:
                value += image[r, c].double() * (1 - abs(row - r)) * (1 - abs(column - c))
    return value


def warped(image: torch.Tensor, matrix: list[list[float]]) -> torch.Tensor:
    """Pixels at offset (x, y) from the centre taken from `matrix (x, y)`; not rounded."""
    height, width, _ = image.shape
    (a, b), (c, d) = matrix
    mid_row, mid_column = (height - 1) / 2, (width - 1) / 2
    return torch.stack(
        [
            torch.stack(
                [
                    between(
                        image,
                        mid_row + c * (column - mid_column) + d * (row - mid_row),
                        mid_column + a * (column - mid_column) + b * (row - mid_row),
                    )
                    for column in range(width)
                ]
            )
            for row in range(height)
        ]
    )


def is_rounded(found: torch.Tensor, exact: torch.Tensor) -> bool:
    return bool(((found.double() - exact).abs() <= 0.5 + 1e-6).all())


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_a_corruption_is_a_function_of_images_of_any_size(corrupt, size):
    images = random_images(6, *size)
    before, state = images.clone(), torch.get_rng_state()
    found = corrupt(images)
    assert (found.dtype, found.shape) == (torch.uint8, images.shape)
    assert torch.equal(images, before)
    assert found.data_ptr() != images.data_ptr()
    assert torch.equal(corrupt(images), found)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(corrupt(images[:4]), found[:4]), "of a position, not of how many there are"
    assert corrupt(images[:0]).shape == (0, *size)


@pytest.mark.parametrize(("size", "by"), [((28, 28, 1), (3, 3)), ((32, 32, 3), (3, 3)), ((8, 8, 1), (1, 1))])
def test_translate_shifts_diagonally_every_way(size, by):
    found = directions(random_images(200, *size), *by)
    assert {found.count(way) > 30 for way in set(found)} == {True}
    assert len(set(found)) == 4
    assert found[:3] == directions(random_images(3, *size), *by)


def test_the_draws_are_always_the_same():
    found = directions(random_images(8, 28, 28, 1), 3, 3)
    assert found == [(3, -3), (-3, -3), (3, 3), (3, 3), (3, 3), (3, -3), (-3, -3), (-3, -3)]
    images = torch.zeros(8, 28, 28, 1, dtype=torch.uint8)
    images[:, 13:15, 24] = 255
    clockwise = [bool(turned[14:].sum() > turned[:14].sum()) for turned in rotate(images)]
    assert clockwise == [True, True, True, False, False, False, False, False]


@pytest.mark.parametrize("size", [(28, 28, 1), (9, 14, 3)])
def test_scale_equals_an_independent_bilinear_computation(size):
    images = random_images(2, *size)
    for image, found in zip(images, scale(images), strict=True):
        assert is_rounded(found, warped(image, [[1 / 0.7, 0], [0, 1 / 0.7]]))


def test_half_a_level_is_rounded_up():
    images = torch.zeros(1, 28, 28, 1, dtype=torch.uint8)
    images[0, 18:20, 18] = torch.tensor([[100], [101]])  # at x = 17, 13.5 + 3.5 / 0.7 = 18.5: a quarter of each
    images[0, 18:20, 19] = torch.tensor([[100], [101]])
    assert scale(images)[0, 17, 17] == 101
    images[0, 18:20, 18:20] = 254
    assert scale(images)[0, 17, 17] == 254


@pytest.mark.parametrize("size", [(28, 28, 1), (9, 14, 3)])
def test_rotate_turns_by_two_fifths_of_a_radian_either_way(size):
    images = random_images(12, *size)
    turned = []
    for image, found in zip(images, rotate(images), strict=True):
        cos, sin = math.cos(0.4), math.sin(0.4)
        ways = [is_rounded(found, warped(image, [[cos, -s], [s, cos]])) for s in (sin, -sin)]
        assert sum(ways) == 1
        turned.append(ways[0])
    assert set(turned) == {True, False}


def test_stripe_inverts_the_outer_quarters():
    images = random_images(2, 28, 28, 1)
    expected = images.clone()
    for column in [*range(7), *range(21, 28)]:
        expected[:, :, column] = 255 - images[:, :, column]
    assert torch.equal(stripe(images), expected)
