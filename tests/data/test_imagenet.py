"""ImageNet: the layouts that torchvision reads, against torchvision; parts of it by their content."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
import yaml
from PIL import Image

from kdrun.config.data_facts import check_dataset
from kdrun.config.findings import Findings
from kdrun.data import DataError, identity, imagenet
from kdrun.data.loaders import imagenet as module
from kdrun.files import sha256

IDS = ("n01440764", "n01443537", "n02119789")
NODE = yaml.safe_load((Path(__file__).parents[2] / "conf/dataset/imagenet.yaml").read_text())


@pytest.fixture
def root(tmp_path, data_home, monkeypatch) -> Path:
    """Three classes in torchvision's layout; the numbers in the devkit are not in the order of the ids."""
    for label, name in enumerate(IDS):
        for number in range(2):
            write(tmp_path / f"train/{name}/{name}_{number}.JPEG", 20 * label + number)
    for number in range(1, 7):
        write(tmp_path / f"val/{IDS[number % 3]}/ILSVRC2012_val_{number:08}.JPEG", 100 + number)
    monkeypatch.setattr(module, "WORDNET_IDS_SHA256", sha256("\n".join(IDS).encode()))
    monkeypatch.setattr(module, "NUM_IMAGES", {"train": 6, "val": 6})
    monkeypatch.setattr(module, "_class_names", lambda ids: tuple(ids))
    return tmp_path


def write(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (shade, 0, 0)).save(path, "JPEG")


def flatten(root: Path) -> None:
    """The validation images as the official archive unpacks, with the devkit."""
    numbers = {IDS[0]: 2, IDS[1]: 3, IDS[2]: 1}
    for path in sorted((root / "val").rglob("*.JPEG")):
        path.rename(root / "val" / path.name)
    for name in IDS:
        (root / "val" / name).rmdir()
    devkit = root / "ILSVRC2012_devkit_t12/data"
    devkit.mkdir(parents=True)
    truth = [numbers[IDS[number % 3]] for number in range(1, 7)]
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))
    fields = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
    ]
    rows = [(numbers[name], name, f"{name}, other word", "gloss", 0) for name in sorted(IDS, key=numbers.get)]
    rows.append((4, "n00000001", "both, all", "gloss", 3))
    scipy.io.savemat(devkit / "meta.mat", {"synsets": np.array(rows, dtype=fields)})


@pytest.mark.parametrize("is_flat", [False, True])
def test_both_layouts_are_one_data_set_in_the_order_of_torchvision(root, is_flat):
    expected = identity(imagenet(root))
    if is_flat:
        flatten(root)
    splits = imagenet(root)
    assert identity(splits) == expected
    assert splits.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert splits.test.labels.tolist() == [1, 2, 0, 1, 2, 0]
    folder = torchvision.datasets.ImageFolder(root / "train")
    assert [splits.train.name(position) for position in range(6)] == [name for name, _ in folder.samples]
    assert splits.train.form == splits.test.form
    assert splits.test.pixels(0).shape == (224, 224, 3)


def test_the_identity_is_constant_for_the_official_numbers_and_that_of_the_files_else(root, monkeypatch):
    node = {**NODE, "root": str(root)}
    monkeypatch.setattr(module, "encoded_splits", None)  # nothing is read
    found = check_dataset(Findings([]), node)
    assert (found.identity, found.train_size) == (NODE["identity"], 1_281_167)
    monkeypatch.undo()


def test_a_part_of_it_is_described_by_what_it_holds(root):
    (root / f"train/{IDS[0]}/{IDS[0]}_1.JPEG").unlink()
    found = check_dataset(Findings([]), {**NODE, "root": str(root)})
    assert found.identity == identity(imagenet(root))
    assert (found.num_classes, found.train_size, found.test_size) == (3, 5, 6)


def test_unreadable_images_are_left_out_and_counted(root):
    official = identity(imagenet(root))
    (root / f"train/{IDS[1]}/{IDS[1]}_0.JPEG").write_bytes(b"no image")
    (root / f"val/{IDS[1]}/ILSVRC2012_val_00000001.JPEG").write_bytes(b"no image")
    node = {**NODE, "root": str(root), "skip_corrupt": True}
    found = check_dataset(Findings([]), node)
    splits = imagenet(root, skip_corrupt=True)
    assert found.identity == identity(splits) != official
    assert (found.train_size, found.test_size, splits.left_out) == (5, 5, (1, 1))
    assert splits.train.labels.tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "train").rename(root / "images"), r"image-net\.org"),
        (lambda root: (root / "ILSVRC2012_devkit_t12").rename(root / "aside"), "ILSVRC2012_devkit_t12"),
        (lambda root: (root / "val/ILSVRC2012_val_00000001.JPEG").unlink(), "5 images, and .* 6 labels"),
        (lambda root: (root / f"train/{IDS[2]}").rename(root / "aside"), f"no training images, as {IDS[2]}"),
        (lambda root: (root / "ILSVRC2012_devkit_t12/data/meta.mat").write_bytes(b"x"), "meta.mat are damaged"),
    ],
)
def test_what_is_missing_is_named(root, spoil, told):
    flatten(root)
    spoil(root)
    with pytest.raises(DataError, match=told):
        imagenet(root)


def test_the_names_are_those_of_torchvision():
    names = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "WORDNET_IDS_SHA256", sha256("\n".join(IDS).encode()))
        assert module._class_names(IDS) == tuple(names)
    assert module._class_names(IDS) == IDS
    assert len(set(names)) == 1000
    assert torch.tensor([len(names)]) == NODE["num_classes"]
