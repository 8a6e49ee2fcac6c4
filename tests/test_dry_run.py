"""`--dry-run` writes nothing, downloads nothing and decodes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from kdrun.experiment import dry_run, sizes, speeds
from kdrun.experiment.dry_run import Estimator

ROOT = Path(__file__).parents[1]
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels, image_size):
        super().__init__()
        self.inner = torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes)))

    def forward(self, x):
        return self.inner(x)
"""
TABLE = """
title: Mine
source: nobody
runs: 1
overrides: [dataset=digits]
controls: [no_kl, untrained, uniform]
rows:
  - {name: own/ce, overrides: [student=own, method=ce]}
  - {name: cnn/kd, overrides: [student=cnn, teacher=own, method=kd], baseline: own/ce}
"""
FOLDER = ["dataset=folder", "dataset.root=images", "dataset.image_size=16", "student=mlp", "method=ce"]
COMMANDS = {
    0: [
        ["--dry-run", "student=own", "teacher=cnn", "method=kd", "-cd", "conf"],
        ["-m", "--dry-run", "student=own,mlp", "method=ce", "seed=0,1", "-cd", "conf"],
        ["table", "mine.yaml", "--dry-run", "-cd", "conf"],
        ["--dry-run", *FOLDER],
    ],
    2: [["--dry-run", "student=own", "method=kd", "recipe.lr=-1", "-cd", "conf"]],
}
"""By exit code."""


@pytest.fixture
def world(tmp_path) -> Path:
    """HOME, TMPDIR and a working directory with a network, a table and images of the user's own."""
    world = tmp_path / "world"
    for name in ("home", "tmp", "work/mine", "work/conf/student"):
        (world / name).mkdir(parents=True)
    work = world / "work"
    (work / "mine/__init__.py").touch()
    (work / "mine/net.py").write_text(NET)
    (work / "conf/student/own.yaml").write_text("_target_: mine.net.Net\n")
    (work / "mine.yaml").write_text(TABLE)
    make_images(work / "images")
    return world


def make_images(root: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        for label in ("ant", "bee"):
            (place := root / split / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 20), (9 * number, 7, 99)).save(place / f"{number}.png")


def snapshot(world: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and directory; a file that was made and removed changes its directory's time."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in (world, *world.rglob("*"))}


def test_nothing_is_written_anywhere(world):
    """Of TMPDIR itself the time may change: Python tries out there whether it can be written."""
    removed = ("KDRUN", "XDG", "PYTHONDONT", "TORCH")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(removed)}
    environ |= {"HOME": str(world / "home"), "TMPDIR": str(world / "tmp"), "PYTHONPATH": f".{os.pathsep}{ROOT}"}
    environ |= {"KDRUN_TRUST": "mine", "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(world / "tmp/compiled")}
    before = snapshot(world)
    code = "import json, sys; from kdrun.cli import main; print([main(words) for words in json.loads(sys.argv[1])])"
    words = [each for commands in COMMANDS.values() for each in commands]
    command = [sys.executable, "-c", code, json.dumps(words)]
    done = subprocess.run(command, cwd=world / "work", env=environ, capture_output=True, text=True, timeout=100)
    codes = [code for code, commands in COMMANDS.items() for _ in commands]
    assert done.stdout.splitlines()[-1] == str(codes), done.stderr
    after = snapshot(world)
    for times in (before, after):
        del times[str(world / "tmp")]
    assert after == before


def test_images_are_read_and_not_decoded(kdrun, here, tmp_path, monkeypatch):
    """Their digests are the data's identity: the run id is that of the run."""
    make_images(tmp_path / "images")
    options = ("student=mlp", "method=ce", "dataset.image_size=16", "recipe.epochs=1", "runtime.threads=1")
    words = ("dataset=folder", f"dataset.root={tmp_path / 'images'}", *options)
    with monkeypatch.context() as patched:
        patched.setattr("kdrun.data.decoding._decode_one", None)  # would fail
        code, out, err = kdrun("--dry-run", *words)
    assert (code, err) == (0, "")
    monkeypatch.setattr(speeds, "MIN_SECONDS", 0.0)
    assert kdrun(*words)[0] == 0
    (directory,) = (here / "outputs/runs/folder/mlp").iterdir()
    assert directory.name.rpartition("-")[2] in out[-2]
    assert "1 by the speeds that earlier runs kept" in kdrun("--dry-run", *words)[1][-1]


def test_a_dataset_is_not_downloaded_and_its_archive_not_unpacked(kdrun, tmp_path):
    (root := tmp_path / "data").mkdir()
    (root / "cifar-100-python.tar.gz").write_bytes(b"x")
    before = snapshot(root)
    words = ("dataset=cifar100", f"dataset.root={root}", "dataset.classes=[apple]", "student=cnn", "method=ce")
    code, _, err = kdrun("--dry-run", *words)
    assert code == 2
    assert "a dry run neither downloads nor unpacks it" in err
    assert snapshot(root) == before


def test_a_run_of_any_length_is_estimated_at_once(kdrun):
    words = ("dataset=synthetic", "dataset.train_size=96", "dataset.test_size=50", "student=mlp", "method=ce")
    code, out, _ = kdrun("--dry-run", *words, "recipe.epochs=1000000")
    assert code == 0
    assert "1000000 epochs of 2 steps" in out[-2]


def test_each_network_of_a_table_is_measured_once(kdrun, monkeypatch):
    """Not once for every run: counting MACs takes up to a second."""
    counted = []
    monkeypatch.setattr(sizes, "_SIZES", {})
    monkeypatch.setattr(sizes, "num_macs", lambda *what: counted.append(what) or 10**6)
    monkeypatch.setattr(dry_run, "TIMING_SECONDS", 0.0)
    code, out, _ = kdrun("table", "tfkd_t1", "--dry-run", "--rows", "mobilenetv2/ce,mobilenetv2/kd/resnet18*")
    assert code == 0
    assert out[-1].startswith("27 runs, ")
    assert len(counted) == 2


def test_a_table_without_controls_has_its_rows_alone(kdrun, here, monkeypatch):
    (here / "mine.yaml").write_text(TABLE.replace("student=own", "student=mlp").replace("teacher=own", "teacher=mlp"))
    monkeypatch.setattr(Estimator, "basis", lambda self: "basis")
    runs = {}
    for flags in ((), ("--no-controls",)):
        _, out, _ = kdrun("table", "mine.yaml", "--dry-run", "--seeds", "1", *flags)
        runs[flags] = [line.split("|")[1].strip() for line in out if line.startswith("| ")][1:]
    assert runs["--no-controls",] == ["own/ce", "cnn/kd"]
    assert [name for name in runs[()] if "teacher" not in name] == [
        *("own/ce", "cnn/kd", "cnn/kd/no_kl", "cnn/kd/untrained", "cnn/kd/uniform"),
    ]
    code, _, err = kdrun("table", "mine.yaml", "--no-controls", "--rows", "cnn/kd/no_kl")
    assert code == 2
    assert "no such row" in err
    kdrun("table", "mine.yaml", "--render-only", "--no-controls")
    table = (here / "outputs/tables/mine/table.csv").read_text()
    assert "cnn/kd" in table
    assert "no_kl" not in table
