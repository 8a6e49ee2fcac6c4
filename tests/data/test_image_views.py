"""Views of single images against torchvision: the same pixels given the parameters, the same distribution of these."""

import collections
import dataclasses

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from kdrun.data import Augmentation, ImageSet, ResidentImages, StreamedImages, TrainingViews, Workers, augment
from kdrun.data import image_views as implementation
from kdrun.data.image_views import draw_crop, draw_jitter, draw_operations, view
from kdrun.data.mixing import join_views
from kdrun.spec.augmentation import ColorJitter, RandAugment, RandomErasing

EVERYTHING = Augmentation(
    crop_padding=2,
    flip=True,
    rotation=25.0,
    crop_scale=(0.2, 0.9),
    crop_ratio=(0.5, 1.5),
    color_jitter=ColorJitter(0.4, 0.5, 0.6, 0.1),
    rand_augment=RandAugment(num_ops=2, magnitude=4, num_magnitude_bins=11),
    random_erasing=RandomErasing(p=0.5, scale=(0.1, 0.2), ratio=(0.5, 1.5)),
    mixup_alpha=0.4,
    cutmix_alpha=1.0,
)
WHERE = {"seed": 3, "epoch": 1, "number": 0}
NUM = 3000
LEAST_P = 1e-3
"""Of a test of two samples of equal distribution: the draws are the same at every call of these tests."""


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """A smooth image with some noise, uint8 `[H, W, C]`: operations on grey noise would be alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 4, 4, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    noise = torch.randn(smooth.shape, generator=generator) * 8
    return (smooth + noise).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def planes(image: torch.Tensor) -> torch.Tensor:
    """`[C, H, W]` in its usual layout."""
    return image.permute(2, 0, 1).contiguous()


@pytest.mark.parametrize("law", [Augmentation(flip=True), Augmentation(crop_padding=2, flip=True, rotation=20.0)])
def test_padded_crop_flip_and_rotation_are_those_of_whole_batches(law):
    images = torch.stack([picture(12, 12, seed=seed) for seed in range(40)])
    whole = augment(images, torch.arange(40), law, **WHERE)
    alone = [view(image, law, index, size=12, **WHERE) for index, image in enumerate(images)]
    assert torch.equal(torch.stack(alone), whole)


@pytest.mark.parametrize("size", [(40, 56, 3), (33, 20, 1), (24, 24, 3)])
def test_resized_crops_are_torchvisions_whatever_the_layout(size):
    image, law = picture(*size), Augmentation(crop_scale=(0.08, 1.0), flip=True)
    for index in range(60):
        box = draw_crop(law, index, *size[:2], **WHERE)
        expected = functional.resized_crop(planes(image), *box, [24, 24], antialias=True)
        made = view(image, law, index, size=24, **WHERE)
        if implementation.draw_flip(index, **WHERE):
            expected = functional.horizontal_flip(expected)
        assert torch.equal(made, expected.permute(1, 2, 0))
        assert torch.equal(made, view(planes(image).permute(1, 2, 0), law, index, size=24, **WHERE))
        assert made.is_contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_jittered_colours_are_torchvisions(channels):
    image = picture(20, 20, channels)
    law = Augmentation(color_jitter=ColorJitter(0.5, 0.5, 0.5, 0.2) if channels == 3 else ColorJitter(0.5, 0.5))
    names, orders = ("brightness", "contrast", "saturation", "hue"), set()
    for index in range(80):
        drawn = draw_jitter(law.color_jitter, index, **WHERE)
        orders.add(tuple(name for name, _ in drawn))
        factors = {f"{name}_factor": dict(drawn).get(name) for name in names}
        order = torch.tensor([names.index(name) for name, _ in drawn])
        expected = v2.ColorJitter().transform(planes(image), {"fn_idx": order, **factors})
        assert torch.equal(view(image, law, index, size=20, **WHERE), expected.permute(1, 2, 0))
    assert len(orders) > (12 if channels == 3 else 1)


@pytest.mark.parametrize(("magnitude", "bins"), [(9, 31), (0, 2), (10, 11), (4, 5)])
def test_the_operations_of_randaugment_are_torchvisions(monkeypatch, magnitude, bins):
    """Each operation with either sign, on a colour and a grey image; the draws of both sides are replaced."""
    law = Augmentation(rand_augment=RandAugment(1, magnitude, bins))
    theirs = v2.RandAugment(1, magnitude, bins, interpolation=v2.InterpolationMode.BILINEAR)
    for image in (picture(32, 32), picture(32, 32, channels=1)):
        changed = 0
        for operation in range(14):
            for negative in (True, False):
                monkeypatch.setattr(
                    implementation._Draws, "below", lambda _, n, op=operation, sign=negative: [1 - sign, op][n == 14]
                )
                monkeypatch.setattr(torch, "randint", lambda n, _, op=operation: torch.tensor([op][n != 14]))
                monkeypatch.setattr(torch, "rand", lambda _, sign=negative: torch.tensor(0.25 if sign else 0.75))
                expected = theirs(planes(image))
                made = view(image, law, 0, size=32, **WHERE)
                monkeypatch.undo()
                assert torch.equal(made, expected.permute(1, 2, 0)), (operation, negative)
                changed += not torch.equal(made, image)
        assert changed >= (10 if magnitude else 4), "most operations act on these images"


def samples_agree(ours: list[float], theirs: list[float]) -> bool:
    return stats.ks_2samp(ours, theirs, method="asymp").pvalue > LEAST_P


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (60, 90, (0.08, 1.0), (3 / 4, 4 / 3)),
        (40, 40, (0.5, 0.6), (0.5, 2.0)),
        (30, 55, (0.6, 1.0), (0.9, 1.1)),  # often none of ten fits
        (20, 100, (0.9, 1.0), (3 / 4, 4 / 3)),  # never
        (100, 20, (0.9, 1.0), (3 / 4, 4 / 3)),
        (30, 31, (1.0, 1.0), (0.5, 0.6)),
    ],
)
def test_crops_are_distributed_as_torchvisions(height, width, scale, ratio):
    law = Augmentation(crop_scale=scale, crop_ratio=ratio)
    theirs = v2.RandomResizedCrop(8, scale=scale, ratio=ratio)
    image = torch.zeros(3, height, width)
    torch.manual_seed(0)
    expected = [tuple(theirs.make_params([image]).values()) for _ in range(NUM)]  # top, left, height, width
    drawn = [draw_crop(law, index, height, width, **WHERE) for index in range(NUM)]
    for number in range(4):
        assert samples_agree([box[number] for box in drawn], [box[number] for box in expected])
    assert samples_agree([h * w for _, _, h, w in drawn], [h * w for _, _, h, w in expected])
    assert samples_agree([h / w for _, _, h, w in drawn], [h / w for _, _, h, w in expected])
    if len(set(expected)) == 1:  # the middle of the image
        assert set(drawn) == set(expected)


def test_factors_orders_and_operations_are_distributed_as_torchvisions():
    jitter = ColorJitter(0.4, 1.5, 0.2, 0.1)
    theirs = v2.ColorJitter(*dataclasses.astuple(jitter))
    torch.manual_seed(0)
    expected = [theirs.make_params([]) for _ in range(NUM)]
    drawn = [draw_jitter(jitter, index, **WHERE) for index in range(NUM)]
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert samples_agree([dict(each)[name] for each in drawn], [each[f"{name}_factor"] for each in expected])
    orders = collections.Counter(tuple(name for name, _ in each) for each in drawn)
    assert stats.chisquare([orders[order] for order in implementation._ORDERS]).pvalue > LEAST_P
    operations = [draw_operations(RandAugment(3), index, 32, **WHERE) for index in range(NUM)]
    names = [name for name, *_ in implementation._operations(9, 31, 32)]
    for position in range(3):
        counts = collections.Counter(each[position][0] for each in operations)
        assert stats.chisquare([counts[name] for name in names]).pvalue > LEAST_P
    signs = [magnitude > 0 for each in operations for name, magnitude in each if name == "Rotate"]
    assert stats.binomtest(sum(signs), len(signs)).pvalue > LEAST_P


def test_a_view_depends_on_seed_epoch_position_and_number_alone():
    image = picture(40, 50)
    first = view(image, EVERYTHING, 7, size=24, **WHERE)
    view(image, EVERYTHING, 8, size=24, **WHERE)
    assert torch.equal(first, view(image.clone(), EVERYTHING, 7, size=24, **WHERE))
    others = [{**WHERE, name: value} for name, value in (("seed", 4), ("epoch", 2), ("number", 1))]
    made = [view(image, EVERYTHING, 7, size=24, **where) for where in others]
    made += [first, view(image, EVERYTHING, 8, size=24, **WHERE)]
    assert len({bytes(each.flatten().tolist()) for each in made}) == 5


PIXELS = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "device": "cpu"}


def streamed(images: torch.Tensor) -> StreamedImages:
    split = ImageSet(images, torch.arange(len(images)))
    return StreamedImages(split, Workers([split], 0, pinned=False), split.labels, **PIXELS)


def test_batches_of_images_in_memory_have_these_views():
    images = torch.stack([picture(16, 16, seed=seed) for seed in range(10)])
    resident = ResidentImages(ImageSet(images, torch.arange(10)), **PIXELS)
    with pytest.raises(ValueError, match="StreamedImages"):
        next(TrainingViews(resident, EVERYTHING, batch_size=4, seed=3).epoch(1))
    for x, y, index, mixed in TrainingViews(streamed(images), EVERYTHING, batch_size=4, seed=3, views=2).epoch(1):
        positions = index[: len(index) // 2]
        made = [
            torch.stack([view(images[i], EVERYTHING, int(i), seed=3, epoch=1, size=16, number=k) for i in positions])
            for k in range(2)
        ]
        inputs = [resident.inputs(each) for each in made]
        expected = join_views(inputs, positions, positions, EVERYTHING, seed=3, epoch=1)
        for ours, theirs in zip((x, y, index, *mixed), (*expected[:3], *expected[3]), strict=True):
            assert torch.equal(ours, theirs)


def test_every_field_changes_the_batches():
    def batches(law: Augmentation) -> bytes:
        steps = TrainingViews(data, law, batch_size=16, seed=3).epoch(1)
        return torch.cat([x for x, *_ in steps]).numpy().tobytes()

    data, off = streamed(torch.stack([picture(16, 16, seed=seed) for seed in range(32)])), Augmentation()
    seen = {batches(EVERYTHING)}
    names = EVERYTHING.changed()
    for name in names:
        part, _, inner = name.partition(".")
        value = getattr(off, part)
        if inner:
            value = dataclasses.replace(getattr(EVERYTHING, part), **{inner: getattr(value, inner)})
        seen.add(batches(dataclasses.replace(EVERYTHING, **{part: value})))
    assert len(seen) == len(names) + 1 == 18
    leaves = [dataclasses.asdict(value) if dataclasses.is_dataclass(value) else [value] for value in vars(off).values()]
    assert len(names) == sum(map(len, leaves)), "a field of the augmentation is at its default"
