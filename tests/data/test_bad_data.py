"""Bad data is told by the file or directory that is bad: damaged, misplaced, unreadable, not fitting together."""

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdrun.data import (
    DataError,
    ImageSet,
    Splits,
    cifar10,
    cifar100,
    fashion_mnist,
    folder,
    mnist,
    select,
    tiny_imagenet,
)
from kdrun.data.files import Archive, unpack_archive
from kdrun.data.loaders import cifar as cifar_module
from kdrun.data.loaders import mnist as mnist_module
from kdrun.data.loaders import tiny_imagenet as tiny_module

LOADERS = {
    "CIFAR10": (cifar10, cifar_module),
    "CIFAR100": (cifar100, cifar_module),
    "MNIST": (mnist, mnist_module),
    "FASHION_MNIST": (fashion_mnist, mnist_module),
}


def cifar_files(source: cifar_module.PickledFiles) -> dict[str, bytes]:
    """The files of the archive, with two images each."""
    images = {b"data": torch.arange(2 * 3072).view(2, 3072).to(torch.uint8).numpy(), source.label_key: [0, 1]}
    files = {name: pickle.dumps(images, protocol=2) for name in (*source.train, *source.test)}
    return files | {name: pickle.dumps({source.names_key: [b"cat", b"dog"]}, protocol=2) for name in source.names}


def idx_files(source: mnist_module.IdxFiles) -> dict[str, bytes]:
    """The compressed files, with two images each."""
    shapes = {name: (2, 28, 28) if "images" in name else (2,) for name in source.md5}
    return {
        name: gzip.compress(
            struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(torch.Size(shape).numel())
        )
        for name, shape in shapes.items()
    }


@pytest.fixture(params=LOADERS)
def dataset(request, tmp_path, monkeypatch, no_network) -> tuple[Callable[[Path], Splits], Path]:
    """A published dataset of two images a file, whose checksums become the expected ones: its loader and its place."""
    loader, module = LOADERS[request.param]
    source = getattr(module, request.param)
    is_cifar = module is cifar_module
    files = cifar_files(source) if is_cifar else idx_files(source)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    fields = ("train", "test", "names") if is_cifar else ("md5",)
    changed = {field: {name: md5[name] for name in getattr(source, field)} for field in fields}
    monkeypatch.setattr(module, request.param, dataclasses.replace(source, **changed))
    place = tmp_path / "data" / (source.archive.directory if is_cifar else source.directory)
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    loader(tmp_path / "data")  # can be read as it is
    return loader, place


def damaged(content: bytes) -> Iterator[bytes]:
    """The content truncated, empty, longer, and with one bit flipped at the start, in the middle and at the end."""
    yield from (content[: len(content) // 2], content[:-1], b"", content + b"\0")
    for position in (0, len(content) // 2, len(content) - 1):
        yield content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def test_every_damaged_file_is_named_with_both_checksums(dataset, tmp_path, no_network):
    loader, place = dataset
    for path in sorted(place.iterdir()):
        good = path.read_bytes()
        for content in damaged(good):
            path.write_bytes(content)
            with pytest.raises(DataError) as told:
                loader(tmp_path / "data")
            for text in (str(path), hashlib.md5(good).hexdigest(), hashlib.md5(content).hexdigest(), "expected"):
                assert text in str(told.value)
        path.write_bytes(good)
    assert no_network == []


def test_every_missing_file_is_named(dataset, tmp_path, no_network):
    loader, place = dataset
    for path in sorted(place.iterdir()):
        good = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match=f"{place} is incomplete, missing: {path.name}\n"):
            loader(tmp_path / "data")
        path.write_bytes(good)
    assert no_network == []


def test_a_root_inside_of_the_dataset_is_told_with_the_right_one(dataset, tmp_path, monkeypatch, no_network):
    loader, place = dataset
    data = tmp_path / "data"
    for root in (place, *(parent for parent in place.parents if parent.is_relative_to(data) and parent != data)):
        for named in (root, Path(os.path.relpath(root, place))):  # from within, where the path has no parents
            monkeypatch.chdir(place)
            with pytest.raises(DataError, match=f"dataset.root={named} is .* too deep; use dataset.root={data}$"):
                loader(named)
    assert no_network == []


def test_a_root_that_is_a_file_is_named(dataset, no_network):
    loader, place = dataset
    (blocked := place.parent / "file").write_text("in the way")
    with pytest.raises(DataError, match=f"is not here, and {blocked}.* cannot be written"):
        loader(blocked)
    assert no_network == []


# --- archives -------------------------------------------------------------------------------------------------------


def tar_of(*members: tuple[str, bytes, str]) -> bytes:
    """A .tar.gz of files, and of links to what a member's third entry names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 5 if kind == tarfile.REGTYPE else 0
            opened.addfile(member, io.BytesIO(b"hello"))
    return buffer.getvalue()


GOOD = ("toy/a.txt", tarfile.REGTYPE, "")


def toy(content: bytes) -> Archive:
    return Archive("Toy", "https://example.org/toy.tar.gz", hashlib.md5(content).hexdigest(), "toy")


def test_every_damaged_archive_is_named_and_nothing_is_unpacked(tmp_path, no_network):
    archive, content = toy(tar_of(GOOD)), tar_of(GOOD)
    archive = toy(content)
    path = tmp_path / archive.name
    for bad in damaged(content):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=f"{path} is damaged or not the official file: md5 is .*{archive.md5}"):
            unpack_archive(archive, tmp_path)
        assert [entry.name for entry in tmp_path.iterdir()] == [archive.name]
    path.write_bytes(content)
    assert (unpack_archive(archive, tmp_path) / "a.txt").read_bytes() == b"hello"
    assert no_network == []


@pytest.mark.parametrize(
    "member",
    [
        ("../outside.txt", tarfile.REGTYPE, ""),
        ("toy/../../outside.txt", tarfile.REGTYPE, ""),
        ("/tmp/outside.txt", tarfile.REGTYPE, ""),
        ("toy\\..\\outside.txt", tarfile.REGTYPE, ""),
        ("toy/link", tarfile.SYMTYPE, "../.."),
        ("toy/link", tarfile.LNKTYPE, "../outside.txt"),
        ("toy/pipe", tarfile.FIFOTYPE, ""),
        ("toy/device", tarfile.CHRTYPE, ""),
    ],
    ids=lambda member: f"{member[0]} {member[1].decode()}",
)
def test_an_archive_that_would_leave_its_directory_is_named_and_nothing_is_unpacked(tmp_path, member):
    """Even with the checksum that is expected."""
    content = tar_of(GOOD, member)
    path = tmp_path / "root" / "toy.tar.gz"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError) as told:
        unpack_archive(toy(content), path.parent)
    assert str(told.value).startswith(f"{path}: refused, ")
    assert repr(member[0]) in str(told.value)
    assert list(tmp_path.rglob("*")) == [path.parent, path]


# --- folders of images ----------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_unreadable_image_is_named(tree, data_home, split, how):
    spoil(tree / split / "bee" / "1.png", how)
    with pytest.raises(DataError, match="1 of 8 images cannot be read") as told:
        folder(tree, image_size=12, in_channels=3)
    assert str(tree / split / "bee" / "1.png") in str(told.value)
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


def test_a_single_class_is_named_with_its_directory(tree):
    for split in ("train", "test"):
        shutil.rmtree(tree / split / "bee")
    with pytest.raises(DataError, match=f"{tree / 'train'}: has one class only, ant"):
        folder(tree, image_size=12, in_channels=3)


@pytest.mark.parametrize("level", ["..", "train", "train/ant", "gone"])
def test_a_wrong_level_is_named(tree, level):
    with pytest.raises(DataError, match=r"needs a directory train/ and one of test, val, validation") as told:
        folder(tree / level, image_size=12, in_channels=3)
    assert f"dataset.root={tree / level}" in str(told.value)


def test_a_cache_of_decoded_images_is_never_unpickled(tree, data_home, tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    folder(tree, image_size=12, in_channels=3)
    (cached,) = (data_home / "decoded").iterdir()
    torch.save({"train_images": Bomb()}, cached)
    with pytest.raises(DataError, match=f"{cached}: .*cannot be read"):
        folder(tree, image_size=12, in_channels=3)
    assert not (tmp_path / "executed").exists()


# --- Tiny-ImageNet --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "n01\tgoldfish\n"),
        ("words.txt", "n01 goldfish\nn02 toad\n"),
        ("val/val_annotations.txt", "0.JPEG\tn99\t0\t0\t62\t62\n"),
        ("val/val_annotations.txt", "0.JPEG\n"),
        ("wnids.txt", "\xff\xfe"),
    ],
)
def test_text_files_of_tiny_imagenet_that_do_not_fit_are_named(tmp_path, monkeypatch, data_home, name, text):
    place = tmp_path / "tiny-imagenet-200"
    for number, wordnet_id in enumerate(("n01", "n02")):
        write_image(place / f"train/{wordnet_id}/images/0.JPEG")
        write_image(place / f"val/images/{number}.JPEG")
    (place / "wnids.txt").write_text("n01\nn02\n")
    (place / "words.txt").write_text("n01\tgoldfish\nn02\ttoad\n")
    (place / "val/val_annotations.txt").write_text("0.JPEG\tn01\t0\t0\t62\t62\n1.JPEG\tn02\t0\t0\t62\t62\n")
    for constant, value in (("NUM_CLASSES", 2), ("TRAIN_PER_CLASS", 1), ("TEST_PER_CLASS", 1)):
        monkeypatch.setattr(tiny_module, constant, value)
    tiny_imagenet(tmp_path)  # can be read as it is
    (place / name).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=f"{place}: .*{name}"):
        tiny_imagenet(tmp_path)


# --- what is left of a dataset --------------------------------------------------------------------------------------


def test_a_choice_that_leaves_no_two_images_is_told_with_the_options_that_made_it():
    splits = Splits(*[ImageSet(torch.zeros(8, 2, 2, 1, dtype=torch.uint8), torch.arange(8) % 4)] * 2, tuple("abcd"))
    assert len(select(splits, classes=[1]).train) == 2
    with pytest.raises(DataError, match=r"1 training image.*train_fraction=0\.1 and dataset\.classes=\[1\]"):
        select(splits, classes=[1], train_fraction=0.1)
