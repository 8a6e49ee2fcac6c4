"""Runs on image files: in memory, streamed, and streamed with interruptions end with the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdrun.data import folder, identity
from kdrun.experiment.attempt import Outcome, Pruned, Request
from kdrun.spec.augmentation import Augmentation
from kdrun.spec.dataset import ImageDatasetSpec

from .conftest import LAW, Lab

SIZE, NUM = 8, 22


@pytest.fixture
def files(lab, tmp_path, monkeypatch) -> Lab:
    """Runs on JPEGs and PNGs of several sizes in two classes; 22 to train on, 6 to test on."""
    monkeypatch.setenv("KDRUN_DATA", str(tmp_path / "data"))
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", NUM), ("test", 6)):
        for number in range(count):
            place = tmp_path / split / "ab"[number % 2] / f"{number}.{'png' if number % 3 else 'jpg'}"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (8 + number % 5, 9, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(place)
    found = identity(folder(tmp_path, image_size=SIZE, in_channels=3))
    norm = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    dataset = ImageDatasetSpec("kdrun.data.folder", found, 2, 3, SIZE, NUM, 6, **norm, val_fraction=0.2)
    return replace(lab, root=tmp_path, dataset=dataset, recipe=replace(lab.recipe, batch_size=6))


def interrupted(lab: Lab, spec, place: str, **options) -> bytes:
    """A run that is interrupted after each epoch, each time in a runner of its own."""

    def prune(rows) -> None:
        if len(rows) < spec.recipe.epochs:
            raise Pruned("for the test")

    for _ in range(spec.recipe.epochs):
        (ended,) = lab.runner(place, **options).execute_together([Request(spec, on_epoch=prune)])
    assert isinstance(ended, Outcome)
    return lab.bits(ended.run)


@pytest.mark.parametrize("law", [LAW, Augmentation(flip=True, crop_scale=(0.2, 1.0))], ids=["moves", "crop"])
def test_streamed_runs_have_the_bits_of_resident_ones_however_often_they_are_interrupted(files, law):
    student = files.taught()
    recipe = replace(files.recipe, augmentation=law)
    spec = replace(student, recipe=recipe, teachers=(replace(files.teacher, recipe=recipe),))
    bits = {
        "inside": files.bits(files.execute(spec, "inside", resident=False, workers=0).run),
        "workers": files.bits(files.execute(spec, "workers", resident=False, workers=2).run),
        "again": interrupted(files, spec, "again", resident=False, workers=2),
    }
    if law is LAW:
        bits["resident"] = files.bits(files.execute(spec, "resident", resident=True).run)
    assert len(set(bits.values())) == 1, {name: hash(value) for name, value in bits.items()}


def test_teacher_logits_beyond_the_limit_are_not_recorded(files):
    """Of all epochs where data is streamed: 3 epochs of 18 images with 2 logits take 432 bytes."""
    for limit, there in ((431e-9, False), (433e-9 + 5e-5, True)):
        place = f"limit{there}"
        files.execute(files.taught(), place, resident=False, workers=0, replay_gb=limit)
        assert (files.root / place / "replay").exists() is there


def test_images_that_cannot_be_read_are_counted_in_the_result(files):
    Path(files.root / "train/a/0.jpg").write_bytes(b"no image")
    splits = folder(files.root, image_size=SIZE, in_channels=3, skip_corrupt=True)
    facts = {"identity": identity(splits), "train_size": NUM - 1, "skip_corrupt": True}
    spec = replace(files, dataset=replace(files.dataset, **facts)).plain()
    assert files.execute(spec).result["left_out"] == {"train": 1, "test": 0}
    kept = files.execute(spec, "streamed", resident=False, workers=0)
    assert files.bits(kept.run) == files.bits(files.run(spec))
