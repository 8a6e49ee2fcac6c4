"""Loaders of published datasets, on small files of the official layout."""

import dataclasses
import gzip
import hashlib
import pickle
import tarfile
from pathlib import Path

import pytest
import torch

from kdrun.data import DataError, Splits, check_images, cifar100, digits, fashion_mnist, mnist, synthetic
from kdrun.data.loaders import cifar as cifar_module
from kdrun.data.loaders import digits as digits_module


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


# --- CIFAR, MNIST and Fashion-MNIST --------------------------------------------------------------------------------


def holds(splits: Splits, images: torch.Tensor, labels: torch.Tensor) -> None:
    assert torch.equal(torch.cat([splits.train.images, splits.test.images]), images)
    assert torch.equal(torch.cat([splits.train.labels, splits.test.labels]), labels)
    assert len(splits.test) == 3


def test_published_files_give_images_labels_and_names(dataset, no_network):
    splits = dataset.loader(dataset.root)
    side, channels = dataset.images.shape[2:]
    num_classes = 2 if channels == 3 else 10
    check_images(splits, num_classes=num_classes, in_channels=channels, image_size=side)
    if dataset.loader is not fashion_mnist:
        assert splits.class_names == (("cat", "dog") if channels == 3 else tuple("0123456789"))
    holds(splits, dataset.images, dataset.labels)
    assert no_network == []


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


@pytest.mark.parametrize("dataset", ["CIFAR100"], indirect=True)
def test_an_archive_in_the_root_is_unpacked_without_a_network(dataset, tmp_path, monkeypatch, no_network):
    root = tmp_path / "unpacked"
    root.mkdir()
    archive = root / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(dataset.place, "cifar-100-python")
    with pytest.raises(DataError, match=r"cifar-100-python.tar.gz is damaged .* expected eb9058c3a382ffc7106e4002"):
        cifar100(root)
    source = cifar_module.CIFAR100
    accepted = dataclasses.replace(source, archive=dataclasses.replace(source.archive, md5=md5(archive)))
    monkeypatch.setattr(cifar_module, "CIFAR100", accepted)
    holds(cifar100(root), dataset.images, dataset.labels)
    assert sorted(path.name for path in root.iterdir()) == ["cifar-100-python", archive.name]
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


@pytest.mark.parametrize("dataset", ["MNIST"], indirect=True)
def test_unpacked_files_are_read_when_they_are_the_official_ones(dataset, no_network):
    for path in list(dataset.place.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    holds(mnist(dataset.root), dataset.images, dataset.labels)
    damaged = dataset.place / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is damaged .* sha256"):
        mnist(dataset.root)
    assert no_network == []


@pytest.mark.parametrize("dataset", ["MNIST"], indirect=True)
def test_mnist_files_are_downloaded_from_the_next_mirror(dataset, tmp_path, monkeypatch):
    from torchvision.datasets import utils

    def download(url, root, filename=None, md5=None, max_redirect_hops=3):
        if "amazonaws" in url:
            raise RuntimeError("File not found or corrupted.")
        (Path(root) / filename).write_bytes((dataset.place / filename).read_bytes())

    monkeypatch.setattr(utils, "download_url", download)
    holds(mnist(tmp_path / "new"), dataset.images, dataset.labels)
    names = [sorted(path.name for path in (root / "MNIST/raw").iterdir()) for root in (tmp_path / "new", dataset.root)]
    assert names[0] == names[1]


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
