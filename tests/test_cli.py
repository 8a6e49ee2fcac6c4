"""The command as a user types it: answers at once, real runs on made-up images, sweeps, exit codes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdrun import __version__
from kdrun.config import parts
from kdrun.experiment import runner
from kdrun.training import trainer

pytestmark = pytest.mark.usefixtures("here")

ROOT = Path(__file__).parents[1]
SECONDS_TO_ANSWER = 6  # meant to be 1.5; a machine that runs tests is busy
TINY = (
    "dataset=synthetic",
    "dataset.train_size=96",
    "dataset.test_size=50",
    "recipe.batch_size=32",
    "student=mlp",
    "student.hidden=[16]",
    "teacher=cnn",
    "runtime.device=cpu",
)


def asked(*words: str, **environment: str) -> tuple[subprocess.CompletedProcess, float, set[str]]:
    """A process of its own: what it said, its seconds, and the modules it imported."""
    command = [sys.executable, "-X", "importtime", "-m", "kdrun", *words]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    started = time.perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    seconds = time.perf_counter() - started
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "kdrun.cli" in imported
    return done, seconds, imported


def test_help_lists_every_group_and_option_at_once(here):
    done, seconds, imported = asked("--help")
    assert done.returncode == 0
    assert "torch" not in imported
    assert seconds < SECONDS_TO_ANSWER
    lines = done.stdout.splitlines()
    options: dict[str, list[str]] = {}
    for root in (ROOT / "conf", *(ROOT / "kdrun" / "papers").glob("*/conf")):
        for path in root.glob("*/*.yaml"):
            options.setdefault(path.parent.name, []).append(path.stem)
    for group, names in options.items():
        assert f"{group}: {', '.join(sorted(names))}" in lines
    for text in ("Usage: kdrun", "--dry-run", "-m", "--config-dir", "teacher=none", "$KDRUN_DATA", "result.json"):
        assert text in done.stdout
    long = (
        "student:",
        "teacher:",
        "method:",
        "experiment:",
        "recipe:",
        "dataset:",
    )  # a line for all of a group's options
    assert max(len(line) for line in lines if not line.startswith(long)) <= 120
    assert list(here.iterdir()) == []


def test_cfg_shows_every_option_at_once(here):
    done, seconds, imported = asked("-c", "job", "--resolve", "student=mobilenetv2", "teacher=none", "recipe.epochs=3")
    assert done.returncode == 0
    assert "torch" not in imported
    assert seconds < SECONDS_TO_ANSWER
    assert "_target_: kdrun.models.mobilenetv2" in done.stdout
    assert "epochs: 3" in done.stdout
    assert list(here.iterdir()) == []


def test_completion_answers_at_once():
    done, seconds, imported = asked("-sc", "query=bash", COMP_LINE="kdrun student=mob")
    assert done.stdout.split() == ["student=mobilenetv2"]
    assert "torch" not in imported
    assert seconds < SECONDS_TO_ANSWER


def test_cfg_of_a_bad_override_is_told_like_that_of_a_run(kdrun, tmp_path):
    code, out, err = kdrun("--cfg", "job", "stuent=cnn", "recipe.epoch=3")
    assert (code, out) == (2, [])
    assert "2 problems" in err
    assert "did you mean student?" in err
    (tmp_path / "tree" / "student").mkdir(parents=True)
    (tmp_path / "tree" / "student" / "own.yaml").write_text("_target_: mine.net\n")
    code, out, err = kdrun("--config-dir", str(tmp_path / "tree"), "--cfg", "job", "student=own")
    assert (code, err) == (0, "")
    assert "  _target_: mine.net" in out


def test_dry_run_tells_size_and_time_and_writes_nothing(kdrun, here):
    code, out, _ = kdrun("--dry-run", "dataset=cifar100", "student=cnn", "teacher=resnet20", "recipe.batch_size=4")
    assert code == 0
    teacher, student, basis = out
    assert teacher.startswith("teacher resnet20 ce on cifar100")
    assert "278,324 parameters" in teacher
    assert student.startswith("student cnn kd on cifar100")
    assert "369,124 parameters" in student
    # 3x3 convolutions at 32, 16 and 8 pixels, then 2048 x 128 and 128 x 100
    macs = 9 * (3 * 32 * 32**2 + 32 * 64 * 16**2 + 64 * 128 * 8**2) + 2048 * 128 + 128 * 100
    assert f"{macs / 1e6:.2f} M MACs per image" in student
    assert "200 epochs of 12500 steps" in student
    assert "2 timed now" in basis
    assert list(here.iterdir()) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run, finished, in a process of its own: where it ran, and the lines it said."""
    directory = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "kdrun", *TINY, "recipe.epochs=3", "dataset.val_fraction=0.2"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "KDRUN_DATA": str(directory / "data")}
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return directory, done.stdout.splitlines()


def test_a_run_trains_its_teacher_then_its_student_and_ends_with_its_result(finished):
    directory, lines = finished
    epochs = [line.split()[:5] for line in lines if " epoch " in line]
    assert epochs == [
        *(["teacher", "cnn", "ce", "epoch", f"{epoch}/3"] for epoch in (1, 2, 3)),
        *(["student", "mlp", "kd", "epoch", f"{epoch}/3"] for epoch in (1, 2, 3)),
    ]
    path = directory / lines[-1].removeprefix("result: ")
    result = json.loads(path.read_text())
    assert path.parent == directory / "outputs" / "runs" / "synthetic" / "mlp" / f"kd-{result['run_id']}"
    assert result["schema"] == 1
    assert set(result) >= {
        *("run_id", "status", "dataset", "student", "method", "teachers", "seed", "epochs", "test", "val", "train"),
        *("environment", "versions"),
    }
    assert (result["status"], result["dataset"], result["seed"], result["epochs"]) == ("finished", "synthetic", 0, 3)
    assert result["student"] | {"name": "mlp", "params": 768 * 16 + 16 + 16 * 10 + 10} == result["student"]
    assert result["student"]["macs"] == 768 * 16 + 16 * 10
    assert result["method"] | {"name": "kd", "temperature": 4.0, "alpha": 0.9} == result["method"]
    metrics = {"epoch", "top1", "top5", "nll", "ece", "confidence"}
    assert set(result["test"]["last"]) == set(result["test"]["best"]) == metrics
    assert result["test"]["last"]["epoch"] == 3
    assert set(result["val"]["selected"]) >= metrics
    assert 0 <= result["test"]["last"]["top1"] <= result["test"]["last"]["top5"] <= 100
    assert set(result["train"]) == {"seconds", "images_per_second", "peak_memory_bytes", "lockstep", "extra_params"}
    assert set(result["environment"]) >= {"torch", "cuda", "device", "threads", "git"}
    (teacher,) = result["teachers"]
    (teacher_path,) = directory.glob("outputs/runs/synthetic/cnn/ce-*/result.json")
    taught_by = json.loads(teacher_path.read_text())
    assert teacher["run_id"] == taught_by["run_id"] == teacher_path.parent.name.removeprefix("ce-")
    assert teacher["top1"] == taught_by["test"]["last"]["top1"]


def test_a_run_leaves_its_files(finished):
    directory, lines = finished
    run = (directory / lines[-1].removeprefix("result: ")).parent
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert names == {
        *("spec.json", "config.yaml", "status.json", "metrics.jsonl", "student.safetensors", "result.json"),
        *("kdrun.log", "curves.png"),
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert not (directory / "data").exists()


def no_training(*_args, **_options):
    raise AssertionError("nothing is left to train")


def test_the_same_command_again_finds_the_result(finished, kdrun, monkeypatch):
    directory, lines = finished
    monkeypatch.chdir(directory)
    monkeypatch.setattr(runner, "fit", no_training)
    monkeypatch.setattr(parts, "_FITTING", {})
    monkeypatch.setattr(parts, "build_student", no_training)
    words = (*TINY, "recipe.epochs=3", "dataset.val_fraction=0.2")
    assert kdrun(*words, "seed=1")[0] == 2, "its networks are built"
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    code, again, _ = kdrun(*words)
    assert code == 0
    assert again[-1] == lines[-1]
    assert [line for line in again if line.startswith("|")] == [line for line in lines if line.startswith("|")]
    assert any("already finished" in line for line in again)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_run_on_the_embedded_digits_names_the_real_thing_first(kdrun):
    words = ("method=ce", "student=mlp", "student.hidden=[8]", "recipe.epochs=1", "dataset.train_fraction=0.1")
    code, out, _ = kdrun(*words, "teacher=resnet56")
    assert code == 0
    assert out[0].startswith("dataset=digits")
    assert "dataset=cifar100" in out[0]
    assert out[1] == "method ce has no use for a teacher: teacher=resnet56 is left aside"
    code, out, _ = kdrun(*words, "dataset=synthetic", "dataset.train_size=40", "recipe.augmentation.crop_padding=0")
    assert code == 0
    assert not out[0].startswith("dataset=")


SWEEP = ("-m", *TINY, "recipe.epochs=2", "method.temperature=1,4,16", "seed=0,1")


def test_a_sweep_shares_teachers_and_leaves_a_summary(kdrun, here, monkeypatch):
    code, out, err = kdrun(*SWEEP)
    assert (code, err) == (0, "")
    runs = here / "outputs" / "runs" / "synthetic"
    assert len(list(runs.glob("cnn/ce-*/result.json"))) == len(list(runs.glob("cnn/*"))) == 2
    assert len(list(runs.glob("mlp/kd-*/result.json"))) == 6
    assert out[0] == "6 runs (0 finished), taught by 2 teachers (0 finished)"
    (directory,) = (here / "outputs" / "sweeps").iterdir()
    assert out[-1] == f"result: {directory.relative_to(here) / 'summary.csv'}"
    for name in ("method.temperature.png", "curves.png"):
        assert (directory / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    rows = {row["run"]: row for row in csv.DictReader((directory / "summary.csv").read_text().splitlines())}
    assert list(rows) == ["teacher cnn ce", *(f"method.temperature={t}" for t in (1, 4, 16))]
    assert {row["n"] for row in rows.values()} == {"2"}
    top1 = {}
    for path in runs.glob("mlp/kd-*/result.json"):
        result = json.loads(path.read_text())
        top1.setdefault(f"method.temperature={result['method']['temperature']:g}", []).append(result)
    for name, results in top1.items():
        values = torch.tensor([result["test"]["last"]["top1"] for result in results], dtype=torch.float64)
        assert {result["seed"] for result in results} == {0, 1}
        assert float(rows[name]["test.last.top1.mean"]) == pytest.approx(values.mean().item())
        assert float(rows[name]["test.last.top1.std"]) == pytest.approx(values.std().item())
    table = (directory / "summary.md").read_text()
    assert table.count("method.temperature=") == 3
    assert "±" in table

    monkeypatch.setattr(runner, "fit", no_training)
    code, again, _ = kdrun(*SWEEP)
    assert code == 0
    assert again[0] == "6 runs (6 finished), taught by 2 teachers (2 finished)"
    assert again[-1] == out[-1]
    assert (directory / "summary.md").read_text() == table


def test_an_evaluation_of_a_finished_run_computes_nothing_else(kdrun, here, monkeypatch):
    words = ("method=ce", "student=mlp", "student.hidden=[16]", "recipe.epochs=1", "runtime.device=cpu")
    code, out, _ = kdrun(*words)
    assert code == 0
    assert not (here / "outputs" / "derived").exists()
    monkeypatch.setattr(runner, "fit", no_training)
    code, out, err = kdrun(*words, "evaluation=[test]")
    assert (code, err) == (0, "")
    (result,) = (json.loads(path.read_text()) for path in here.glob("outputs/runs/digits/mlp/ce-*/result.json"))
    (record,) = here.glob("outputs/derived/*.json")
    figures = json.loads(record.read_text())["figures"]
    assert figures["top-1"] == pytest.approx(result["test"]["last"]["top1"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out if line.startswith("|")]
    shown = [f"{value:.{digits}f}" for value, digits in zip(figures.values(), (2, 3, 3), strict=True)]
    assert [row for row in rows if row[0] == "mlp"] == [["mlp", "test", *shown, "1"]]
    assert f"mlp seed=0: evaluation test: {record.relative_to(here)}" in out
    before = record.stat().st_mtime_ns
    monkeypatch.setattr("kdrun.experiment.runner.load_teacher", None)
    code, again, _ = kdrun(*words, "evaluation=[test]")
    assert code == 0
    assert [line for line in again if line.startswith("|")] == [line for line in out if line.startswith("|")]
    assert record.stat().st_mtime_ns == before


def test_the_runs_of_a_sweep_are_evaluated_together(kdrun, here):
    code, out, err = kdrun("-m", *TINY, "method=ce,lsr", "seed=0,1", "recipe.epochs=1", "evaluation=[test]")
    assert (code, err) == (0, "")
    (path,) = here.glob("outputs/sweeps/*/evaluation.md")
    assert path.read_text().strip() in "\n".join(out)
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines())
    assert header == ["run", "evaluation", "top-1", "ECE", "ECE of 10⁶ bins", "n"]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        (f"method={method}", "test", "2") for method in ("ce", "lsr")
    ]
    top1 = [
        json.loads(path.read_text())["test"]["last"]["top1"]
        for path in here.glob("outputs/runs/*/mlp/lsr-*/result.json")
    ]
    mean, std = sum(top1) / 2, abs(top1[0] - top1[1]) / 2**0.5
    assert rows[1][2] == f"{mean:.2f} ± {std:.2f}"
    assert len(list(here.glob("outputs/derived/*.json"))) == 4


def test_a_failing_job_stops_no_other_and_is_all_that_is_left_to_do(kdrun, here, monkeypatch):
    words = ("-m", *TINY, "method=ce", "recipe.epochs=1", "recipe.lr=1e+20,0.1", "seed=0,1")
    code, _, errors = kdrun(*words)
    assert code == 1
    results = list(here.glob("outputs/runs/synthetic/mlp/ce-*/result.json"))
    assert len(results) == 2
    assert "2 of 4 runs failed; the same command runs only what is missing" in errors
    assert any("recipe.lr=1e+20 seed=0: failed:" in line and "diverged" in line for line in errors.splitlines())
    states = [json.loads(path.read_text())["state"] for path in here.glob("outputs/runs/synthetic/mlp/*/status.json")]
    assert sorted(states) == ["diverged", "diverged", "finished", "finished"]
    (summary,) = here.glob("outputs/sweeps/*/summary.csv")
    rows = {row["recipe.lr"]: row for row in csv.DictReader(summary.read_text().splitlines())}
    assert {lr: (row["n"], row["missing"]) for lr, row in rows.items()} == {"1e+20": ("0", "2"), "0.1": ("2", "0")}

    trained = []
    fit = runner.fit
    monkeypatch.setattr(
        runner, "fit", lambda members, *args, **kw: (trained.extend(members), fit(members, *args, **kw))
    )
    assert kdrun(*words)[0] == 1
    assert len(trained) == 2, "only the two that failed"


def test_a_failing_run_says_why_in_a_line(kdrun, here):
    code, _, errors = kdrun(*TINY, "method=ce", "recipe.epochs=1", "recipe.lr=1e20")
    assert code == 1
    assert errors.startswith("kdrun: DivergedError: training diverged in epoch 1")
    assert "recipe.lr=1e+20 (default 0.1)" in errors
    assert "Traceback" not in errors
    (kept,) = here.glob("outputs/runs/synthetic/mlp/ce-*/kdrun.log")
    assert "Traceback" in kept.read_text()
    assert not kept.with_name("result.json").exists()


def test_a_signal_leaves_a_run_that_the_same_command_resumes(kdrun, here, monkeypatch):
    words = (*TINY, "method=ce", "recipe.epochs=3")
    evaluate = trainer.evaluate
    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGUSR1)
        return evaluate(*args, **options)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    code, _, err = kdrun(*words)
    assert code == 128 + signal.SIGUSR1
    assert "resumes after the last finished epoch" in err
    (status,) = here.glob("outputs/runs/synthetic/mlp/ce-*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"
    assert not status.with_name("result.json").exists()
    code, out, _ = kdrun(*words)
    assert code == 0
    assert [line.split()[4] for line in out if " ce epoch " in line] == ["2/3", "3/3"]
    assert status.with_name("result.json").exists()


def test_version_names_the_package_that_runs(tmp_path):
    """Of several installed copies; neither torch nor Hydra is needed."""
    copy = tmp_path / "kdrun"
    subprocess.run(["cp", "-R", ROOT / "kdrun", copy], check=True)
    for package in (ROOT / "kdrun", copy):
        done, _, imported = asked("--version", PYTHONPATH=str(package.parent))
        assert done.stdout == f"kdrun {__version__} ({package})\n"
        assert not imported & {"torch", "hydra", "omegaconf"}


def test_an_evaluation_that_fails_is_told_and_the_others_are_shown(kdrun, monkeypatch):
    """Of one of two seeds; the runs are kept."""
    words = ("-m", *TINY, "method=ce", "recipe.epochs=1", "seed=0,1")
    answers = runner.Runner.answers

    def failing(self, spec, examples):
        if spec.seed == 1:
            raise RuntimeError("no memory")
        return answers(self, spec, examples)

    monkeypatch.setattr(runner.Runner, "answers", failing)
    code, out, errors = kdrun(*words, "evaluation=[test]")
    assert code == 1
    assert "seed=1: evaluation test: " in errors
    assert "Traceback" not in errors
    (row,) = [line for line in out if "| test " in line]
    assert row.rstrip(" |").endswith(" 1"), "the mean is over the other seed"
    assert out[-1].startswith("result: outputs/sweeps/")
