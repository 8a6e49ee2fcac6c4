"""Archives and downloads."""

import gzip
import hashlib
import io
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from kdrun.data import DataError
from kdrun.data.archives import extract
from kdrun.data.files import Archive, unpack_archive, verified_bytes
from tests.special_files import replace_by


def test_a_good_zip_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as opened:
        opened.writestr("data/a.txt", "hello")
    extract(tmp_path / "good.zip", tmp_path / "target", 2**20)
    assert (tmp_path / "target" / "data" / "a.txt").read_text() == "hello"


@pytest.mark.parametrize("name", ["../outside.txt", "data/../../outside.txt", "/outside.txt", "data\\..\\outside.txt"])
def test_a_zip_that_would_leave_its_directory_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as opened:
        opened.writestr("data/a.txt", "hello")
        opened.writestr(name, "harm")
    target = tmp_path / "deep" / "target"
    with pytest.raises(DataError, match=r"bad.zip: refused, its member .*outside.txt"):
        extract(tmp_path / "bad.zip", target, 2**20)
    assert not target.exists()
    assert not list(tmp_path.rglob("outside.txt"))


def tar_with(path: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        opened.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def test_a_tar_that_would_leave_its_directory_is_refused(tmp_path):
    member = tarfile.TarInfo("../outside-of-it.txt")
    member.size = 1
    with pytest.raises(DataError, match=r"refused, its member '../outside-of-it.txt'"):
        extract(tar_with(tmp_path / "bad.tar.gz", member), tmp_path, 2**20)
    assert not (tmp_path.parent / "outside-of-it.txt").exists()


def test_a_tar_with_a_link_is_refused(tmp_path):
    member = tarfile.TarInfo("link")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    with pytest.raises(DataError, match="'link' is neither a file nor a directory"):
        extract(tar_with(tmp_path / "bad.tar.gz", member), tmp_path, 2**20)


def zip_with(path: Path, *entries: tuple[str, bytes], mode: int = 0, flags: int = 0) -> Path:
    """A ZIP archive; `mode` and `flags` are those of its last entry."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            opened.writestr(name, content)
        opened.filelist[-1].external_attr = mode << 16
        opened.filelist[-1].flag_bits |= flags
    return path


def tar_of(path: Path, *entries: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, content in entries:
            (member := tarfile.TarInfo(name)).size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return path


CLASHES = [
    (("a/x.png", "a/X.png"), "'a/X.png' clashes with 'a/x.png'"),
    (("a/x.png", "A/y.png"), "'A/y.png' clashes with 'a'"),
    (("a/x.png", "a/x.png"), "'a/x.png' clashes with 'a/x.png'"),
    (("a", "a/x.png"), "'a/x.png' clashes with 'a'"),
    (("a/x.png", "a"), "'a' clashes with 'a'"),
    (("a/x.png", "a/./x.png"), "clashes with 'a/x.png'"),
    (("\u00e9.png", "e\u0301.png"), "clashes with"),
    (("a/" + 300 * "x",), "has a name of more than 255 bytes"),
    (("a/x.png", "."), "would be written outside"),
]


@pytest.mark.parametrize(("names", "message"), CLASHES, ids=[message[:40] for _, message in CLASHES])
@pytest.mark.parametrize("pack", [zip_with, tar_of])
def test_members_that_would_replace_each_other_are_refused(tmp_path, pack, names, message):
    archive = pack(tmp_path / "archive", *((name, b"x") for name in names))
    (target := tmp_path / "target").mkdir()
    with pytest.raises(DataError, match=f"{archive}: refused, its member ") as raised:
        extract(archive, target, 2**20)
    assert message in str(raised.value)
    assert list(target.iterdir()) == []


def bombs(place: Path) -> dict[str, Path]:
    """Archives of less than a megabyte, by what is wrong with them."""
    zeros = bytes(2**23)
    (long_name := tarfile.TarInfo("x")).type = tarfile.GNUTYPE_LONGNAME
    with gzip.open(place / "pax.tar.gz", "wb") as packed:  # a header of an extension that has 8 MiB
        (extended := tarfile.TarInfo("x")).pax_headers = {"comment": 2**23 * "x"}
        packed.write(extended.tobuf(tarfile.PAX_FORMAT))
    (place / "zeros.tar.gz").write_bytes(gzip.compress(zeros))
    (place / "chain.tar").write_bytes(long_name.tobuf() * 1500)
    return {
        "takes the unpacked size to": zip_with(place / "bomb.zip", ("one/small.png", b"x"), ("one/large.png", zeros)),
        "unpacks to more than 1048576 bytes": tar_of(place / "bomb.tar.gz", ("one/large.png", zeros)),
        "it unpacks to more than 1048576": place / "zeros.tar.gz",
        "unpacks to more than": place / "pax.tar.gz",
        "not a readable archive": place / "chain.tar",
        "'one/x.png' is encrypted": zip_with(place / "locked.zip", ("one/x.png", b"x"), flags=1),
        "'one/link' is neither a file": zip_with(place / "link.zip", ("one/link", b"/etc"), mode=stat.S_IFLNK | 0o777),
    }


def test_bombs_links_and_locked_members_leave_nothing_behind(tmp_path):
    for message, archive in bombs(tmp_path).items():
        assert archive.stat().st_size < 2**20
        root = tmp_path / f"root of {archive.name}"
        root.mkdir()
        shutil.copy(archive, root / archive.name)
        md5 = hashlib.md5(archive.read_bytes()).hexdigest()
        with pytest.raises(DataError, match=message) as raised:
            unpack_archive(Archive("Toy", f"https://example.org/{archive.name}", md5, "one", limit=2**20), root)
        assert str(root / archive.name) in str(raised.value)
        assert list(root.iterdir()) == [root / archive.name]


@pytest.mark.parametrize("kind", ["fifo", "device", "endless"])
def test_an_archive_that_is_no_file_of_its_size_is_refused(tmp_path, kind):
    path = tmp_path / "toy.zip"
    replace_by(kind, path)
    with pytest.raises(DataError, match=r"toy.zip cannot be read: (is a|has \d+ bytes)"):
        unpack_archive(Archive("Toy", "https://example.org/toy.zip", "0" * 32, "toy", limit=2**20), tmp_path)
    with pytest.raises(DataError, match=r"toy.zip cannot be read"):
        verified_bytes(path, "0" * 32)


def test_a_broken_archive_is_named(tmp_path):
    (tmp_path / "broken.tar.gz").write_bytes(b"\x1f\x8b nothing of the kind")
    with pytest.raises(DataError, match=r"broken.tar.gz: not a readable archive"):
        extract(tmp_path / "broken.tar.gz", tmp_path, 2**20)


def make_archive(tmp_path: Path) -> tuple[Archive, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("toy/a.txt", "hello")
    content = buffer.getvalue()
    return Archive("Toy", "https://example.org/toy.zip", hashlib.md5(content).hexdigest(), "toy", limit=2**20), content


def test_a_download_appears_whole_and_leaves_nothing_else(tmp_path, monkeypatch):
    from torchvision.datasets import utils

    archive, content = make_archive(tmp_path)

    def download(url, root, filename=None, md5=None, max_redirect_hops=3):
        assert (url, md5) == (archive.url, archive.md5)
        assert not (tmp_path / "root" / "toy").exists()
        assert socket.getdefaulttimeout() is not None
        (Path(root) / filename).write_bytes(content)

    monkeypatch.setattr(utils, "download_url", download)
    assert unpack_archive(archive, tmp_path / "root") == tmp_path / "root" / "toy"
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["toy"]
    assert (tmp_path / "root" / "toy" / "a.txt").read_text() == "hello"
    assert socket.getdefaulttimeout() is None


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    from torchvision.datasets import utils

    def interrupted(url, root, filename=None, md5=None, max_redirect_hops=3):
        (Path(root) / filename).write_bytes(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "download_url", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack_archive(make_archive(tmp_path)[0], tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_root_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"Toy is not here, and .* cannot be written.*\n[^$]*dataset.root=DIR"):
        unpack_archive(make_archive(tmp_path)[0], tmp_path / "file" / "root")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("ModuleNotFoundError(\"No module named 'torchvision'\")", "does not import: No module named 'torchvision'"),
        ("RuntimeError('operator torchvision::nms does not exist')", "do not match: operator torchvision::nms"),
    ],
)
def test_a_torchvision_that_does_not_import_is_explained(tmp_path, error, message):
    """In a fresh interpreter, with a torchvision that raises what a missing or mismatched one raises.

    Also: `import kdrun.data` itself imports neither torchvision nor PIL.
    """
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {error}")
    code = f"import sys, pathlib; sys.path.insert(0, {str(tmp_path)!r})\n" + (
        "import kdrun.data\n"
        "assert 'torchvision' not in sys.modules and 'PIL' not in sys.modules\n"
        f"try:\n    kdrun.data.cifar100(pathlib.Path({str(tmp_path)!r}) / 'data')\n"
        "except kdrun.data.DataError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert message in result.stdout
    assert "CIFAR-100 is not here" in result.stdout
