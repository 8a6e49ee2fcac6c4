"""Replayed logits are the live teacher's, bit for bit, or they are refused."""

import contextlib

import pytest
import torch
from torch import Tensor

from kdrun.data import Augmentation, ImageSet, ResidentImages, TrainingViews
from kdrun.methods import Batch
from kdrun.models import cnn
from kdrun.training.precision import autocast
from kdrun.training.replay import ReplayTeacher
from kdrun.training.teacher import LiveTeacher

CPU = torch.device("cpu")


class Shelf:
    """A recording in memory."""

    def __init__(self) -> None:
        self.epochs: dict[int, dict[str, Tensor]] = {}

    def read(self, epoch: int) -> dict[str, Tensor] | None:
        return self.epochs.get(epoch)

    def write(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        assert epoch not in self.epochs, "an epoch is recorded once"
        self.epochs[epoch] = tensors


class Counting(LiveTeacher):
    """A live teacher that counts how often it is asked."""

    asked = 0

    def __call__(self, batch):
        self.asked += 1
        return super().__call__(batch)


def live(precision: str = "fp32") -> Counting:
    torch.manual_seed(0)
    return Counting(cnn(num_classes=4, in_channels=1, image_size=8), autocast(CPU, precision), precision)


def views(seed: int = 0) -> TrainingViews:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (26, 8, 8, 1), dtype=torch.uint8, generator=generator)
    images = ResidentImages(ImageSet(pixels, torch.arange(26) % 4), mean=[0.5], std=[0.25], device="cpu")
    law = Augmentation(crop_padding=2, flip=True, rotation=15.0)
    return TrainingViews(images, law, batch_size=8, seed=seed)


def taught(teacher, epochs: range, seed: int = 0) -> list[Tensor]:
    """What a teacher says about every batch of these epochs."""
    said = []
    for epoch in epochs:
        for step, (x, y, index, _) in enumerate(views(seed).epoch(epoch)):
            batch = Batch(x, y, index, epoch=epoch, step=step, progress=0.0, generator=torch.Generator())
            said.append(teacher(batch).logits)
        teacher.end_epoch()
    return said


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_replay_equals_live_bit_for_bit(precision, dtype):
    shelf, first, second = Shelf(), live(precision), live(precision)
    expected = taught(live(precision), range(2))
    recorded = taught(ReplayTeacher(first, shelf, 26), range(2))
    replayed = taught(ReplayTeacher(second, shelf, 26), range(2))
    assert (first.asked, second.asked) == (8, 0)
    for logits in (recorded, replayed):
        assert [tensor.dtype for tensor in logits] == [dtype] * 8
        assert all(torch.equal(tensor, twin) for tensor, twin in zip(logits, expected, strict=True))
    assert not torch.equal(expected[0], expected[4]), "each epoch has its own views"


def test_an_interrupted_epoch_is_not_recorded():
    shelf = Shelf()
    teacher = ReplayTeacher(live(), shelf, 26)
    with contextlib.suppress(StopIteration):
        x, y, index, _ = next(views().epoch(0))
        teacher(Batch(x, y, index, epoch=0, step=0, progress=0.0, generator=torch.Generator()))
    assert shelf.epochs == {}
    taught(teacher, range(1))
    assert len(shelf.epochs[0]["logits"]) == 26


def test_other_views_are_refused():
    shelf = Shelf()
    taught(ReplayTeacher(live(), shelf, 26), range(1))
    with pytest.raises(RuntimeError, match="replay: the logits recorded for epoch 1 are not those of its views"):
        taught(ReplayTeacher(live(), shelf, 26), range(1), seed=1)
