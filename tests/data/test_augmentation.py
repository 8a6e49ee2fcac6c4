"""Augmentation against PIL and torchvision, bit for bit, and its randomness."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as transforms

from kdrun.data import Augmentation, augment
from kdrun.data import augmentation as implementation
from kdrun.data.augmentation import NUM_ANGLES, angle_degrees, draw


def random_images(num: int, height: int, width: int, channels: int) -> torch.Tensor:
    """Without black, so that what is filled in is told apart from what is copied."""
    generator = torch.Generator().manual_seed(num * height * width * channels)
    return torch.randint(1, 256, (num, height, width, channels), generator=generator, dtype=torch.uint8)


def shuffled(num: int) -> torch.Tensor:
    return torch.randperm(num, generator=torch.Generator().manual_seed(num))


def to_pil(image: torch.Tensor) -> Image.Image:
    """An image `[H, W, C]` as torchvision's transforms take it."""
    return transforms.to_pil_image(image.permute(2, 0, 1))


def with_torchvision(image: torch.Tensor, law: Augmentation, index: int, *, seed: int, epoch: int) -> torch.Tensor:
    """RandomCrop, RandomHorizontalFlip and RandomRotation of one image by torchvision, with the parameters drawn."""
    drawn = draw(law, torch.tensor([index]), seed=seed, epoch=epoch)
    height, width, _ = image.shape
    picture = transforms.pad(to_pil(image), law.crop_padding)
    picture = transforms.crop(picture, int(drawn.dy), int(drawn.dx), height, width)
    if drawn.flip:
        picture = transforms.hflip(picture)
    if law.rotation:
        picture = transforms.rotate(picture, angle_degrees(int(drawn.angle), law.rotation), fill=0)
    return transforms.pil_to_tensor(picture).permute(1, 2, 0)


@pytest.mark.parametrize(
    ("law", "size"),
    [
        (Augmentation(crop_padding=1, rotation=10.0), (8, 8, 1)),
        (Augmentation(crop_padding=3, flip=True, rotation=180.0), (28, 28, 1)),
        (Augmentation(crop_padding=4, flip=True, rotation=15.0), (32, 32, 3)),
        (Augmentation(crop_padding=4, flip=True), (32, 32, 3)),
        (Augmentation(flip=True, rotation=20.0), (64, 64, 3)),
        (Augmentation(crop_padding=2, flip=True, rotation=90.0), (9, 14, 3)),
        (Augmentation(flip=True), (5, 5, 1)),
    ],
)
def test_views_are_torchvisions(law, size):
    images = random_images(200, *size)
    index = shuffled(200)
    views = augment(images, index, law, seed=5, epoch=3)
    expected = [with_torchvision(images[i], law, int(i), seed=5, epoch=3) for i in index]
    assert torch.equal(views, torch.stack(expected))


@pytest.mark.parametrize("size", [8, 32])
def test_every_rotation_is_pils(size, monkeypatch):
    """A thousand angles over the full circle, each forced in turn instead of drawn."""
    image = random_images(1, size, size, 1)
    law = Augmentation(rotation=180.0)
    angles = torch.arange(0, NUM_ANGLES, 4)

    def draw(law, index, *, seed, epoch, number):
        zero = torch.zeros_like(index)
        return implementation.Parameters(dx=zero, dy=zero, flip=zero.bool(), angle=angles)

    monkeypatch.setattr(implementation, "draw", draw)
    views = augment(image, torch.zeros_like(angles), law, seed=0, epoch=0)
    for angle, view in zip(angles.tolist(), views, strict=True):
        expected = to_pil(image[0]).rotate(angle_degrees(angle, 180.0))
        assert bytes(view.flatten().tolist()) == expected.tobytes(), f"angle {angle_degrees(angle, 180.0)}"


def test_angles_are_centred_and_equally_spaced():
    degrees = torch.tensor([angle_degrees(angle, 15.0) for angle in range(NUM_ANGLES)], dtype=torch.float64)
    assert torch.allclose(degrees, -degrees.flip(0), rtol=0, atol=1e-12)
    assert torch.allclose(degrees.diff(), torch.tensor(30.0 / NUM_ANGLES, dtype=torch.float64), rtol=0, atol=1e-12)
    assert 15 - 30.0 / NUM_ANGLES < degrees.max() < 15


LAW = Augmentation(crop_padding=4, flip=True, rotation=15.0)


def test_a_view_depends_on_seed_epoch_and_index_alone():
    images = random_images(64, 12, 12, 3)
    everything = torch.arange(64)
    together = augment(images, everything, LAW, seed=1, epoch=2)
    order = shuffled(64)
    for part in order.split([1, 13, 50]):
        assert torch.equal(augment(images, part, LAW, seed=1, epoch=2), together[part])
    assert not torch.equal(augment(images, everything, LAW, seed=1, epoch=3), together)
    assert not torch.equal(augment(images, everything, LAW, seed=2, epoch=2), together)


def test_no_augmentation_copies():
    images = random_images(10, 6, 6, 3)
    index = torch.tensor([3, 3, 9])
    assert torch.equal(augment(images, index, Augmentation(), seed=0, epoch=0), images[index])


def test_options_that_are_off_draw_nothing():
    drawn = draw(Augmentation(), torch.arange(1000), seed=0, epoch=0)
    assert not drawn.flip.any()
    assert not drawn.dx.any()
    assert not drawn.dy.any()


def chi_square(values: torch.Tensor, num_bins: int) -> float:
    """Pearson's statistic of whole numbers in [0, num_bins) against equal frequencies."""
    assert 0 <= values.min() <= values.max() < num_bins
    expected = len(values) / num_bins
    return float(((values.bincount(minlength=num_bins) - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("epoch", [0, 1, 199])
def test_draws_are_uniform_and_independent(epoch):
    """Pearson's statistic with k bins is k - 1 +- sqrt(2 (k - 1)); six deviations are allowed."""
    num = 50_000
    drawn = draw(LAW, torch.arange(num), seed=0, epoch=epoch)
    following = draw(LAW, torch.arange(num), seed=0, epoch=epoch + 1)
    flip, angle = drawn.flip.long(), drawn.angle // (NUM_ANGLES // 16)
    for values, bins in [
        (drawn.dx, 9),
        (drawn.dy, 9),
        (flip, 2),
        (drawn.angle // 16, NUM_ANGLES // 16),
        (drawn.dx * 9 + drawn.dy, 81),
        ((drawn.dx * 2 + flip) * 16 + angle, 9 * 2 * 16),
        (drawn.dx * 9 + following.dx, 81),
        (flip[:-1] * 2 + flip[1:], 4),
        (drawn.dx[:-1] * 9 + drawn.dx[1:], 81),
    ]:
        freedom = bins - 1
        assert abs(chi_square(values, bins) - freedom) < 6 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": -1}, r"crop_padding=-1"),
        ({"crop_padding": 1.5}, r"crop_padding=1\.5: .* whole number"),
        ({"crop_padding": True}, r"crop_padding=True"),
        ({"flip": 1}, r"flip=1"),
        ({"rotation": 180.5}, r"rotation=180\.5: must be from 0 to 180"),
        ({"rotation": float("nan")}, r"rotation=nan"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


@pytest.mark.gpu
def test_views_are_the_same_on_the_gpu():
    images, index = random_images(300, 32, 32, 3), shuffled(300)
    on_gpu = augment(images.cuda(), index.cuda(), LAW, seed=7, epoch=11)
    assert torch.equal(on_gpu.cpu(), augment(images, index, LAW, seed=7, epoch=11))
