"""What the data tests share: no network, a data home, and small published datasets in their official layout."""

import dataclasses
import gzip
import hashlib
import pickle
import struct
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdrun.data import Splits, cifar10, cifar100, fashion_mnist, mnist
from kdrun.data.loaders import cifar as cifar_module
from kdrun.data.loaders import mnist as mnist_module

LOADERS = {
    "CIFAR10": (cifar10, cifar_module),
    "CIFAR100": (cifar100, cifar_module),
    "MNIST": (mnist, mnist_module),
    "FASHION_MNIST": (fashion_mnist, mnist_module),
}


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """Makes every download fail as without a network; returns the addresses that were tried."""
    from torchvision.datasets import utils

    tried: list[str] = []

    def refuse(url, root, filename=None, md5=None, max_redirect_hops=3):
        tried.append(url)
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(utils, "download_url", refuse)
    return tried


@pytest.fixture
def data_home(monkeypatch, tmp_path) -> Path:
    """A $KDRUN_DATA of the test's own."""
    home = tmp_path / "home"
    monkeypatch.setenv("KDRUN_DATA", str(home))
    return home


@dataclasses.dataclass
class Published:
    """A dataset of four images a training file and three in the test file, whose checksums the loader expects."""

    loader: Callable[[Path], Splits]
    root: Path
    place: Path
    images: torch.Tensor
    labels: torch.Tensor


@pytest.fixture(params=LOADERS)
def dataset(request, tmp_path, monkeypatch, no_network) -> Published:
    loader, module = LOADERS[request.param]
    source = getattr(module, request.param)
    is_cifar = module is cifar_module
    num_files = len(source.train) if is_cifar else 1
    shape = (4 * num_files + 3, 32, 32, 3) if is_cifar else (7, 28, 28, 1)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(len(images)) % 2
    write = _cifar_files if is_cifar else _idx_files
    files = write(source, images, labels)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    if is_cifar:
        fields = {field: {name: sums[name] for name in getattr(source, field)} for field in ("train", "test", "names")}
    else:
        unpacked = {Path(name).stem: hashlib.sha256(gzip.decompress(content)) for name, content in files.items()}
        assert unpacked.keys() == source.unpacked_sha256.keys()
        fields = {"md5": sums, "unpacked_sha256": {name: digest.hexdigest() for name, digest in unpacked.items()}}
    monkeypatch.setattr(module, request.param, dataclasses.replace(source, **fields))
    root = tmp_path / "data"
    place = root / (source.archive.directory if is_cifar else source.directory)
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    return Published(loader, root, place, images, labels)


def _cifar_files(source, images, labels) -> dict[str, bytes]:
    """The files of the archive: rows of 3072 bytes, the three colour planes one after the other."""
    rows = images.permute(0, 3, 1, 2).flatten(1).split(4)
    files = {
        name: pickle.dumps({b"data": part.numpy(), source.label_key: own.tolist()}, protocol=2)
        for name, part, own in zip((*source.train, *source.test), rows, labels.split(4), strict=True)
    }
    return files | {name: pickle.dumps({source.names_key: [b"cat", b"dog"]}, protocol=2) for name in source.names}


def _idx_files(source, images, labels) -> dict[str, bytes]:
    arrays = (images[:4, ..., 0], labels[:4].byte(), images[4:, ..., 0], labels[4:].byte())
    return {
        name: gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.numpy().tobytes())
        for name, array in zip(source.md5, arrays, strict=True)
    }
