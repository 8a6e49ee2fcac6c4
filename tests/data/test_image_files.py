"""Loaders that decode image files: folder and Tiny-ImageNet, and the cache of decoded images."""

import dataclasses
import hashlib
import logging
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torchvision import transforms

from kdrun import data, memory
from kdrun.config.data_facts import check_dataset
from kdrun.config.findings import Findings
from kdrun.data import DataError, Splits, check_images, claims_identity, decode, digests, encoded, identity
from kdrun.data.loaders import tiny_imagenet as tiny_module
from kdrun.data.pixels import extensions


def folder(root: Path, **options) -> Splits:
    """A folder's images in memory."""
    return decode(data.folder(root, **options))


def tiny_imagenet(*where) -> Splits:
    return decode(data.tiny_imagenet(*where))


def write_image(path: Path, size: tuple[int, int] = (12, 12), mode: str = "RGB", seed: int = 0) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    channels = len(mode)
    pixels = torch.randint(0, 256, (size[1], size[0], channels), dtype=torch.uint8, generator=generator)
    image = Image.fromarray(pixels.squeeze(2).numpy() if channels == 1 else pixels.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return image


@pytest.fixture
def tree(tmp_path, data_home) -> Path:
    """root/train and root/val with the classes ant and bee, sizes and formats mixed, images of known content."""
    root = tmp_path / "images"
    for seed, (name, size, mode) in enumerate(
        [
            ("train/bee/b.png", (12, 12), "RGB"),
            ("train/bee/A.BMP", (20, 13), "RGB"),
            ("train/ant/deeper/1.png", (9, 31), "L"),
            ("train/ant/2.png", (40, 40), "RGBA"),
            ("val/ant/x.png", (12, 30), "RGB"),
            ("val/bee/y.png", (5, 6), "L"),
        ]
    ):
        write_image(root / name, size, mode, seed)
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    (root / "train" / "ant" / "._2.png").write_text("a hidden file")
    (root / "train" / ".cache").mkdir()
    return root


def as_torchvision_does(path: Path, size: int, mode: str) -> torch.Tensor:
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(image, mask=image.getchannel("A"))
    image = opaque.convert(mode)
    image = transforms.CenterCrop(size)(transforms.Resize(size)(image))
    return transforms.functional.pil_to_tensor(image).permute(1, 2, 0)


@pytest.mark.parametrize(("in_channels", "mode"), [(1, "L"), (3, "RGB")])
def test_folder_is_decoded_as_torchvision_would(tree, in_channels, mode):
    splits = folder(tree, image_size=12, in_channels=in_channels)
    check_images(splits, num_classes=2, in_channels=in_channels, image_size=12)
    assert splits.class_names == ("ant", "bee")
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert splits.test.labels.tolist() == [0, 1]
    train = ["train/ant/2.png", "train/ant/deeper/1.png", "train/bee/A.BMP", "train/bee/b.png"]
    for names, split in ((train, splits.train), (["val/ant/x.png", "val/bee/y.png"], splits.test)):
        expected = torch.stack([as_torchvision_does(tree / name, 12, mode) for name in names])
        assert torch.equal(split.images, expected)


def no_decoding(patch) -> None:
    def broken(*args, **options):
        raise AssertionError("decoded again")

    patch.setattr(encoded, "read_square", broken)


def test_the_second_load_decodes_nothing(tree, data_home, monkeypatch):
    first = folder(tree, image_size=12, in_channels=3)
    assert [path.suffix for path in (data_home / "decoded").iterdir()] == [".safetensors"]
    no_decoding(monkeypatch)
    second = folder(tree, image_size=12, in_channels=3)
    assert identity(second) == identity(first)
    for changed in ({"image_size": 10, "in_channels": 3}, {"image_size": 12, "in_channels": 1}):
        with pytest.raises(DataError, match=r"6 of 6 images .*\n.*decoded again"):
            folder(tree, **changed)


def test_folders_of_equal_names_sizes_and_times_are_told_apart(tmp_path, data_home):
    """By their content, in the cache and in the identity; at whatever place and time it is found."""
    splits = []
    for place, (dark, light) in {"one": (40, 200), "two": (200, 40), "copy of one": (40, 200)}.items():
        for split in ("train", "test"):
            for name, shade in (("a", dark), ("b", light)):
                (tmp_path / place / split / name).mkdir(parents=True)
                (path := tmp_path / place / split / name / "0.ppm").write_bytes(b"P6 8 8 255\n" + bytes([shade] * 192))
                os.utime(path, (1, 1))
        splits.append(folder(tmp_path / place, image_size=8, in_channels=3))
    assert [found.train.images[0, 0, 0, 0].item() for found in splits] == [40, 200, 40]
    assert identity(splits[0]) == identity(splits[2]) != identity(splits[1])
    assert len(list((data_home / "decoded").iterdir())) == 2


def test_a_changed_image_is_decoded_again_though_its_size_and_time_are_the_same(tree):
    path = tree / "train/bee/A.BMP"
    first = folder(tree, image_size=12, in_channels=3)
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-60] + bytes(60))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    second = folder(tree, image_size=12, in_channels=3)
    assert not torch.equal(second.train.images[2], first.train.images[2])
    assert torch.equal(second.train.images[2], as_torchvision_does(path, 12, "RGB"))


def test_a_file_is_read_once_until_it_changes(tmp_path, data_home, monkeypatch):
    """By one process, and by another one if its last change was not just before it was read."""
    (path := tmp_path / "file").write_bytes(b"one")
    files = encoded.Files(tmp_path, ["file", "gone"])
    read, opened = [], encoded.read_regular
    monkeypatch.setattr(encoded, "read_regular", lambda path, limit: read.append(path) or opened(path, limit))
    monkeypatch.setattr(digests, "_listings", {})
    for content, count in ((b"one", 1), (b"three", 2)):
        path.write_bytes(content) if content != b"one" else None
        for _ in range(2):
            expected = [hashlib.sha256(content).digest(), bytes(32)]
            assert [bytes(row) for row in digests.digests_of(files)] == expected
        assert len(read) == count
    assert not (data_home / "listings").exists()
    digests._listings.clear()
    monkeypatch.setattr(digests, "_FRESH_NS", 0)
    for count in (3, 3):
        digests.digests_of(files)
        digests._listings.clear()
        assert len(read) == count
    (listing,) = (data_home / "listings").iterdir()
    damage(listing, "pixel")
    assert bytes(digests.digests_of(files)[0]) == hashlib.sha256(b"three").digest()
    assert len(read) == 4


def test_a_cache_that_cannot_be_written_is_a_warning(tree, data_home, caplog):
    data_home.write_text("a file where the directory should be")
    with caplog.at_level(logging.WARNING):
        splits = folder(tree, image_size=12, in_channels=3)
    assert len(splits.train) == 4
    assert "cannot be kept" in caplog.text


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    match how:
        case "cut":
            del content[-10:]
        case "pixel":
            content[header + 5] ^= 1
        case "name":
            content[content.index(b"images")] ^= 1
        case "digest":
            place = content.index(b"sha256") + 12
            content[place] = ord("1") if content[place] == ord("0") else ord("0")
        case "empty":
            content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "pixel", "name", "digest", "empty"])
def test_a_damaged_cache_is_noticed_and_made_again(tree, data_home, monkeypatch, caplog, how):
    first = folder(tree, image_size=12, in_channels=3)
    (cached,) = (data_home / "decoded").iterdir()
    damage(cached, how)
    assert identity(folder(tree, image_size=12, in_channels=3)) == identity(first)
    assert str(cached) in caplog.text
    caplog.clear()
    no_decoding(monkeypatch)
    assert identity(folder(tree, image_size=12, in_channels=3)) == identity(first)
    assert not caplog.text


def test_the_cache_has_the_permissions_of_any_new_file(tree, data_home):
    before = os.umask(0o002)
    try:
        folder(tree, image_size=12, in_channels=3)
    finally:
        os.umask(before)
    (cached,) = (data_home / "decoded").iterdir()
    assert stat.S_IMODE(cached.stat().st_mode) == 0o664


def test_free_memory_is_what_the_control_groups_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("1:cpu:/job\n0::/job/step\n")
    for group, limit, used in (("job", "1000", "600"), ("job/step", "max", "400")):
        (tmp_path / "groups" / group).mkdir(parents=True)
        for name, text in (("max", limit), ("current", used), ("stat", "anon 500\ninactive_file 100")):
            (tmp_path / "groups" / group / f"memory.{name}").write_text(f"{text}\n")
    assert memory.free_bytes() == 1000 - 600 + 100


def test_faults_of_the_tree_are_named(tree):
    (tree / "train/cat").mkdir()
    (tree / "val/cat").mkdir()
    (tree / "train/cat/names.txt").touch()
    with pytest.raises(DataError, match=r"train.cat: has no images \(1 \.txt\)$"):
        folder(tree, image_size=12, in_channels=3)
    (tree / "empty/train").mkdir(parents=True)
    (tree / "empty/test").mkdir()
    with pytest.raises(DataError, match="has no sub-directories"):
        folder(tree / "empty", image_size=12, in_channels=3)


@pytest.mark.parametrize("names", [("train", "valid"), ("Train", "VAL"), ("training", "Validation")])
def test_splits_are_known_by_their_usual_names(tree, names):
    expected = identity(folder(tree, image_size=12, in_channels=3))
    for name, other in zip(("train", "val"), names, strict=True):
        (tree / name).rename(tree / f"aside-{name}")
        (tree / f"aside-{name}").rename(tree / other)
    assert identity(folder(tree, image_size=12, in_channels=3)) == expected


def test_imagenet_is_read_from_where_it_unpacks(tree):
    """From the directory that has it, and from each within; a flat val/ is refused before anything is decoded."""
    expected = identity(folder(tree, image_size=12, in_channels=3))
    place = tree.parent / "imagenet" / "ILSVRC/Data/CLS-LOC"
    place.parent.mkdir(parents=True)
    tree.rename(place)
    for root in (tree.parent / "imagenet", place.parents[1], place.parent, place):
        assert identity(folder(root, image_size=12, in_channels=3)) == expected
    (place / "val/ant/x.png").rename(place / "val/x.png")
    (place / "val/bee/y.png").rename(place / "val/y.png")
    for name in ("ant", "bee"):
        (place / "val" / name).rmdir()
    with pytest.raises(DataError, match="val: has no sub-directories"):
        folder(tree.parent / "imagenet", image_size=12, in_channels=3)


def test_a_test_set_without_labels_is_passed_over_and_told(tree, caplog):
    expected = identity(folder(tree, image_size=12, in_channels=3))
    write_image(tree / "test/1.png")
    write_image(tree / "test/unknown/2.png")
    with caplog.at_level(logging.INFO):
        assert identity(folder(tree, image_size=12, in_channels=3)) == expected
    assert f"{tree / 'test'} has none of the classes" in caplog.text
    write_image(tree / "test/ant/3.png")
    with pytest.raises(DataError, match="classes of training and test images differ"):
        folder(tree, image_size=12, in_channels=3)
    assert identity(folder(tree, image_size=12, in_channels=3, test_split="val")) == expected
    for name, why in (("dev", "needs a directory train/ and the directory dev/"), ("Train", "has the training images")):
        with pytest.raises(DataError, match=why):
            folder(tree, image_size=12, in_channels=3, test_split=name)


@pytest.mark.parametrize(("size", "channels", "message"), [(12, 2, "in_channels=2"), (0, 3, "image_size=0")])
def test_bad_sizes_are_named(tree, size, channels, message):
    with pytest.raises(ValueError, match=rf"dataset\.{message}"):
        folder(tree, image_size=size, in_channels=channels)


# --- which files count, in which order --------------------------------------------------------------------------------


def found_in(root: Path, caplog, image_size: int = 8) -> tuple[list[int], str]:
    """The red value of each training image, and what was warned of."""
    caplog.clear()
    splits = folder(root, image_size=image_size, in_channels=3)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return splits.train.images[:, 0, 0, 0].tolist(), "\n".join(warned)


def shades(root: Path, classes: dict[str, int], extension: str = ".png") -> Path:
    """A folder with two images of one shade in each class, and one to test with."""
    for name, shade in classes.items():
        for path in (f"train/{name}/0", f"train/{name}/1", f"test/{name}/0"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade, 0, 0)).save(root / f"{path}{extension}")
    return root


def test_hidden_files_thumbnails_and_other_formats_are_left_out_and_counted(tmp_path, data_home, caplog):
    root = shades(tmp_path, {"ant": 10, "bee": 20})
    for place in (
        "train/ant/@eaDir",
        "train/ant/.thumbnails",
        "train/__MACOSX",
        "test/bee/__MACOSX/deeper",
        "train/.git",
    ):
        (root / place).mkdir(parents=True)
        shutil.copy(root / "train/ant/0.png", root / place / "0.png")
    shutil.copy(root / "train/ant/0.png", root / "train/ant/._0.png")
    shutil.copy(root / "train/ant/0.png", root / "train/loose.png")
    for name in ("train/ant/notes.txt", "train/bee/notes.TXT", "train/bee/Makefile"):
        (root / name).touch()
    found, said = found_in(root, caplog)
    assert found == [10, 10, 20, 20]
    reasons = ("10 entries left out", "1 in @eaDir", "2 in hidden directories", "2 in __MACOSX", "1 hidden,", "2 .txt")
    for reason in (*reasons, "1 without extension", "1 beside the classes"):
        assert reason in said
    assert found_in(root, caplog)[1] == "", "said once"


def test_links_to_directories_are_not_followed_and_links_to_files_are(tmp_path, data_home, caplog):
    root = shades(tmp_path / "root", {"ant": 10, "bee": 20})
    Image.new("RGB", (8, 8), (30, 0, 0)).save(tmp_path / "other.png")
    (root / "train/ant/2.png").symlink_to(tmp_path / "other.png")
    (root / "train/ant/loop").symlink_to(root / "train")
    (root / "train/bee/up").symlink_to("..")
    (root / "train/all").symlink_to(".")
    found, said = found_in(root, caplog)
    assert found == [10, 10, 30, 20, 20]
    assert "3 link(s) to directories" in said


def test_a_class_may_be_a_link(tmp_path, data_home, caplog):
    root = shades(tmp_path / "root", {"ant": 10, "bee": 20})
    (root / "train/bee").rename(tmp_path / "elsewhere")
    (root / "train/bee").symlink_to(tmp_path / "elsewhere")
    assert found_in(root, caplog) == ([10, 10, 20, 20], "")


@pytest.mark.parametrize("extension", [".jfif", ".JPE", ".jp2", ".webp"])
def test_all_formats_of_pillow_are_taken(tmp_path, data_home, caplog, extension):
    found, said = found_in(shades(tmp_path, {"ant": 40, "bee": 240}, extension), caplog)
    assert found == pytest.approx([40, 40, 240, 240], abs=2)
    assert said == ""


@pytest.mark.parametrize("extension", [".eps", ".pdf", ".mpg", ".h5"])
def test_what_pillow_does_not_decode_by_itself_is_left_out(extension):
    assert extension not in extensions()


def test_classes_that_are_all_numbers_are_in_their_order(tmp_path, data_home, caplog):
    root = shades(tmp_path / "numbers", {"1": 10, "10": 100, "2": 20})
    assert folder(root, image_size=8, in_channels=3).class_names == ("1", "2", "10")
    assert found_in(root, caplog)[0] == [10, 10, 20, 20, 100, 100]
    root = shades(tmp_path / "names", {"1": 10, "10": 100, "2": 20, "2a": 30})
    assert folder(root, image_size=8, in_channels=3).class_names == ("1", "10", "2", "2a")


def test_names_are_compared_as_they_are_read_not_as_they_are_encoded(tmp_path, data_home):
    """As macOS and Linux write them: decomposed and composed."""
    (root := shades(tmp_path / "one", {"caf\u00e9": 10, "cafz": 20})).joinpath("train/caf\u00e9").rename(
        root / "train" / "cafe\u0301"
    )
    splits = folder(root, image_size=8, in_channels=3)
    assert splits.class_names == ("cafz", "caf\u00e9")
    other = shades(tmp_path / "other", {"caf\u00e9": 10, "cafz": 20})
    assert identity(folder(other, image_size=8, in_channels=3)) == identity(splits)
    shades(root, {"caf\u00e9": 10})
    with pytest.raises(DataError, match="same class name"):
        folder(root, image_size=8, in_channels=3)


# --- Tiny-ImageNet --------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, data_home, monkeypatch) -> Path:
    """A tiny-imagenet-200 of 2 classes with 3 training and 2 validation images each; one image is grey."""
    place = tmp_path / "data" / "tiny-imagenet-200"
    ids = ["n02", "n01"]
    annotations = []
    for label, wordnet_id in enumerate(ids):
        for number in range(3):
            mode = "L" if number == 2 else "RGB"
            write_image(place / f"train/{wordnet_id}/images/{wordnet_id}_{number}.JPEG", (64, 64), mode, 10 * label)
        for number in range(2):
            name = f"val_{2 * number + label}.JPEG"
            write_image(place / "val/images" / name, (64, 64), "RGB", 50 + 2 * number + label)
            annotations.append(f"{name}\t{wordnet_id}\t0\t0\t62\t62")
    (place / "wnids.txt").write_text("\n".join(ids) + "\n")
    (place / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\ttoad\n")
    (place / "val/val_annotations.txt").write_text("\n".join(annotations) + "\n")
    for name, value in (("NUM_CLASSES", 2), ("TRAIN_PER_CLASS", 3), ("TEST_PER_CLASS", 2)):
        monkeypatch.setattr(tiny_module, name, value)
    return place


def test_tiny_imagenet_reads_the_official_layout(tiny):
    splits = tiny_imagenet(tiny.parent)
    check_images(splits, num_classes=2, in_channels=3, image_size=64)
    assert splits.class_names == ("goldfish", "toad")
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.test.labels.tolist() == [1, 0, 1, 0], "in the order of the file names"
    for image, name in zip(splits.test.images, ("val_0", "val_1", "val_2", "val_3"), strict=True):
        assert torch.equal(image, as_torchvision_does(tiny / f"val/images/{name}.JPEG", 64, "RGB"))


def by_class(tiny: Path, target: str) -> None:
    """Sorts the validation images into directories, as the code of Tf-KD and of mdistiller reads them."""
    for line in (tiny / "val/val_annotations.txt").read_text().splitlines():
        name, wordnet_id, *_ = line.split("\t")
        (tiny / target / wordnet_id).mkdir(parents=True, exist_ok=True)
        (tiny / "val/images" / name).rename(tiny / target / wordnet_id / name)
    (tiny / "val/val_annotations.txt").unlink()


@pytest.mark.parametrize("target", ["val/images", "val"])
def test_tiny_imagenet_sorted_by_class_is_the_same_dataset(tiny, target):
    """Without the files that macOS adds, without its text files, and from whatever the directory is called."""
    official = tiny_imagenet(tiny.parent)
    by_class(tiny, target)
    (tiny / "train/n01/images/._n01_0.JPEG").write_text("resource fork")
    assert identity(tiny_imagenet(tiny.parent)) == identity(official)
    renamed = tiny.rename(tiny.with_name("mine"))
    (renamed / "wnids.txt").unlink()
    assert identity(tiny_imagenet(renamed)) == identity(official)
    (renamed / "words.txt").unlink()
    assert tiny_imagenet(renamed).class_names == ("n01", "n02")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda tiny: (tiny / "val/images/val_3.JPEG").unlink(), r"1 images of .* the first is val/images/val_3\.JPEG"),
        (lambda tiny: (tiny / "val/val_annotations.txt").unlink(), "neither a directory for each class nor"),
        (lambda tiny: (tiny / "train/n01/images/n01_1.JPEG").unlink(), r"train has 2 images of class 0 .*, expected 3"),
        (lambda tiny: (tiny / "train/n02").rename(tiny / "aside"), r"train has 0 images of class 1 \(toad\)"),
        (lambda tiny: (tiny / "val").rename(tiny / "validation"), "is incomplete, missing: val"),
    ],
)
def test_a_tiny_imagenet_that_cannot_be_read_is_refused_before_it_is_decoded(tiny, monkeypatch, spoil, told):
    monkeypatch.setattr(tiny_module, "encoded_splits", lambda *args: pytest.fail("listed"))
    spoil(tiny)
    with pytest.raises(DataError, match=told):
        tiny_imagenet(tiny.parent)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "n01\tgoldfish\n"),
        ("words.txt", "n01 goldfish\nn02 toad\n"),
        ("val/val_annotations.txt", "val_0.JPEG\tn99\t0\t0\t62\t62\n"),
        ("val/val_annotations.txt", "val_0.JPEG\n"),
        ("wnids.txt", "\xff\xfe"),
    ],
)
def test_text_files_of_tiny_imagenet_that_do_not_fit_are_named(tiny, name, text):
    (tiny / name).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=f"{tiny}: .*{name}"):
        tiny_imagenet(tiny.parent)


def zipped(tiny: Path, monkeypatch) -> Path:
    """Packs the directory, in the place of the official archive; the directory is no longer there."""
    archive = tiny.parent / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(tiny.rglob("*")):
            opened.write(path, path.relative_to(tiny.parent))
    tiny.rename(tiny.parent / "aside")
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(tiny_module, "ARCHIVE", dataclasses.replace(tiny_module.ARCHIVE, md5=digest))
    return archive


def swap_labels(place: Path) -> None:
    annotations = place / "val/val_annotations.txt"
    first, second, *others = annotations.read_text().splitlines()
    parts = first.split("\t"), others[0].split("\t")
    parts[0][1], parts[1][1] = parts[1][1], parts[0][1]
    lines = ["\t".join(parts[0]), second, "\t".join(parts[1]), *others[1:]]
    annotations.write_text("\n".join(lines) + "\n")


def test_the_official_identity_is_of_verified_bytes_alone(tiny, monkeypatch, no_network):
    """Of what kdrun unpacked and nothing changed since; two swapped labels pass all counts, and are another dataset."""
    by_hand = tiny_imagenet(tiny.parent)
    assert not claims_identity(data.tiny_imagenet, tiny.parent)
    zipped(tiny, monkeypatch)
    official = f"md5:{tiny_module.ARCHIVE.md5}"
    assert claims_identity(data.tiny_imagenet, tiny.parent), "it will be unpacked"
    for _ in range(2):
        assert identity(tiny_imagenet(tiny.parent, official)) == identity(by_hand)
        assert claims_identity(data.tiny_imagenet, tiny.parent)
    image = tiny / "train/n01/images/n01_0.JPEG"
    whole = image.read_bytes()
    image.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=r"not those of the official archive.*\n.*dataset\.identity=null"):
        tiny_imagenet(tiny.parent, official)
    image.write_bytes(whole)
    swap_labels(tiny)
    with pytest.raises(DataError, match="not those of the official archive"):
        tiny_imagenet(tiny.parent, official)
    assert identity(tiny_imagenet(tiny.parent)) != identity(by_hand)
    (tiny / tiny_module.UNPACKED).unlink()
    with pytest.raises(DataError, match="kdrun did not unpack it"):
        tiny_imagenet(tiny.parent, official)
    assert no_network == []


def test_a_tiny_imagenet_unpacked_by_hand_is_told_and_has_the_identity_of_its_content(tiny):
    node = yaml.safe_load((Path(__file__).parents[2] / "conf/dataset/tiny_imagenet.yaml").read_text())
    findings = Findings([])
    found = check_dataset(findings, {**node, "root": str(tiny.parent)})
    assert found.identity == identity(data.tiny_imagenet(tiny.parent))
    assert not findings.problems
    (notice,) = findings.notices
    assert found.identity[:32] in notice
    assert (
        check_dataset(Findings([]), {**node, "root": str(tiny.parents[1] / "not" / "here")}).identity
        == node["identity"]
    )
