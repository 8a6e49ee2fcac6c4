"""The wheel: what is in it, and that it runs beside nothing of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("kdrun", "conf", "pyproject.toml", "README.md", "LICENSE")


def pip(*words: str | Path, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without the network from a copy of the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    built = tmp_path_factory.mktemp("built")
    pip("wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", built, cwd=copy)
    (path,) = built.glob("kdrun-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A directory that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    return target


def test_the_wheel_holds_the_code_the_config_and_the_digits(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "kdrun").rglob("*.py")}
    groups = [path for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "__pycache__"]
    config = {f"{group.name}/{path.name}" for group in groups for path in group.glob("*.yaml")}
    tables = {str(path.relative_to(ROOT)) for path in (ROOT / "kdrun" / "papers").rglob("*.yaml")}
    assert "kdrun/papers/tfkd2020/tfkd_t1.yaml" in tables
    wanted = code | tables | {f"kdrun/conf/{name}" for name in ("config.yaml", *config)}
    assert wanted | {"kdrun/py.typed", "kdrun/data/loaders/digits.xz", "kdrun/data/loaders/digits.LICENSE.md"} <= names
    assert {"teacher/resnet20.yaml", "student/resnet20.yaml", "recipe/digits.yaml"} <= config
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"kdrun"}
    sizes = {name: len(zipfile.ZipFile(wheel).read(name)) for name in names}
    assert {"kdrun/papers/hinton2015/README.md", "kdrun/papers/hinton2015/conf/teacher/mlp_1200.yaml"} <= names
    assert sum(size for name, size in sizes.items() if not name.endswith((".py", ".yaml", "README.md"))) < 120_000, (
        "data and metadata"
    )
    assert max(sizes.values()) < 60_000


def test_the_installed_package_runs_with_its_own_config(installed, tmp_path):
    """`--cfg job`, the embedded digits and a rehearsal, from another directory."""
    environ = {**os.environ, "PYTHONPATH": str(installed), "KDRUN_DATA": str(tmp_path / "data")}
    environ.pop("KDRUN_TRUST", None)

    def python(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "from kdrun.config.compose import config_directory; print(config_directory())"
    assert python("-c", where).strip() == str(installed / "kdrun" / "conf")
    shown = python(str(installed / "bin" / "kdrun"), "--cfg", "job", "teacher=resnet56")
    assert "_target_: kdrun.models.resnet56" in shown
    assert "_target_: kdrun.data.digits" in shown
    rehearsed = python("-m", "kdrun", "--dry-run", "method=ce", "student=mlp")
    assert "student mlp ce on digits" in rehearsed
    assert python("-c", "from kdrun.data import digits; print(len(digits().train))").strip() == "1437"
    assert re.search(r"^tfkd_t1 +Normal KD", python("-m", "kdrun", "table"), re.MULTILINE)
    assert list(tmp_path.iterdir()) == []
