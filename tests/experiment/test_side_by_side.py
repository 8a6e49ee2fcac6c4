"""Runs on several devices side by side: the bits, failures and files of one device, whatever ends meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch

from kdrun.config import preflight
from kdrun.experiment.attempt import Request
from kdrun.experiment.side_by_side import SideBySideRunner
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.store.store import Store
from kdrun.training.precision import resolve_devices

CPU = torch.device("cpu")
SMALL = ("dataset=synthetic", "dataset.train_size=96", "dataset.test_size=50", "student=mlp", "student.hidden=[16]")
SWEEP = ("-m", *SMALL, "teacher=cnn", "recipe.batch_size=32", "recipe.epochs=2", "method=kd,ce", "seed=0,1")
TWO = "runtime.devices=[cpu,cpu]"


def contents(root: Path) -> dict[str, bytes]:
    """Weights and metrics of every run."""
    names = ("student.safetensors", "metrics.jsonl")
    paths = (path for name in names for path in root.glob(f"runs/*/*/*/{name}"))
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def summary(root: Path) -> pandas.DataFrame:
    """Of the only sweep, without seconds."""
    (path,) = root.glob("sweeps/*/summary.csv")
    table = pandas.read_csv(path)
    return table[[name for name in table if "seconds" not in name]]


def messages(lines: list[str], root: str) -> list[str]:
    """The lines about ended runs, in order of their numbers."""
    found = (line.replace(f"{root}/", "") for line in lines if re.match(r"\[\d+/\d+\] [^:]*: top-1|.* failed: ", line))
    return sorted(re.sub(r", \d\d:\d\d left for all runs", "", line) for line in found)


def test_a_sweep_ends_as_on_one_device_and_a_failed_teacher_fails_only_its_students(kdrun, here):
    """A learning rate of 1e30 lets the teachers diverge; the students by labels have none."""
    words = (*SWEEP, "teacher.recipe.lr=0.05,1e30")
    ended = {}
    for root, device in (("alone", "runtime.device=cpu"), ("both", TWO)):
        code, out, err = kdrun(*words, device, f"runtime.output_root={root}")
        ended[root] = (code, messages([*out, *err.splitlines()], root))
    assert ended["both"] == ended["alone"]
    code, lines = ended["both"]
    assert code == 1
    assert sum(" failed: RuntimeError: its teacher " in line for line in lines) == 2
    assert contents(here / "both") == contents(here / "alone")
    assert len(contents(here / "both")) == 2 * (2 + 2 + 2)  # students by kd and by ce, and teachers, of two seeds
    pandas.testing.assert_frame_equal(summary(here / "both"), summary(here / "alone"))
    assert not list((here / "both" / "runs").rglob("*.pt")), "checkpoints of finished runs are dropped"


class Planned(SideBySideRunner):
    """Executes what is planned in this process, without a pool."""

    def __init__(self, lab, devices: int, **options) -> None:
        one = lab.runner(**options)
        super().__init__(one.store, replace(one.runtime, devices=(CPU,) * devices))

    def planned(self, *specs: Spec) -> list[tuple[set[str], set[str]]]:
        """The run_ids of each unit, and those that it awaits of unfinished other runs."""
        groups = self.groups([Request(spec) for spec in specs], at_least=len(self.runtime.devices))
        units = self._planned(groups)
        earlier = {unit.run_id for unit in units if not unit.is_requested}
        return [({request.spec.run_id for request in unit.requests}, unit.awaits & earlier) for unit in units]


def test_each_run_awaits_those_that_it_needs(lab):
    """A longer teacher awaits the shorter, from which it continues; a requested run that teaches is a unit before."""
    early, whole = replace(lab.teacher, stop_epoch=1), lab.teacher
    taught = [lab.taught(teacher=early), lab.taught(teacher=whole)]
    second = replace(taught[1], teachers=(taught[1],), seed=1)  # its teacher has a teacher
    units = Planned(lab, 1).planned(*taught, second, whole)
    ids = [spec.run_id for spec in (early, whole, taught[1])]
    assert ({ids[0]}, set()) in units
    assert ({ids[1]}, {ids[0]}) in units
    assert ({ids[2]}, {ids[1]}) in units
    requested = {run_id: awaits for members, awaits in units[3:] for run_id in members}
    assert requested[taught[0].run_id] >= {ids[0]}
    assert requested[second.run_id] >= {ids[2]}
    assert requested[whole.run_id] >= {ids[1]}
    lab.execute(whole)
    assert all(ids[1] not in awaits for _, awaits in Planned(lab, 1).planned(*taught, second))


def test_a_failure_reaches_all_runs_that_need_it_and_no_other(lab):
    """Through a teacher's teacher, too; others of a group remain."""
    first = lab.teacher
    second = lab.taught(teacher=first)
    third = replace(second, teachers=(second,), method=lab.by("KD", temperature=9.0))
    both = replace(third, teachers=(first, second), method=lab.by("KDEnsemble"))
    runner = Planned(lab, 1)
    waiting = runner._planned(runner.groups([Request(spec) for spec in (third, both, lab.plain())]))
    settled = runner._settled(waiting[0], [RuntimeError("none")], waiting[1:])
    ended = {request.spec.run_id: str(end) for request, end in settled}
    assert ended.keys() == {third.run_id, both.run_id}
    assert all(str(lab.run(spec).directory) in ended[third.run_id] for spec in (first, second))
    assert [request.spec for unit in waiting[1:] for request in unit.requests] == [lab.plain()]


@pytest.mark.parametrize(("devices", "sizes"), [(1, [5]), (2, [3, 2]), (4, [2, 1, 1, 1]), (9, [1] * 5)])
def test_groups_are_halved_until_there_is_one_for_each_device(lab, devices, sizes):
    specs = [lab.plain(method=lab.by("LSR", epsilon=0.1 * number)) for number in range(1, 6)]
    assert sorted((len(members) for members, _ in Planned(lab, devices).planned(*specs)), reverse=True) == sizes
    assert len(Planned(lab, 2, sweep="one_by_one").planned(*specs)) == 5


def test_bad_devices_are_bad_input(kdrun, here, monkeypatch):
    for given, reason in {
        "[]": "a list of 0 devices",
        "[cpu,meta]": "'meta' is no device",
        f"[{torch.cuda.device_count()}]": "is not available on this machine",
        "some": "must be all or a list",
        "[cpu,0.5]": "runtime.devices",
    }.items():
        code, _, err = kdrun("-m", *SMALL, "method=ce", "seed=0,1", f"runtime.devices={given}")
        assert (code, reason in err) == (2, True), (given, err)
    code, _, err = kdrun("-m", *SMALL, "method=ce", "seed=0,1", TWO, "hydra/sweeper=optuna")
    assert (code, "runtime.devices: has an effect on" in err) == (2, True)
    code, _, err = kdrun(*SMALL, "method=ce", TWO, "runtime.device=cuda:0")
    assert (code, "runtime.device=" in err) == (2, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(preflight, "resolve_devices", lambda names: (CPU, CPU))
    options = preflight.RuntimeOptions(device="cpu", devices=("cpu", "cpu"))
    findings = preflight.Findings(())
    assert preflight._device(findings, options) == CPU
    assert ["torchrun" in problem for problem in findings.problems] == [True]
    assert list(here.iterdir()) == []


def test_devices_are_of_one_kind(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [device.index for device in resolve_devices("all")] == [0, 1, 2]
    assert [str(device) for device in resolve_devices((2, "cuda:0", 2))] == ["cuda:2", "cuda:0", "cuda:2"]
    with pytest.raises(ValueError, match="several kinds"):
        resolve_devices((0, "cpu"))
    with pytest.raises(ValueError, match="not available"):
        resolve_devices((3,))


TAUGHT = (*SMALL, "teacher=mlp", "teacher.hidden=[24]", "recipe.epochs=30", "recipe.batch_size=8")
LONG = ("-m", *TAUGHT, "method=kd,ce,lsr", "seed=0,1", TWO)


def started(here: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "kdrun", *LONG, "runtime.output_root=killed"]
    log = (here / "log").open("a")
    return subprocess.Popen(command, stdout=log, stderr=log, cwd=here)


def processes(here: Path, *, epoch: int) -> list[int]:
    """Process ids of the two devices, once students by kd have trained that many epochs on both."""
    deadline, found = time.monotonic() + 120, set()
    while len(found) < 2:
        assert time.monotonic() < deadline, (here / "log").read_text()
        time.sleep(0.02)
        statuses = [json.loads(path.read_text()) for path in here.glob("killed/runs/*/*/kd-*/status.json")]
        found = {each["pid"] for each in statuses if each["state"] == "running" and each.get("epoch", 0) >= epoch}
    return sorted(found)


def states(here: Path) -> list[str]:
    return sorted(run.state for run in Store(here / "killed").runs() if isinstance(run, Run))


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("end", ["child", "stop", "kill"])
def test_kills_of_a_device_and_of_the_command_lose_nothing_but_the_runs_under_way(kdrun, here, end):
    """A killed child fails its runs alone; a stopped command stops all children; a killed one, too."""
    process = started(here)
    first, second = processes(here, epoch=2)
    if end == "child":
        os.kill(first, signal.SIGKILL)
        assert process.wait(timeout=300) == 1
        log = (here / "log").read_text()
        assert "was ended by SIGKILL" in log
        assert "3 of 6 runs failed" in log
        assert {*states(here)} == {"finished", "stale"}
    else:
        process.send_signal(signal.SIGTERM if end == "stop" else signal.SIGKILL)
        assert process.wait(timeout=30) == (143 if end == "stop" else -signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not (is_gone(first) and is_gone(second)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert {*states(here)} <= {"finished", "interrupted"}
        assert "interrupted" in states(here)
    assert kdrun(*LONG, "runtime.output_root=killed")[0] == 0
    alone = [word for word in LONG if word != TWO]
    assert kdrun(*alone, "runtime.device=cpu", "runtime.output_root=alone")[0] == 0
    assert contents(here / "killed") == contents(here / "alone")
    pandas.testing.assert_frame_equal(summary(here / "killed"), summary(here / "alone"))
