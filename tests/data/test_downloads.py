"""Archives and downloads."""

import hashlib
import io
import socket
import sys
import zipfile
from pathlib import Path

import pytest

from kdrun.data import DataError
from kdrun.data.downloads import Archive, unpack_archive, verified_bytes
from tests.special_files import replace_by


@pytest.mark.parametrize("kind", ["fifo", "device", "endless"])
def test_an_archive_that_is_no_file_of_its_size_is_refused(tmp_path, kind):
    path = tmp_path / "toy.zip"
    replace_by(kind, path)
    with pytest.raises(DataError, match=r"toy.zip cannot be read: (is a|has \d+ bytes)"):
        unpack_archive(Archive("Toy", "https://example.org/toy.zip", "0" * 32, "toy", limit=2**20), tmp_path)
    with pytest.raises(DataError, match=r"toy.zip cannot be read"):
        verified_bytes(path, "0" * 32)


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


def test_a_torchvision_that_does_not_import_is_named(tmp_path, monkeypatch):
    """It raises what one compiled for another torch raises."""

    class Broken:
        def find_spec(self, name, path, target=None):
            if name == "torchvision.datasets":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "torchvision.datasets", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DataError, match=r"Toy is not here.*operator torchvision::nms does not exist"):
        unpack_archive(make_archive(tmp_path)[0], tmp_path / "root")
