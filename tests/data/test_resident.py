"""Batches from resident images and sequences, their order, and the views of an epoch."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdrun.data import (
    Augmentation,
    ImageSet,
    ResidentImages,
    ResidentSequences,
    SequenceSet,
    TrainingViews,
    augment,
    batches,
    epoch_order,
    grouped_order,
)
from kdrun.data import resident as resident_module

MEAN, STD = [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]
IMAGES = torch.randint(0, 256, (20, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 4


@pytest.fixture
def resident() -> ResidentImages:
    return ResidentImages(ImageSet(IMAGES, LABELS), mean=MEAN, std=STD, device="cpu")


def normalised(images: torch.Tensor) -> torch.Tensor:
    """(x / 255 - mean) / std, written out in float64."""
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    return ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)


def view(resident: ResidentImages, index: torch.Tensor, law: Augmentation, **where: int) -> torch.Tensor:
    """What a network gets of one batch whose views are made for it alone."""
    return resident.inputs(augment(resident.images, index, law, **where))


def test_batch_is_normalised_and_channels_last(resident):
    index = torch.tensor([4, 0, 4, 19])
    batch = resident.batch(index)
    assert batch.dtype == torch.float32
    assert batch.shape == (4, 3, 6, 6)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(batch.double(), normalised(IMAGES[index]), rtol=0, atol=1e-6)
    assert len(resident) == 20


def test_view_is_the_normalised_augmented_image(resident):
    law, index = Augmentation(crop_padding=2, flip=True, rotation=30.0), torch.arange(20)
    views = resident.inputs(resident.gather(index, law, seed=3, epoch=1))
    expected = normalised(augment(IMAGES, index, law, seed=3, epoch=1))
    torch.testing.assert_close(views.double(), expected, rtol=0, atol=1e-6)
    assert views.is_contiguous(memory_format=torch.channels_last)


def test_epoch_order_is_a_permutation_of_its_own_for_each_seed_and_epoch():
    orders = [epoch_order(1000, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(order.sort().values.equal(torch.arange(1000)) for order in orders)
    assert torch.equal(orders[1], epoch_order(1000, seed=0, epoch=1))
    # Two independent permutations agree in one place on average.
    agreements = [int((a == b).sum()) for i, a in enumerate(orders) for b in orders[:i]]
    assert max(agreements) < 10


@pytest.mark.parametrize(
    ("num", "batch_size", "sizes"),
    [(10, 5, [5, 5]), (12, 5, [5, 5, 2]), (11, 5, [5, 5]), (3, 5, [3]), (1, 5, [1]), (3, 1, [1, 1, 1])],
)
def test_batches_keep_the_order_and_drop_a_single_leftover(num, batch_size, sizes):
    order = torch.arange(num).flip(0)
    cut = batches(order, batch_size)
    assert [len(batch) for batch in cut] == sizes
    assert torch.equal(torch.cat(cut), order[: sum(sizes)])


def test_an_epoch_visits_every_image_once(resident):
    law = Augmentation(crop_padding=1)
    views = TrainingViews(resident, law, batch_size=8, seed=5)
    steps = list(views.epoch(2))
    assert len(steps) == len(views) == 3
    index = torch.cat([step[2] for step in steps])
    assert torch.equal(index, epoch_order(20, seed=5, epoch=2))
    assert torch.equal(torch.cat([step[1] for step in steps]), LABELS[index])
    assert torch.equal(torch.cat([step[0] for step in steps]), view(resident, index, law, seed=5, epoch=2))


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_an_epoch_of_sequences_has_each_with_its_labels_in_the_order_of_the_logits_rows(
    per_token, at_once, monkeypatch
):
    monkeypatch.setattr(resident_module, "POSITIONS_AT_ONCE_CPU", at_once * 8 * 3)
    tokens = torch.arange(60).view(20, 3)
    labels = 100 + tokens if per_token else LABELS
    resident = ResidentSequences(SequenceSet(tokens, labels), device="cpu")
    assert len(resident) == 20
    assert resident.labels.tolist() == [label for row in labels.view(20, -1).tolist() for label in row]
    views = TrainingViews(resident, Augmentation(), batch_size=8, seed=5)
    steps = list(views.epoch(2))
    assert len(steps) == len(views) == 3
    order = epoch_order(20, seed=5, epoch=2)
    for (x, y, index, _), expected in zip(steps, order.split(8), strict=True):
        assert torch.equal(index, expected)
        assert x.tolist() == [tokens[i].tolist() for i in expected]
        assert y.tolist() == [label for i in expected for label in labels[i].view(-1).tolist()]


def test_groups_are_of_one_class_and_drawn_anew_for_each_epoch():
    labels = torch.tensor([0] * 7 + [1] * 4 + [2] * 1 + [3] * 8)[torch.randperm(20)]
    orders = [grouped_order(labels, 3, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.sort().values.equal(torch.arange(20)), "each image once"
        groups = labels[order[:15]].view(-1, 3)  # 2 of class 0, 1 of class 1, 2 of class 3
        assert (groups == groups[:, :1]).all()
        assert sorted(groups[:, 0].tolist()) == [0, 0, 1, 3, 3]
    assert torch.equal(orders[1], grouped_order(labels, 3, seed=0, epoch=1))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert not torch.equal(grouped_order(labels, 2, seed=0, epoch=0)[:15], orders[0][:15])


def test_who_is_in_a_group_with_whom_and_when_is_drawn_evenly():
    """Of 4 images of a class each is with each other one in a third of the epochs; a group is first in a third."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    orders = torch.stack([grouped_order(labels, 2, seed=0, epoch=epoch) for epoch in range(900)])
    pairs = orders.view(900, 3, 2).sort(dim=2).values
    together = ((pairs[..., 0] == 0) & (pairs[..., 1] == 1)).any(dim=1).sum()
    five_deviations = 5 * (900 * 2 / 9) ** 0.5
    assert abs(int(together) - 300) < five_deviations
    assert abs(int((labels[orders[:, 0]] == 1).sum()) - 300) < five_deviations


def test_further_views_follow_the_first_which_is_that_of_every_run(resident):
    law = Augmentation(crop_padding=2, flip=True, rotation=15.0)
    one, three = (TrainingViews(resident, law, batch_size=8, seed=5, views=views) for views in (1, 3))
    assert (len(three), three.num_views) == (len(one), 3)
    for (x, y, index, _), (views, labels, positions, _) in zip(one.epoch(2), three.epoch(2), strict=True):
        first, second, third = views.chunk(3)
        assert torch.equal(first, x)
        assert not torch.equal(second, x)
        assert not torch.equal(third, second)
        assert torch.equal(labels, torch.cat([y, y, y]))
        assert torch.equal(positions, torch.cat([index, index, index]))
        assert torch.equal(second, view(resident, index, law, seed=5, epoch=2, number=1)), "whatever the batch"
        assert views.is_contiguous(memory_format=torch.channels_last)


def test_grouped_batches_of_several_views(resident):
    views = TrainingViews(resident, Augmentation(crop_padding=1), batch_size=8, seed=5, views=2, per_class=2)
    _, y, index, _ = next(iter(views.epoch(0)))
    assert torch.equal(y[0:8:2], y[1:8:2])
    assert torch.equal(index[:8], grouped_order(LABELS, 2, seed=5, epoch=0)[:8])


@pytest.mark.parametrize("at_once", [1, 2, 3, 32])
@pytest.mark.parametrize(("num_views", "per_class"), [(1, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("num", [20, 17])
def test_views_of_many_batches_at_once_are_those_of_each_batch(at_once, num_views, per_class, num, monkeypatch):
    """The last batch is smaller (20 = 8 + 8 + 4), or a dropped single image (17 = 8 + 8 + 1)."""
    monkeypatch.setattr(resident_module, "POSITIONS_AT_ONCE_CPU", at_once * 8 * 36)
    law = Augmentation(crop_padding=2, flip=True, rotation=15.0)
    images, labels = IMAGES[:num], LABELS[:num]
    resident = ResidentImages(ImageSet(images, labels), mean=MEAN, std=STD, device="cpu")
    views = TrainingViews(resident, law, batch_size=8, seed=5, views=num_views, per_class=per_class)
    grouped = grouped_order(labels, per_class, seed=5, epoch=2) if per_class > 1 else None
    cut = batches(epoch_order(num, seed=5, epoch=2) if grouped is None else grouped, 8)
    for (x, y, index, _), expected in zip(views.epoch(2), cut, strict=True):
        alone = [view(resident, expected, law, seed=5, epoch=2, number=number) for number in range(num_views)]
        assert torch.equal(x, torch.cat(alone))
        assert x.stride() == torch.cat(alone).stride(), "the same memory format"
        assert torch.equal(index, expected.repeat(num_views))
        assert torch.equal(y, labels[expected].repeat(num_views))


def test_batches_of_one_image_keep_every_image(resident, monkeypatch):
    monkeypatch.setattr(resident_module, "POSITIONS_AT_ONCE_CPU", 19 * 36)
    steps = list(TrainingViews(resident, Augmentation(), batch_size=1, seed=0).epoch(0))
    assert torch.equal(torch.cat([index for _, _, index, _ in steps]), epoch_order(20, seed=0, epoch=0))


class Counted(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


def test_operations_per_step(monkeypatch):
    """Of 32 batches at once there are three for each batch beside one set of about a hundred."""
    monkeypatch.setattr(resident_module, "POSITIONS_AT_ONCE_CPU", resident_module.POSITIONS_AT_ONCE)
    images = torch.randint(0, 256, (1024, 6, 6, 3), dtype=torch.uint8)
    resident = ResidentImages(ImageSet(images, torch.arange(1024) % 4), mean=MEAN, std=STD, device="cpu")
    views = TrainingViews(resident, Augmentation(crop_padding=1, flip=True, rotation=15.0), batch_size=16, seed=0)
    with Counted() as counted:
        list(views.epoch(0))
    assert 3 <= counted.number / len(views) < 8


def test_views_are_made_when_they_are_needed_and_never_more_than_the_bound(resident, monkeypatch):
    made = []
    gather = ResidentImages.gather

    def recording(self, index, *arguments, **options):
        made.append(len(index))
        return gather(self, index, *arguments, **options)

    monkeypatch.setattr(ResidentImages, "gather", recording)
    law = Augmentation(flip=True)
    for bound, expected in ((5 * 4 * 36, [20]), (5 * 4 * 36 - 1, [16, 4]), (1, [4, 4, 4, 4, 4])):
        monkeypatch.setattr(resident_module, "POSITIONS_AT_ONCE_CPU", bound)
        steps = TrainingViews(resident, law, batch_size=4, seed=0).epoch(0)
        made.clear()
        next(steps)
        assert made == expected[:1]
        list(steps)
        assert made == expected
