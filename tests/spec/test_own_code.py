"""The identity of code from outside kdrun: what is followed, what is not, and what a change of it says."""

import importlib.machinery
import json
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from kdrun.spec import own_code
from kdrun.spec.components import resolve, student_component
from kdrun.spec.own_code import changes, outdated, sources

NET = "from torch import nn\ndef net(num_classes: int, in_channels: int, weights: str = '') -> nn.Module: ...\n"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Writes modules below a directory on the path; they are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(files: dict[str, str], below: str = "") -> Path:
        for name, text in files.items():
            (tmp_path / below / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / below / name).write_text(text)
        return tmp_path / below

    yield write
    own_code._distributions.cache_clear()
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def source(monkeypatch):
    """The sources of the target of a dotted path, which is imported."""

    def of(path: str, **options: object) -> dict[str, str]:
        monkeypatch.setenv("KDRUN_TRUST", path.partition(".")[0])
        found = sources(resolve(path), path, options)
        assert found is not None
        return found

    return of


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def test_every_kind_of_import_is_followed_and_nothing_else(tree, source):
    files = {
        "mine/__init__.py": "from .at_start import *\n",
        "mine/at_start.py": "",
        "mine/net.py": NET
        + """
import json, torch, kdrun.losses
import mine.dotted.deep
from . import sibling
from .sibling import THING
from mine import absolute as other
try:
    import never_installed
except ImportError:
    pass
def later():
    from mine.lazy import x
    import flat_helper
    import importlib
    return importlib.import_module(".named", "mine"), importlib.import_module("mine.loaded")
""",
        "mine/dotted/__init__.py": "",
        "mine/dotted/deep.py": "from .. import above\ndef f():\n    from ....beyond import nothing\n",
        "mine/above.py": "from mine import net  # back again\n",
        "mine/sibling.py": "THING = 1\n",
        "mine/absolute.py": "",
        "mine/lazy.py": "x = 1\nfrom mine import space\nimport mine.space.inner\n",
        "mine/named.py": "def broken(:\n",
        "mine/loaded.py": "",
        "mine/space/inner.py": "",  # a namespace package
        "mine/space/unused.py": "",
        "mine/unrelated.py": "",
        "flat_helper.py": "import flat_further\n",
        "flat_further.py": "",
        "flat_unrelated.py": "",
    }
    tree(files)
    unused = {"mine/unrelated.py", "mine/space/unused.py", "flat_unrelated.py"}
    expected = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): digest(text)
        for name, text in files.items()
        if name not in unused
    }
    assert source("mine.net.net") == expected
    assert not {"mine.lazy", "mine.loaded", "flat_helper"} & set(sys.modules), "nothing is imported to be hashed"


def test_what_is_imported_under_a_computed_name_may_be_any_module_of_the_package(tree, source):
    tree(
        {
            "zoo/__init__.py": "",
            "zoo/net.py": NET + "import importlib\ndef make(name): return importlib.import_module('zoo.' + name)\n",
            "zoo/a.py": "import helper_of_a\n",
            "zoo/deep/__init__.py": "",
            "zoo/deep/b.py": "",
            "helper_of_a.py": "",
            "other.py": "",
        }
    )
    assert set(source("zoo.net.net")) == {"zoo", "zoo.net", "zoo.a", "zoo.deep", "zoo.deep.b", "helper_of_a"}


def test_a_star_takes_the_modules_of_a_package(tree, source):
    files = {"a/__init__.py": "from a.parts import *\n", "a/parts/__init__.py": "__all__ = ['x', 'y']\n"}
    tree({**files, "a/parts/x.py": NET, "a/parts/y.py": ""})
    assert set(source("a.parts.x.net")) == {"a", "a.parts", "a.parts.x", "a.parts.y"}


def test_a_target_is_the_module_of_its_path_and_the_one_that_defines_it(tree):
    tree({"front.py": "from back.impl import net\n", "back/__init__.py": "", "back/impl.py": NET})
    target = importlib.import_module("front").net
    assert set(sources(target, "front.net", {}) or ()) == {"front", "back", "back.impl"}


def test_modules_in_an_archive_and_compiled_ones(tree, source, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "")
        archive.writestr("zipped/net.py", NET + "from zipped import helper\ndef f():\n    import native_op\n")
        archive.writestr("zipped/helper.py", "x = 1\n")
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / f"native_op{suffix}").write_bytes(b"\x7fELF")
    monkeypatch.syspath_prepend(str(tmp_path / "all.zip"))
    found = source("zipped.net.net")
    assert found["zipped.helper"] == digest("x = 1\n")
    assert found["native_op"] == sha256(b"\x7fELF").hexdigest()


def test_an_importer_without_data_is_refused(tree, monkeypatch):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return importlib.machinery.ModuleSpec(name, object(), origin="nowhere") if name == "odd" else None

    tree({"odd_user.py": NET + "def later():\n    import odd\n"})
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.setenv("KDRUN_TRUST", "odd_user")
    problems: list[str] = []
    assert student_component({"_target_": "odd_user.net"}, "student", problems) is None
    assert len(problems) == 1
    assert problems[0].startswith("student._target_=odd_user.net: the source of odd cannot be read")


def install(tree, monkeypatch, version: str, direct_url: dict | None = None) -> Path:
    """A distribution `third-party` with the package `third`, as an installer leaves it in site-packages."""
    info = f"third_party-{version}.dist-info"
    files = {
        "third/__init__.py": "",
        "third/net.py": NET,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: third-party\nVersion: {version}\n",
        f"{info}/RECORD": "third/__init__.py,,\nthird/net.py,,\n",
    }
    if direct_url is not None:
        files[f"{info}/direct_url.json"] = json.dumps(direct_url)
    place = tree(files, "site-packages")
    monkeypatch.syspath_prepend(str(place))
    own_code._distributions.cache_clear()
    return place


def test_a_package_from_an_index_is_its_version_for_who_imports_it_too(tree, source, monkeypatch):
    place = install(tree, monkeypatch, "1.2")
    tree({"mine.py": "import torch, numpy, third.net\n" + NET})
    assert source("third.net.net") == {"third-party": "1.2"}
    assert source("mine.net").keys() == {"mine", "third-party"}
    before = source("mine.net")
    (place / "third_party-1.2.dist-info").rename(place / "third_party-1.3.dist-info")
    metadata = place / "third_party-1.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    own_code._distributions.cache_clear()
    assert changes(before, source("mine.net")) == ["third-party 1.3 instead of 1.2"]


@pytest.mark.parametrize(
    "direct_url",
    [
        {"url": "file:///home/me/third", "dir_info": {}},
        {"url": "https://host/me/third.git", "vcs_info": {"vcs": "git", "commit_id": "1a" * 20}},
    ],
    ids=["directory", "repository"],
)
def test_a_package_from_a_directory_or_repository_is_its_source(tree, source, monkeypatch, direct_url):
    """Its version says nothing: it is the same after every edit."""
    install(tree, monkeypatch, "1.2", direct_url)
    assert source("third.net.net") == {"third": digest(""), "third.net": digest(NET)}


def test_an_editable_install_is_its_source(tree, source, tmp_path, monkeypatch):
    tree({"third/__init__.py": "", "third/net.py": NET}, "project")
    url = {"url": f"file://{tmp_path}/project", "dir_info": {"editable": True}}
    place = install(tree, monkeypatch, "1.2", url)
    for file in ("__init__.py", "net.py"):
        (place / "third" / file).unlink()
    (place / "third").rmdir()
    monkeypatch.syspath_prepend(str(tmp_path / "project"))  # what the .pth file does
    assert source("third.net.net") == {"third": digest(""), "third.net": digest(NET)}


def test_a_file_that_an_option_names_counts_by_its_content(tree, source, tmp_path, monkeypatch):
    tree({"net_of_file.py": NET})
    monkeypatch.chdir(tmp_path)
    Path("w.pt").write_bytes(b"one")
    found = source("net_of_file.net", weights="w.pt", deeper={"list": ("relu", "net_of_file.py")})
    assert found["file w.pt"] == sha256(b"one").hexdigest()
    assert found.keys() == {"net_of_file", "file w.pt", "file net_of_file.py"}
    Path("w.pt").write_bytes(b"two")
    assert changes(found, source("net_of_file.net", weights="w.pt")) == [
        "file net_of_file.py removed",
        "file w.pt changed",
    ]
    assert outdated(found) == ["file w.pt"]


def test_a_default_that_names_a_file_counts_too(tree, tmp_path, monkeypatch):
    tree({"by_default.py": NET.replace("''", "'w.pt'")})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDRUN_TRUST", "by_default")
    Path("w.pt").write_bytes(b"one")
    found = student_component({"_target_": "by_default.net"}, "student", [])
    assert (found.options, found.source["file w.pt"]) == ({}, sha256(b"one").hexdigest())


def test_only_what_is_not_imported_yet_can_be_outdated(tree, source):
    place = tree({"soon/__init__.py": "", "soon/net.py": NET + "def f():\n    import soon.late\n", "soon/late.py": ""})
    found = source("soon.net.net")
    assert outdated(found) == []
    for name in ("net", "late"):
        (place / f"soon/{name}.py").write_text(NET + "# edited\n")
    assert outdated(found) == ["soon.late"], "soon.net is in memory as it was"


def test_kdruns_own_have_no_source():
    assert sources(resolve("kdrun.models.cnn"), "kdrun.models.cnn", {"name": __file__}) is None
