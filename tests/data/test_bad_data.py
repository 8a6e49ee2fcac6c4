"""Bad data is reported by the file or directory that is bad: damaged, misplaced, unreadable, not fitting together."""

import hashlib
import io
import tarfile
from collections.abc import Iterator

import pytest

from kdrun.data import DataError, cifar100, tiny_imagenet
from kdrun.data.downloads import Archive, unpack_archive
from kdrun.data.loaders import cifar as cifar_module
from kdrun.data.loaders import tiny_imagenet as tiny_module


def damaged(content: bytes) -> Iterator[bytes]:
    """The content truncated, empty, longer, and with one bit flipped at the start, in the middle and at the end."""
    yield from (content[: len(content) // 2], content[:-1], b"", content + b"\0")
    for position in (0, len(content) // 2, len(content) - 1):
        yield content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def test_every_damaged_or_missing_file_is_named(dataset, no_network):
    for path in sorted(dataset.place.iterdir()):
        good = path.read_bytes()
        for content in damaged(good):
            path.write_bytes(content)
            with pytest.raises(DataError) as told:
                dataset.loader(dataset.root)
            for text in (str(path), hashlib.md5(good).hexdigest(), hashlib.md5(content).hexdigest()):
                assert text in str(told.value)
        path.unlink()
        with pytest.raises(DataError, match=f"{dataset.place} is incomplete, missing: {path.name}\n"):
            dataset.loader(dataset.root)
        path.write_bytes(good)
    assert no_network == []


def test_a_root_near_the_right_one_is_told_with_it(dataset, no_network):
    """Not downloaded a second time, whichever form it is in; what a download under way has is not looked at."""
    root, above = dataset.root, dataset.root.parent
    within = [place for place in (dataset.place, *dataset.place.parents) if root in place.parents]
    for wrong in (above, root / "mine", *within):
        with pytest.raises(DataError, match=f"dataset.root={wrong} is not .*; use dataset.root={root}$"):
            dataset.loader(wrong)
    for path in dataset.place.glob("*.gz"):
        path.rename(path.with_suffix(""))
    with pytest.raises(DataError, match=f"use dataset.root={root}$"):
        dataset.loader(above)
    assert no_network == []
    root.rename(above / ".download-1")
    with pytest.raises(DataError, match="is not here"):
        dataset.loader(above)
    assert no_network != []


@pytest.mark.parametrize("loader", [cifar100, tiny_imagenet])
def test_an_archive_one_level_off_is_told_with_the_right_root(tmp_path, loader, no_network):
    name = (cifar_module.CIFAR100.archive if loader is cifar100 else tiny_module.ARCHIVE).name
    (data := tmp_path / "data").mkdir()
    (data / name).touch()
    for root in (tmp_path, data / "mine"):
        with pytest.raises(DataError, match=f"root={root} is not .*; use dataset.root={data}$"):
            loader(root)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        loader(data)
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
