"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017), read from the official IDX files."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..downloads import download_files, find, verified_bytes
from ..splits import ImageSet, Splits


@dataclass(frozen=True)
class IdxFiles:
    """A dataset of four IDX files: training images and labels, test images and labels.

    Attributes:
        title: for messages.
        directory: of the files, below the root.
        mirrors: addresses of the directories that publish them.
        md5: of the compressed files, by file name; the order is the one above.
        unpacked_sha256: of their content, by file name.
        class_names: by label.
    """

    title: str
    directory: str
    mirrors: tuple[str, ...]
    md5: Mapping[str, str]
    unpacked_sha256: Mapping[str, str]
    class_names: tuple[str, ...]


MNIST = IdxFiles(
    title="MNIST",
    directory="MNIST/raw",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    unpacked_sha256={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    class_names=tuple("0123456789"),
)

FASHION_MNIST = IdxFiles(
    title="Fashion-MNIST",
    directory="FashionMNIST/raw",
    mirrors=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    md5={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    unpacked_sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)


def mnist(root: Path) -> Splits:
    """60,000 + 10,000 handwritten digits, 28x28 grey, from `root/MNIST/raw/`, compressed or unpacked.

    Raises:
        DataError: absent and not to be downloaded, incomplete, or not the official files.
    """
    return _load(root, MNIST)


def fashion_mnist(root: Path) -> Splits:
    """60,000 + 10,000 articles of clothing, 28x28 grey, 10 classes, from `root/FashionMNIST/raw/`, compressed or
    unpacked.

    Raises:
        DataError: absent and not to be downloaded, incomplete, or not the official files.
    """
    return _load(root, FASHION_MNIST)


def _load(root: Path, source: IdxFiles) -> Splits:
    place = root / source.directory
    names = [_present_name(place, name) for name in source.md5]
    if find(root, source.directory, names, title=source.title) is None:
        download_files(list(source.md5.items()), source.mirrors, place, title=source.title)
    train_images, train_labels, test_images, test_labels = (_read(place / name, source) for name in names)
    return Splits(
        train=ImageSet(train_images.unsqueeze(-1), train_labels.long()),
        test=ImageSet(test_images.unsqueeze(-1), test_labels.long()),
        class_names=source.class_names,
    )


def _present_name(place: Path, compressed: str) -> str:
    """The unpacked file's name where only that one is present, else the compressed one's."""
    unpacked = Path(compressed).stem
    return unpacked if (place / unpacked).exists() and not (place / compressed).exists() else compressed


def _read(path: Path, source: IdxFiles) -> Tensor:
    if path.name in source.unpacked_sha256:
        return parse_idx(verified_bytes(path, source.unpacked_sha256[path.name], algorithm="sha256"))
    return parse_idx(gzip.decompress(verified_bytes(path, source.md5[path.name])))


def parse_idx(content: bytes) -> Tensor:
    """Reads an IDX file of unsigned bytes: two zero bytes, the type (8), the number of dimensions, each dimension as
    a big-endian 32-bit integer, then the values in row-major order.

    Returns:
        uint8, of the shape the file gives.
    """
    assert content[:3] == b"\0\0\x08", "only files with an official checksum come here"
    header = 4 + 4 * content[3]
    shape = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(shape)
