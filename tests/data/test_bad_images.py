"""Bad images are told by the file or directory that is bad: folders, Tiny-ImageNet, and what is left of a dataset."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdrun import data
from kdrun.data import DataError, ImageSet, Splits, decode, select, tiny_imagenet

# --- folders of images ----------------------------------------------------------------------------------------------


def folder(root: Path, **options) -> Splits:
    """A folder's images in memory."""
    return decode(data.folder(root, **options))


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12), (200, 30, 30)).save(path)


@pytest.fixture
def tree(tmp_path, data_home) -> Path:
    """root/train and root/test with two classes of two images."""
    root = tmp_path / "images"
    for split in ("train", "test"):
        for class_name in ("ant", "bee"):
            for number in range(2):
                write_image(root / split / class_name / f"{number}.png")
    return root


def test_images_that_are_no_files_of_their_size_are_named(tree, monkeypatch):
    monkeypatch.setenv("KDRUN_MAX_PIXELS", "1000")
    names = {kind: tree / "train" / "ant" / f"{kind}.png" for kind in ("fifo", "device", "endless", "large")}
    os.mkfifo(names["fifo"])
    names["device"].symlink_to("/dev/zero")
    for kind, size in (("endless", 2**42), ("large", 16_001)):
        names[kind].touch()
        os.truncate(names[kind], size)
    with pytest.raises(DataError) as raised:
        folder(tree, image_size=12, in_channels=3)
    lines = str(raised.value).splitlines()
    assert lines[0] == "4 of 12 images cannot be read (dataset.skip_corrupt=true leaves them out):"
    assert f"  {names['fifo']}: is a FIFO; must be a regular file" in lines
    assert f"  {names['device']}: is a character device; must be a regular file" in lines
    assert f"  {names['endless']}: has {2**42} bytes; at most 16000 are read" in lines
    assert f"  {names['large']}: has 16001 bytes; at most 16000 are read" in lines


def left_out(tree: Path) -> tuple[int, int] | None:
    return data.folder(tree, image_size=12, in_channels=3, skip_corrupt=True).left_out


def test_images_above_the_limit_are_left_out_under_that_limit_alone(tree, monkeypatch):
    Image.new("RGB", (40, 40)).save(tree / "train" / "ant" / "0.png")
    monkeypatch.setenv("KDRUN_MAX_PIXELS", "1000")
    assert left_out(tree) == (1, 0)
    monkeypatch.delenv("KDRUN_MAX_PIXELS")
    assert left_out(tree) == (0, 0)


def test_an_image_that_cannot_be_read_for_a_moment_is_not_left_out(tree, monkeypatch):
    def fail(*_: object) -> bytes:
        raise OSError("too many open files")

    data.identity(data.folder(tree, image_size=12, in_channels=3))
    with monkeypatch.context() as patched:
        patched.setattr(data.encoded.Files, "read", fail)
        with pytest.raises(DataError, match="was read before"):
            left_out(tree)
    assert left_out(tree) == (0, 0)


def test_text_files_of_tiny_imagenet_that_are_no_files_are_named(tmp_path, data_home):
    for split in ("train", "val"):
        (tmp_path / "tiny-imagenet-200" / split / "n01").mkdir(parents=True)
    os.mkfifo(tmp_path / "tiny-imagenet-200" / "wnids.txt")
    with pytest.raises(DataError, match=r"wnids\.txt cannot be read: is a FIFO"):
        tiny_imagenet(tmp_path)


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.unlink()
    match how:
        case "empty":
            path.touch()
        case "text":
            path.write_text("<html>404 not found</html>")
        case "half":
            path.write_bytes(whole[: len(whole) // 2])
        case "flipped":
            path.write_bytes(whole[:45] + bytes([whole[45] ^ 255]) + whole[46:])  # in the compressed pixels
        case "broken link":
            path.symlink_to("gone.png")
        case "loop":
            path.symlink_to(path.name)


@pytest.mark.parametrize("how", ["empty", "text", "half", "flipped", "broken link", "loop"])
def test_an_unreadable_image_is_named(tree, data_home, how):
    spoil(tree / "test" / "bee" / "1.png", how)
    with pytest.raises(DataError, match="1 of 8 images cannot be read") as told:
        folder(tree, image_size=12, in_channels=3)
    assert str(tree / "test" / "bee" / "1.png") in str(told.value)
    assert not (data_home / "decoded").exists()


def test_an_image_that_is_lost_after_it_was_decoded_is_named(tree):
    folder(tree, image_size=12, in_channels=3)
    spoil(tree / "train/ant/0.png", "broken link")
    with pytest.raises(DataError, match=r"train/ant/0\.png"):
        folder(tree, image_size=12, in_channels=3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_that_differ_are_named_with_their_directory(tree, split):
    (tree / split / "bee").rename(tree / split / "wasp")
    with pytest.raises(DataError, match="classes of training and test images differ") as told:
        folder(tree, image_size=12, in_channels=3)
    other = {"train": "test", "test": "train"}[split]
    assert f"only in {tree / split}: wasp" in str(told.value)
    assert f"only in {tree / other}: bee" in str(told.value)
    for place in (tree / split / "wasp", tree / other / "bee"):
        shutil.rmtree(place)
    with pytest.raises(DataError, match=f"{tree / 'train'}: has one class only, ant"):
        folder(tree, image_size=12, in_channels=3)


@pytest.mark.parametrize("level", ["..", "train", "train/ant", "gone"])
def test_a_wrong_level_is_named(tree, level):
    with pytest.raises(DataError, match=r"needs a directory train/ and one of test, val, valid, validation") as told:
        folder(tree / level, image_size=12, in_channels=3)
    assert f"dataset.root={tree / level}: " in str(told.value)
    meant = {"..": tree / ".." / tree.name}.get(level, tree)
    assert str(told.value).endswith(f"; use dataset.root={meant}")
    with pytest.raises(DataError, match=r"images for each class; there is no such directory$"):
        folder(tree / level / "gone" / "deeper" / "still", image_size=12, in_channels=3)


def test_a_cache_of_decoded_images_is_never_unpickled(tree, data_home, tmp_path, caplog):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    folder(tree, image_size=12, in_channels=3)
    (cached,) = (data_home / "decoded").iterdir()
    torch.save({"train_images": Bomb()}, cached)
    folder(tree, image_size=12, in_channels=3)
    assert str(cached) in caplog.text
    assert not (tmp_path / "executed").exists()


# --- what is left of a dataset --------------------------------------------------------------------------------------


def test_a_choice_that_leaves_no_two_images_is_told_with_the_options_that_made_it():
    splits = Splits(*[ImageSet(torch.zeros(8, 2, 2, 1, dtype=torch.uint8), torch.arange(8) % 4)] * 2, tuple("abcd"))
    assert len(select(splits, classes=[1]).train) == 2
    with pytest.raises(DataError, match=r"1 training image.*train_fraction=0\.1 and dataset\.classes=\[1\]"):
        select(splits, classes=[1], train_fraction=0.1)
