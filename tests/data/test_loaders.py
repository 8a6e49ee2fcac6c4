"""Loaders of published datasets, on small files of the official layout."""

import dataclasses
import gzip
import hashlib
import pickle
import struct
import tarfile
from pathlib import Path

import pytest
import torch

from kdrun.data import DataError, check_images, cifar10, cifar100, digits, fashion_mnist, mnist, synthetic
from kdrun.data.loaders import cifar as cifar_module
from kdrun.data.loaders import digits as digits_module
from kdrun.data.loaders import mnist as mnist_module


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_the_known_ones():
    """Class counts and mean pixel (4.884..., of values 0 to 16) as scikit-learn documents and gives them."""
    splits = digits()
    check_images(splits, num_classes=10, in_channels=1, image_size=8)
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    labels = torch.cat([splits.train.labels, splits.test.labels])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # Every class gives a fifth to the test set, within one image.
    assert ((splits.test.labels.bincount() - labels.bincount() * 360 / 1797).abs() < 1).all()
    pixels = torch.cat([splits.train.images, splits.test.images])
    sixteenths = (pixels.double() * 16 / 255).round()
    assert float(sixteenths.mean()) == pytest.approx(4.884164579855314, abs=1e-12)
    assert torch.equal((sixteenths * 255 / 16).round().to(torch.uint8), pixels)
    assert sixteenths.unique().tolist() == list(range(17))


def test_damaged_digits_are_refused(monkeypatch):
    monkeypatch.setattr(digits_module, "SHA256", "0" * 64)
    with pytest.raises(DataError, match=f"expected {'0' * 64}"):
        digits()


# --- CIFAR ----------------------------------------------------------------------------------------------------------

CIFAR = {"cifar10": (cifar10, "CIFAR10", 5), "cifar100": (cifar100, "CIFAR100", 1)}


def write_cifar(root: Path, monkeypatch, name: str) -> torch.Tensor:
    """Writes four images to each training file, three to the test file; returns all, `[N, 3, 32, 32]`.

    The expected checksums of the loader become those of the files.
    """
    _, constant, num_train_files = CIFAR[name]
    source = getattr(cifar_module, constant)
    place = root / source.archive.directory
    place.mkdir(parents=True)
    sizes = [4] * num_train_files + [3]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (sum(sizes), 3, 32, 32), dtype=torch.uint8, generator=generator)
    start = 0
    for file_name, size in zip([*source.train, *source.test], sizes, strict=True):
        rows = images[start : start + size].flatten(1).numpy()
        labels = [(start + offset) % 2 for offset in range(size)]
        (place / file_name).write_bytes(pickle.dumps({b"data": rows, source.label_key: labels}, protocol=2))
        start += size
    (names_file,) = source.names
    (place / names_file).write_bytes(pickle.dumps({source.names_key: [b"cat", b"dog"]}, protocol=2))
    sums = {
        field: {file_name: md5(place / file_name) for file_name in getattr(source, field)}
        for field in ("train", "test", "names")
    }
    monkeypatch.setattr(cifar_module, constant, dataclasses.replace(source, **sums))
    return images


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_reads_images_labels_and_names(tmp_path, monkeypatch, name):
    images = write_cifar(tmp_path, monkeypatch, name)
    splits = CIFAR[name][0](tmp_path)
    check_images(splits, num_classes=2, in_channels=3, image_size=32)
    together = torch.cat([splits.train.images, splits.test.images])
    assert torch.equal(together.permute(0, 3, 1, 2), images)
    assert torch.cat([splits.train.labels, splits.test.labels]).tolist() == [i % 2 for i in range(len(images))]
    assert len(splits.test) == 3
    assert splits.class_names == ("cat", "dog")


class Bomb:
    """A pickle that does something when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_file_that_is_not_the_official_one_is_never_unpickled(tmp_path):
    mark = tmp_path / "executed"
    place = tmp_path / "cifar-100-python"
    place.mkdir()
    for name in ("train", "test", "meta"):
        (place / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(DataError) as caught:
        cifar100(tmp_path)
    assert str(place / "train") in str(caught.value)
    assert md5(place / "train") in str(caught.value)
    assert "16019d7e3df5f24257cddd939b257f8d" in str(caught.value)
    assert not mark.exists()
    pickle.loads((place / "train").read_bytes())
    assert mark.exists(), "the test's own pickle must be able to do harm"


def test_an_archive_in_the_root_is_unpacked_without_a_network(tmp_path, monkeypatch, no_network):
    images = write_cifar(tmp_path / "elsewhere", monkeypatch, "cifar100")
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(tmp_path / "elsewhere" / "cifar-100-python", "cifar-100-python")
    with pytest.raises(DataError, match=r"cifar-100-python.tar.gz is damaged .* expected eb9058c3a382ffc7106e4002"):
        cifar100(tmp_path)
    source = cifar_module.CIFAR100
    accepted = dataclasses.replace(source, archive=dataclasses.replace(source.archive, md5=md5(archive)))
    monkeypatch.setattr(cifar_module, "CIFAR100", accepted)
    assert len(cifar100(tmp_path).train) + 3 == len(images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-100-python", archive.name, "elsewhere"]
    assert no_network == []


def test_absent_and_offline_says_what_to_do(tmp_path, no_network):
    with pytest.raises(DataError) as caught:
        cifar100(tmp_path / "data")
    message = str(caught.value)
    assert no_network == ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]
    for part in (
        "CIFAR-100 is not here",
        "Network is unreachable",
        str(tmp_path / "data" / "cifar-100-python.tar.gz"),
        "md5 eb9058c3a382ffc7106e4002c42a8d85",
        str(tmp_path / "data" / "cifar-100-python") + "/",
        "dataset.root=DIR",
        "KDRUN_DATA",
        "dataset=digits",
    ):
        assert part in message
    assert list((tmp_path / "data").iterdir()) == []


# --- MNIST and Fashion-MNIST ----------------------------------------------------------------------------------------

IDX = {"mnist": (mnist, "MNIST"), "fashion_mnist": (fashion_mnist, "FASHION_MNIST")}


def write_idx(root: Path, monkeypatch, name: str) -> dict[str, torch.Tensor]:
    """Writes six training and four test images with their labels; returns all arrays by file name without .gz."""
    source = getattr(mnist_module, IDX[name][1])
    place = root / source.directory
    place.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    arrays, md5_of, sha256_of = {}, {}, {}
    for compressed in source.md5:
        size = 6 if compressed.startswith("train") else 4
        shape = (size, 28, 28) if "images" in compressed else (size,)
        high = 256 if "images" in compressed else 10
        array = torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)
        content = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + array.numpy().tobytes()
        (place / compressed).write_bytes(gzip.compress(content))
        arrays[Path(compressed).stem] = array
        md5_of[compressed] = md5(place / compressed)
        sha256_of[Path(compressed).stem] = hashlib.sha256(content).hexdigest()
    assert source.unpacked_sha256.keys() == sha256_of.keys()
    monkeypatch.setattr(mnist_module, IDX[name][1], dataclasses.replace(source, md5=md5_of, unpacked_sha256=sha256_of))
    return arrays


def unpack_all(place: Path) -> None:
    for path in list(place.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


@pytest.mark.parametrize("name", IDX)
def test_idx_reads_images_and_labels(tmp_path, monkeypatch, no_network, name):
    arrays = write_idx(tmp_path, monkeypatch, name)
    splits = IDX[name][0](tmp_path)
    check_images(splits, num_classes=10, in_channels=1, image_size=28)
    assert torch.equal(splits.train.images.squeeze(3), arrays["train-images-idx3-ubyte"])
    assert torch.equal(splits.train.labels, arrays["train-labels-idx1-ubyte"].long())
    assert torch.equal(splits.test.images.squeeze(3), arrays["t10k-images-idx3-ubyte"])
    assert torch.equal(splits.test.labels, arrays["t10k-labels-idx1-ubyte"].long())
    assert no_network == []


@pytest.mark.parametrize("name", IDX)
def test_unpacked_files_are_read_when_they_are_the_official_ones(tmp_path, monkeypatch, no_network, name):
    arrays = write_idx(tmp_path, monkeypatch, name)
    place = tmp_path / getattr(mnist_module, IDX[name][1]).directory
    unpack_all(place)
    assert torch.equal(IDX[name][0](tmp_path).test.images.squeeze(3), arrays["t10k-images-idx3-ubyte"])
    damaged = place / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is damaged .* sha256"):
        IDX[name][0](tmp_path)
    assert no_network == []


def test_mnist_files_are_downloaded_from_the_next_mirror(tmp_path, monkeypatch):
    arrays = write_idx(tmp_path / "server", monkeypatch, "mnist")
    from torchvision.datasets import utils

    def download(url, root, filename=None, md5=None, max_redirect_hops=3):
        if "amazonaws" in url:
            raise RuntimeError("File not found or corrupted.")
        content = (tmp_path / "server" / "MNIST" / "raw" / filename).read_bytes()
        (Path(root) / filename).write_bytes(content)

    monkeypatch.setattr(utils, "download_url", download)
    splits = mnist(tmp_path / "data")
    assert torch.equal(splits.train.images.squeeze(3), arrays["train-images-idx3-ubyte"])
    names = sorted(path.name for path in (tmp_path / "data" / "MNIST" / "raw").iterdir())
    assert names == sorted(f"{name}.gz" for name in arrays)


# --- synthetic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "channels", "size"), [(3, 1, 8), (10, 3, 16), (7, 3, 10)])
def test_synthetic_is_as_described_repeatable_and_learnable(classes, channels, size):
    description = {"num_classes": classes, "in_channels": channels, "image_size": size}
    splits = synthetic(**description, train_size=100, test_size=40)
    check_images(splits, **description)
    assert (len(splits.train), len(splits.test)) == (100, 40)
    again = synthetic(**description, train_size=100, test_size=40)
    assert torch.equal(again.train.images, splits.train.images)
    assert torch.equal(again.test.images, splits.test.images)
    train, test = (split.images.double().flatten(1) for split in (splits.train, splits.test))
    nearest = torch.cdist(test, train).argmin(1)
    assert (splits.train.labels[nearest] == splits.test.labels).double().mean() > 0.9
