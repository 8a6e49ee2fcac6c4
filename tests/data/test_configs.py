"""The config files of the datasets against the loaders and against torchvision's record of the official files."""

import importlib
import inspect
from pathlib import Path

import pytest
import torchvision
import yaml

from kdrun.data import Splits, check_images, digits
from kdrun.data.loaders import cifar, mnist
from kdrun.data.loaders import digits as digits_module

FOLDER = Path(__file__).parents[2] / "conf" / "dataset"
IMAGES = (
    *("cifar10", "cifar100", "digits", "fashion_mnist", "folder", "hf", "imagenet", "mnist", "synthetic"),
    *("tiny_imagenet", "wds"),
)
KEYS = ["_target_", "identity", "num_classes", "in_channels", "image_size", "train_size", "test_size", "mean", "std"]
CONVERSION = ["resize_size", "skip_corrupt"]
FURTHER = {
    "folder": [*CONVERSION, "test_split"],
    "imagenet": CONVERSION,
    "hf": ["path", "train_split", "test_split", "image_column", "label_column", *CONVERSION],
    "wds": ["train_shards", "test_shards", *CONVERSION],
}


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def target(name: str):
    module, _, function = read(name)["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), function)


def test_every_dataset_has_its_file():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_a_config_has_all_keys_and_its_loader_asks_for_nothing_else(name):
    config = read(name)
    config.pop("defaults", None)  # the teacher that goes with it
    keys = [*KEYS, *FURTHER.get(name, ())]
    assert list(config) == keys
    assert len(config["mean"]) == len(config["std"]) == config["in_channels"]
    loader = target(name)
    assert loader.__name__ == name
    assert set(inspect.signature(loader).parameters) <= {*keys, "root"}
    assert inspect.get_annotations(loader, eval_str=True)["return"] is Splits


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_torchvisions(name):
    known = getattr(torchvision.datasets, name.upper())
    ours = getattr(cifar, name.upper())
    assert read(name)["identity"] == f"md5:{ours.archive.md5}" == f"md5:{known.tgz_md5}"
    assert ours.archive.url == known.url
    assert ours.archive.directory == known.base_folder
    assert list(ours.train.items()) == [tuple(entry) for entry in known.train_list]
    assert list(ours.test.items()) == [tuple(entry) for entry in known.test_list]
    assert ours.names == {known.meta["filename"]: known.meta["md5"]}
    assert ours.names_key.decode() == known.meta["key"]


@pytest.mark.parametrize(("name", "known"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_is_torchvisions(name, known):
    ours, known = getattr(mnist, name.upper()), getattr(torchvision.datasets, known)
    assert list(ours.md5.items()) == list(known.resources)
    assert read(name)["identity"] == "md5:" + "+".join(ours.md5.values())
    assert ours.directory == f"{known.__name__}/raw"
    assert len(ours.class_names) == len(known.classes) == read(name)["num_classes"]


def test_digits_config_says_what_the_data_are():
    config, splits = read("digits"), digits()
    assert config["identity"] == f"sha256:{digits_module.SHA256}"
    assert (config["train_size"], config["test_size"]) == (len(splits.train), len(splits.test))
    check_images(splits, **{key: config[key] for key in ("num_classes", "in_channels", "image_size")})
    pixels = splits.train.images.double() / 255
    assert config["mean"] == [round(float(pixels.mean()), 4)]
    assert config["std"] == [round(float(pixels.std(correction=0)), 4)]
