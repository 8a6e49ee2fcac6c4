"""Bad data is told by the file or directory that is bad: damaged, misplaced, unreadable, not fitting together."""

import dataclasses
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdrun.data import (
    DataError,
    Splits,
    cifar10,
    cifar100,
    fashion_mnist,
    mnist,
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


def test_a_root_near_the_right_one_is_told_with_it(dataset, tmp_path, no_network):
    """Not downloaded a second time, whichever form it is in; what a download under way has is not looked at."""
    loader, place = dataset
    data = tmp_path / "data"
    within = [parent for parent in (place, *place.parents) if parent.is_relative_to(data) and parent != data]
    for root in (tmp_path, data / "mine", *within):
        with pytest.raises(DataError, match=f"dataset.root={root} is not .*; use dataset.root={data}$"):
            loader(root)
    for path in place.glob("*.gz"):
        path.rename(path.with_suffix(""))
    with pytest.raises(DataError, match=f"use dataset.root={data}$"):
        loader(tmp_path)
    assert no_network == []
    data.rename(tmp_path / ".download-1")
    with pytest.raises(DataError, match="is not here"):
        loader(tmp_path)
    assert no_network != []


@pytest.mark.parametrize("loader", [cifar10, cifar100, tiny_imagenet])
def test_an_archive_one_level_off_is_told_with_the_right_root(tmp_path, loader, no_network):
    source = {cifar10: cifar_module.CIFAR10, cifar100: cifar_module.CIFAR100}.get(loader)
    name = (source.archive if source else tiny_module.ARCHIVE).name
    (data := tmp_path / "data").mkdir()
    (data / name).touch()
    for root in (tmp_path, data / "mine"):
        with pytest.raises(DataError, match=f"root={root} is not .*; use dataset.root={data}$"):
            loader(root)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        loader(data)
    assert no_network == []


def test_a_root_that_is_a_file_is_named(dataset, tmp_path, no_network):
    loader, _ = dataset
    (tmp_path / "elsewhere").mkdir()
    (blocked := tmp_path / "elsewhere" / "file").write_text("in the way")
    with pytest.raises(DataError, match=f"is not here, and {blocked}.* cannot be written"):
        loader(blocked)
    assert no_network == []


# --- archives -------------------------------------------------------------------------------------------------------


def tar_of(name: str, content: bytes) -> bytes:
    """A .tar.gz of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        (member := tarfile.TarInfo(name)).size = len(content)
        opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def toy(content: bytes) -> Archive:
    return Archive("Toy", "https://example.org/toy.tar.gz", hashlib.md5(content).hexdigest(), "toy", limit=2**20)


def test_every_damaged_archive_is_named_and_nothing_is_unpacked(tmp_path, no_network):
    content = tar_of("toy/a.txt", b"hello")
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
