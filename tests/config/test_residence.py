"""`dataset.resident`, sizes and damaged files: refused before anything is written."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def words(tmp_path, here) -> list[str]:
    """A run on a folder with an image that is damaged."""
    for split in ("train", "test"):
        for label in "ab":
            (place := tmp_path / "images" / split / label).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (12, 12), (40 * number, 0, 0)).save(place / f"{number}.png")
    (tmp_path / "images/train/a/1.png").write_bytes(b"no image")
    options = ("student=mlp", "method=ce", "recipe.epochs=1", "runtime.threads=1")
    return ["dataset=folder", f"dataset.root={tmp_path / 'images'}", "dataset.image_size=12", *options]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ((), "train/a/1.png"),
        (("dataset.resident=maybe",), "dataset.resident='maybe': must be auto, true or false"),
        (("dataset.resize_size=11",), "dataset.resize_size=11: must be null, or at least"),
        (("dataset.resident=true", "recipe.augmentation.crop_scale=[0.1,1.0]"), "dataset.resident=true: recipe"),
        (("runtime.workers=-1",), "workers=-1: must be null, or from 0 to"),
        (("dataset=digits", "dataset.resident=false"), "dataset.resident=false: this dataset is always in memory"),
        (("dataset=digits", "dataset.resize_size=16"), "dataset.resize_size=16: digits resizes nothing"),
        (("dataset=digits", "dataset.skip_corrupt=true"), "dataset.skip_corrupt=true: digits"),
    ],
)
def test_what_cannot_be_is_one_problem(kdrun, words, here, more, problem):
    if "dataset=digits" in more:
        words = [word for word in words if not word.startswith("dataset")]
        more = [f"+{word}" if word.startswith(("dataset.resize", "dataset.skip")) else word for word in more]
    said = kdrun(*words, *more)
    assert said.code == 2
    assert problem in said.err
    assert not Path(here / "outputs").exists()


def test_a_damaged_image_ends_a_streamed_run_with_its_name_and_can_be_left_out(kdrun, words):
    streamed = [*words, "dataset.resident=false", "runtime.workers=0"]
    said = kdrun(*streamed)
    assert said.code == 1
    assert "train/a/1.png" in said.err
    assert kdrun(*streamed, "dataset.skip_corrupt=true").code == 0
