"""Sweeps and tables by Hydra's launchers: kdrun's own bytes, killed and preempted jobs, and what is refused before."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdrun.cli import main
from kdrun.cli.launch import Jobs
from kdrun.cli.launchers import batch_script
from kdrun.config import composition
from kdrun.config.command_line import read_command
from kdrun.config.compose import hydra_session
from kdrun.config.search import PLUGINS, Search
from kdrun.experiment.attempt import Request
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec
from kdrun.stopping import SIGNALS, Stopped
from kdrun.store.store import Store

ROOT = Path(__file__).parents[1]
FAKE_SLURM = Path(__file__).parent / "fake_slurm"
SYNTHETIC = (
    *("dataset=synthetic", "dataset.train_size=96", "dataset.test_size=50", "recipe.batch_size=32", "recipe.epochs=1"),
    *("student=mlp", "student.hidden=[16]", "runtime.device=cpu"),
)
SWEEP = ("-m", *SYNTHETIC, "teacher=cnn", "method.temperature=1,4", "seed=0,1")
ONE_JOB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=1")  # in the process of the command
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=0")


def directory_of(root: Path) -> Path:
    (directory,) = (root / "sweeps").iterdir()
    return directory


def without_seconds(path: Path) -> object:
    """The content of a summary's file: of the CSV file without the columns of seconds, of the table without theirs."""
    if path.suffix == ".csv":
        rows = csv.DictReader(path.read_text().splitlines())
        return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]
    if path.suffix == ".md":
        lines = [line.split("|") for line in path.read_text().splitlines()]
        header = next(cells for cells in lines if len(cells) > 1)
        (column,) = (i for i, name in enumerate(header) if name.strip() == "train s")
        return [[cell.strip("- ") for cell in cells[:column] + cells[column + 1 :]] for cells in lines]
    if path.name == "sweep.json":
        return [{**job, "run": Path(job["run"]).name} for job in json.loads(path.read_text())]
    return path.read_bytes()


def assert_equal_sweeps(one: Path, other: Path) -> None:
    """The summaries and the runs under two output roots."""
    mine, theirs = directory_of(one), directory_of(other)
    assert mine.name == theirs.name
    names = {path.name for path in mine.iterdir() if path.name != "jobs"}
    assert names == {path.name for path in theirs.iterdir() if path.name != "jobs"}
    assert names >= {"summary.csv", "summary.md", "sweep.json", "curves.png", "method.temperature.png"}
    for name in sorted(names):
        assert without_seconds(mine / name) == without_seconds(theirs / name), name
    runs = sorted(one.glob("runs/*/*/*"))
    assert len(runs) == len(list(other.glob("runs/*/*/*"))) == 6
    for run in runs:
        for name in ("metrics.jsonl", "student.safetensors", "spec.json"):
            assert (run / name).read_bytes() == (other / run.relative_to(one) / name).read_bytes()


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory) -> Path:
    """Where one sweep has been run by kdrun itself, in `own`, and by joblib, in `joblib`."""
    place = tmp_path_factory.mktemp("sweeps")
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*SWEEP, "runtime.output_root=own"]) == 0
        assert main([*SWEEP, "runtime.output_root=joblib", *ONE_JOB]) == 0
    for number, handler in before.items():
        signal.signal(number, handler)
    return place


def test_joblib_leaves_the_summary_and_the_runs_of_kdruns_own_sweep(sweeps):
    assert_equal_sweeps(sweeps / "own", sweeps / "joblib")
    requests = {path.stem for path in (directory_of(sweeps / "joblib") / "jobs").glob("*.json")}
    assert requests == {path.name.rpartition("-")[2] for path in sweeps.glob("joblib/runs/*/*/*")}
    assert not (sweeps / "joblib" / "hydra").exists()


def test_a_finished_sweep_launches_nothing(sweeps, kdrun, monkeypatch):
    monkeypatch.chdir(sweeps)
    monkeypatch.setattr(Jobs, "_execute_wave", None)
    assert kdrun(*SWEEP, "runtime.output_root=joblib", *ONE_JOB)[0] == 0


@pytest.mark.parametrize("root", ["own", "joblib"])
def test_summarize_writes_the_same_summary_and_labels_a_partial_one(sweeps, kdrun, tmp_path, root):
    copy = tmp_path / root
    shutil.copytree(sweeps / root, copy)
    directory = directory_of(copy)
    whole = {path.name: path.read_bytes() for path in directory.glob("summary.*")}
    for name in whole:
        (directory / name).unlink()
    assert kdrun("summarize", str(directory))[0] == 0
    assert {path.name: path.read_bytes() for path in directory.glob("summary.*")} == whole

    gone, *_ = sorted(copy.glob("runs/synthetic/mlp/kd-*"))
    (gone / "result.json").unlink()
    (gone / "status.json").unlink()
    code, out, _ = kdrun("summarize", str(directory))
    assert code == 0, "it may still be begun"
    assert out[0] == "4 runs: 3 finished, 1 not begun" or out[0] == "4 runs: 1 not begun, 3 finished"
    assert (directory / "summary.md").read_text().startswith("Partial")
    errors = [Path(job["run"]).name for job in json.loads((directory / "sweep.json").read_text()) if job["error"]]
    assert errors == [gone.name]


def test_a_sweep_whose_teachers_are_not_trained_yet_can_be_summarized(kdrun, here, monkeypatch):
    def stopped(*_: object) -> None:
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(Jobs, "_execute_wave", stopped)
    assert kdrun(*SWEEP, *ONE_JOB)[0] == 128 + signal.SIGINT
    code, out, _ = kdrun("summarize", str(directory_of(Path("outputs"))))
    assert (code, out[0]) == (0, "4 runs: 4 not begun")


def test_summarize_names_a_request_of_another_run(sweeps, kdrun, tmp_path):
    shutil.copytree(sweeps / "joblib", tmp_path / "copy")
    first, second, *_ = sorted((directory_of(tmp_path / "copy") / "jobs").glob("*.json"))
    first.write_bytes(second.read_bytes())
    code, _, err = kdrun("summarize", str(directory_of(tmp_path / "copy")))
    assert code == 1
    assert f"jobs/{first.name} is not whole" in err


def test_summarize_refuses_what_is_no_sweep(kdrun, here):
    assert kdrun("summarize", "outputs/sweeps/none")[0] == 2
    assert list(here.iterdir()) == []


MINE = """
title: A small table
source: nobody
runs: 3
num_classes: 10
overrides: [dataset=synthetic, dataset.train_size=96, dataset.test_size=50, recipe.batch_size=32, recipe.epochs=1,
  runtime.device=cpu, student=mlp, "student.hidden=[16]"]
controls: [no_kl]
rows:
  - {name: mlp/ce, overrides: [method=ce]}
  - {name: mlp/kd/cnn, overrides: [teacher=cnn, method=kd], baseline: mlp/ce}
"""


def test_a_table_by_a_launcher_is_the_same_table(kdrun, here):
    (here / "mine.yaml").write_text(MINE)
    words = ("table", "mine.yaml", "--seeds", "1")
    assert kdrun(*words)[0] == 0
    assert kdrun(*words, "--launcher", "joblib", "hydra.launcher.n_jobs=1", "runtime.output_root=launched")[0] == 0
    one, other = (here / root / "tables" / "mine" / "table.csv" for root in ("outputs", "launched"))
    assert without_seconds(one) == without_seconds(other)
    runs = {path.parent.name for path in here.glob("launched/runs/*/*/*/result.json")}
    assert runs == {path.parent.name for path in here.glob("outputs/runs/*/*/*/result.json")}
    assert len(runs) == 4
    code, _, err = kdrun(*words, "--launcher", "joblib", "--render-only")
    assert (code, "--launcher" in err) == (2, True)


@pytest.fixture
def slurm(monkeypatch, tmp_path) -> Path:
    """A Slurm of scripts on the PATH, which runs its jobs here; its files."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{FAKE_SLURM}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


def slurm_options(*typed: str) -> dict:
    problems: list[str] = []
    with hydra_session():
        search = read_command(["hydra/launcher=submitit_slurm", *typed], problems, multirun=True).search
    assert problems == []
    return dict(search.options)


@pytest.mark.usefixtures("slurm")
def test_the_script_of_a_slurm_job():
    options = slurm_options(
        "hydra.launcher.partition=a100",
        "hydra.launcher.mem_gb=32",
        "+hydra.launcher.additional_parameters.mail-type=FAIL",
        "hydra.launcher.setup=[module load cuda]",
    )
    lines = batch_script(options).splitlines()
    flags = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    expected = {"time=240", "signal=USR2@120", "requeue", "open-mode=append", "nodes=1", "gpus-per-node=1"}
    assert flags >= expected | {"cpus-per-task=4", "partition=a100", "mem=32GB", "mail-type=FAIL", "job-name=kdrun"}
    assert "module load cuda" in lines
    assert not any(flag.startswith(("account", "qos", "gres", "array")) for flag in flags)


def refused(kdrun, *words: str) -> str:
    """The message about a command that must be refused and write nothing."""
    before = sorted(Path().rglob("*"))
    code, out, err = kdrun(*words)
    assert (code, out, sorted(Path().rglob("*"))) == (2, [], before)
    return err


def test_a_slurm_that_cannot_be_reached_is_bad_input(kdrun, slurm, monkeypatch):
    partition = (*SLURM, "hydra.launcher.partition=broken")
    err = refused(kdrun, *SWEEP, *partition)
    assert "1 problem" in err
    assert "invalid partition specified: broken" in err
    monkeypatch.setenv("PATH", "/nowhere")
    err = refused(kdrun, *SWEEP, *SLURM)
    assert "1 problem" in err
    assert "sbatch and srun" in err
    assert list(slurm.iterdir()) == []


@pytest.mark.usefixtures("slurm")
def test_the_precision_of_jobs_on_other_devices_is_chosen_by_the_user(kdrun, here, monkeypatch):
    words = [word for word in SWEEP if word != "runtime.device=cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "runtime.precision=auto" in refused(kdrun, *words, SLURM[0])
    assert "runtime.device=cpu" in refused(kdrun, *words, SLURM[0], "runtime.device=cpu", "runtime.precision=bf16")


@pytest.mark.parametrize(
    ("typed", "named", "allowed"),
    [
        ("hydra/launcher=joblib hydra.launcher.njobs=2", "hydra.launcher.njobs=2", "n_jobs"),
        ("hydra/launcher=joblib hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0", "at least 1"),
        ("hydra/launcher=submitit_local hydra.launcher.partition=x", "hydra.launcher.partition", "timeout_min"),
        ("hydra/launcher=submitit_local hydra.launcher.timeout_min=1h", "hydra.launcher.timeout_min", "an integer"),
        ("hydra/launcher=joblib hydra.sweep.dir=x", "hydra.sweep.dir=x", "runtime.output_root"),
        ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs=2", "no effect"),
        ("hydra/launcher=joblib runtime.devices=[cpu,cpu]", "runtime.devices", "no effect"),
    ],
)
def test_options_of_launchers_are_checked(kdrun, here, typed, named, allowed):
    err = refused(kdrun, *SWEEP, *typed.split())
    assert "1 problem" in err
    assert named in err
    assert allowed in err


def test_a_launcher_that_is_not_installed_is_named_with_its_extra(kdrun, here, monkeypatch):
    monkeypatch.setattr(composition, "find_spec", lambda name: None)
    for launcher in PLUGINS:
        extra = launcher.partition("_")[0]
        assert f"pip install 'kdrun[{extra}]'" in refused(kdrun, *SWEEP, f"hydra/launcher={launcher}")


class Pool:
    """A launcher whose processes do what is said of each run: finish, or be killed, which ends the whole pool."""

    def __init__(self, store: Store, killed: set[str]) -> None:
        self.store, self.killed = store, killed
        self.launched: list[list[str]] = []

    def launch(self, overrides, initial_job_idx):
        ids = [word.split("'")[1] for (word,) in overrides]
        self.launched.append(ids)
        for run_id in ids:
            run = next(run for run in RUNS.values() if run.run_id == run_id)
            self.store.run(run).open(None)
            self.store.run(run).write_status("running")
            if run_id in self.killed:
                raise RuntimeError("a worker was killed")
            self.store.run(run).result_path.touch()


RUNS = {
    seed: Spec(
        dataset=ImageDatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 66, 40, (0.5,), (0.25,)),
        student=Component("kdrun.models.mlp"),
        method=Component("kdrun.methods.CE"),
        recipe=Recipe(epochs=1),
        seed=seed,
    )
    for seed in range(4)
}


def test_the_job_that_kills_a_pool_is_found_and_the_others_finish(tmp_path):
    store = Store(tmp_path)
    pool = Pool(store, {RUNS[1].run_id})
    store.run(RUNS[3]).open(None)
    store.run(RUNS[3]).write_status("failed", error="of an earlier command")
    jobs = Jobs(Search(), type("Reader", (), {"store": store}), None, {}, tmp_path)
    jobs._launch(pool, [Request(spec) for spec in RUNS.values()])
    a, b, c, d = (spec.run_id for spec in RUNS.values())
    assert pool.launched == [[a, b, c, d], [c, d], [b]]
    assert [store.run(spec).finished for spec in RUNS.values()] == [True, False, True, True]
    assert store.run(RUNS[1]).state == "stale"


LONG = (*(word for word in SYNTHETIC if not word.startswith("recipe.epochs")), "method=ce", "recipe.epochs=1,300,2")

OPTIONS = {"joblib": ("hydra.launcher.n_jobs=2",), "submitit_slurm": SLURM[1:]}


def start(place: Path, *words: str) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "kdrun", "-m", *words], cwd=place, env=environ)


def long_run(place: Path, *, epochs: int) -> dict:
    """The status of the longest run, once it has trained some."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in place.glob("outputs/runs/*/*/*/status.json"):
            status = json.loads(path.read_text())
            if status.get("epoch", 0) >= epochs and status["state"] == "running":
                return status
        time.sleep(0.05)
    raise AssertionError("it does not train")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_every_launcher_really_runs_to_the_same_bytes(sweeps, slurm, here, launcher):
    assert start(here, *SWEEP[1:], f"hydra/launcher={launcher}", *OPTIONS.get(launcher, ())).wait(timeout=300) == 0
    assert_equal_sweeps(sweeps / "own", here / "outputs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "resumes"), [("joblib", True), ("submitit_local", False), ("submitit_slurm", False)]
)
def test_a_killed_job_is_named_and_the_others_finish(slurm, here, launcher, resumes):
    """The jobs of joblib are launched again, since a killed one ends them all."""
    process = start(here, *LONG, f"hydra/launcher={launcher}", *OPTIONS.get(launcher, ()))
    os.kill(long_run(here, epochs=5)["pid"], signal.SIGKILL)
    assert process.wait(timeout=300) == (0 if resumes else 1)
    jobs = json.loads((directory_of(here / "outputs") / "sweep.json").read_text())
    failed = [job["choices"] for job in jobs if job["error"]]
    assert failed == ([] if resumes else [{"recipe.epochs": "300"}])
    assert len(list(here.glob("outputs/runs/*/*/*/result.json"))) == (3 if resumes else 2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm"])
def test_a_preempted_job_is_queued_again_and_resumes(slurm, here, launcher):
    process = start(here, *LONG, f"hydra/launcher={launcher}", *OPTIONS.get(launcher, ()))
    pid = long_run(here, epochs=5)["pid"]
    os.kill(pid, signal.SIGUSR2)
    assert process.wait(timeout=300) == 0
    (path,) = (path for path in here.glob("outputs/runs/*/*/*/kdrun.log") if "epoch 300/300" in path.read_text())
    assert path.read_text().count("resumed after epoch") == 1
    assert json.loads((path.parent / "status.json").read_text())["pid"] != pid
