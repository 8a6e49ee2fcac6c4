"""The same images as files, in Hugging Face's datasets and in shards: one identity, and the same pixels."""

import io
import itertools
import os
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdrun.data import DataError, Splits, folder, hf, identity, wds

CLASSES = ("ant", "bee")
FORM = {"image_size": 12, "in_channels": 3}


@pytest.fixture
def tree(tmp_path, data_home) -> Path:
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CLASSES):
            (place := tmp_path / "files" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 14), (9 * number, 90 * label, 7)).save(place / f"{number}.png")
    return tmp_path / "files"


def images(tree: Path, split: str) -> list[tuple[bytes, int]]:
    return [
        (path.read_bytes(), label)
        for label, name in enumerate(CLASSES)
        for path in sorted((tree / split / name).iterdir())
    ]


def shards(tree: Path) -> Path:
    """Two of the training images and one of the test images."""
    root = tree.parent / "shards"
    root.mkdir()
    for split, cuts in (("train", (0, 5, 8)), ("test", (0, 4))):
        found = images(tree, split)
        for number, (start, end) in enumerate(itertools.pairwise(cuts)):
            with tarfile.open(root / f"{split}-{number:03}.tar", "w") as shard:
                for key in range(start, end):
                    content, label = found[key]
                    for extension, data in (("cls", b"%d" % label), ("png", content), ("json", b"{}")):
                        member = tarfile.TarInfo(f"{split}/{key:05}.{extension}")
                        member.size = len(data)
                        shard.addfile(member, io.BytesIO(data))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def saved(tree: Path, how: str) -> Path:
    """By `save_to_disk`, or as Parquet."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported, here before the loader does
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(CLASSES))})
    parts = datasets.DatasetDict()
    for split in ("train", "test"):
        rows = [{"picture": {"bytes": content, "path": None}, "kind": label} for content, label in images(tree, split)]
        parts[split] = datasets.Dataset.from_list(rows, features=features)
    place = tree.parent / how
    if how == "disk":
        parts.save_to_disk(place)
    else:
        place.mkdir()
        for split, part in parts.items():
            part.to_parquet(place / f"{split}.parquet")
    return place


def same(found: Splits, tree: Path) -> None:
    expected = folder(tree, **FORM)
    assert found.class_names == CLASSES
    assert identity(found) == identity(expected)
    for own, other in ((found.train, expected.train), (found.test, expected.test)):
        assert own.labels.tolist() == other.labels.tolist()
        for position in range(len(own)):
            assert torch.equal(own.pixels(position), other.pixels(position))


def test_shards_are_the_data_set_of_their_files(tree):
    root = shards(tree)
    for _ in range(2):  # the index is kept
        same(wds(root, **FORM, train_shards="train-{000..001}.tar", test_shards="test-000.tar"), tree)


@pytest.mark.parametrize("how", ["disk", "parquet"])
def test_a_dataset_of_hugging_face_is_the_data_set_of_its_files(tree, how, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tree.parent / "cache"))
    same(hf(str(saved(tree, how)), **FORM), tree)


def test_what_is_wrong_with_shards_is_named(tree):
    root = shards(tree)
    options = {**FORM, "train_shards": "train-{000..001}.tar", "test_shards": "test-000.tar"}
    with pytest.raises(DataError, match=r"train-002\.tar cannot be read"):
        wds(root, **{**options, "train_shards": "train-{000..002}.tar"})
    (root / "classes.txt").write_text("ant\n")
    with pytest.raises(DataError, match="1 names"):
        wds(root, **options)
    for content, told in (
        (b"no tar" * 200, "no tar file"),
        ((root / "train-000.tar").read_bytes()[:1000], "train-001"),
    ):
        (root / "train-001.tar").write_bytes(content)
        with pytest.raises(DataError, match=told):
            wds(root, **options)


def test_what_is_wrong_with_a_dataset_of_hugging_face_is_named(tree):
    place = str(saved(tree, "disk"))
    for options, told in (
        ({"train_split": "training"}, "has the splits train, test, and not training"),
        ({"image_column": "image"}, "image_column=image.* has picture, kind"),
    ):
        with pytest.raises(DataError, match=told):
            hf(place, **FORM, **options)
    with pytest.raises(DataError, match="cannot be loaded without a download"):
        hf("nobody/nothing", **FORM)


def test_a_label_or_image_that_is_not_clear_is_named(tree):
    root = tree.parent
    for names, label in ((("1.png",), b"9" * 19), (("1.png",), b"0" * 20 + b"1"), (("1.png", "1.jpg"), b"0")):
        with tarfile.open(root / "a.tar", "w") as shard:
            for name, data in (*((name, b"image") for name in names), ("1.cls", label)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
        with pytest.raises(DataError, match=r"a\.tar: 1 "):
            wds(root, **FORM, train_shards="a.tar", test_shards="a.tar")


def test_splits_of_a_dataset_of_hugging_face_have_the_same_classes_in_one_order(tree):
    datasets = pytest.importorskip("datasets")
    parts, image = datasets.DatasetDict(), {"bytes": images(tree, "test")[0][0], "path": None}
    for split, names in (("train", CLASSES), ("test", CLASSES[::-1])):
        features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(names))})
        parts[split] = datasets.Dataset.from_list([{"picture": image, "kind": label} for label in (0, 1)], features)
    parts.save_to_disk(tree.parent / "others")
    with pytest.raises(DataError, match="kind in test"):
        hf(str(tree.parent / "others"), **FORM)
