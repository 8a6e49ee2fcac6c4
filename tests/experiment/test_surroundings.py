"""What a run depends on gives way while it runs: its data, its output root, the clock."""

import errno
import fcntl
import io
import os
import random
import re
import stat
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from PIL import Image

from kdrun.data import DataError, folder, identity
from kdrun.experiment.attempt import Outcome, Request
from kdrun.experiment.progress import TrainingProgress
from kdrun.methods import CE, KD
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Spec
from kdrun.store import run as run_files
from kdrun.store.store import Store

TINY = ("dataset=synthetic", "student=mlp", "teacher=none", "method=ce", "recipe.epochs=2", "runtime.device=cpu")


@pytest.fixture
def pictures(lab) -> Spec:
    """A run on a folder of images, 20 of each of two classes; it lies where the lab's data is."""
    rng = random.Random(0)
    for split, number in (("train", 20), ("test", 4)):
        for name in ("dark", "light"):
            (lab.root / split / name).mkdir(parents=True)
            for i in range(number):
                picture = Image.frombytes("L", (8, 8), rng.randbytes(64))
                picture.save(lab.root / split / name / f"{i}.png")
    found = identity(folder(lab.root, image_size=8, in_channels=1))
    return lab.plain("cnn", dataset=ImageDatasetSpec("kdrun.data.folder", found, 2, 1, 8, 40, 8, (0.5,), (0.25,)))


def take_away(lab) -> None:
    for split in ("train", "test"):
        (lab.root / split).rename(lab.root / f"{split} away")


def put_back(lab) -> None:
    for split in ("train", "test"):
        (lab.root / f"{split} away").rename(lab.root / split)


def test_data_that_vanishes_while_a_run_trains_is_missed_by_nobody(lab, pictures, monkeypatch):
    """It was read, verified and kept before the first step."""
    expected = lab.alone(pictures)
    forward = CE.forward

    def vanishing(self, batch, teacher):
        if (batch.epoch, batch.step) == (1, 1):
            take_away(lab)
        return forward(self, batch, teacher)

    monkeypatch.setattr(CE, "forward", vanishing)
    assert lab.bits(lab.execute(pictures).run) == expected
    assert not (lab.root / "train").exists()


def test_data_that_vanishes_between_runs_fails_those_that_need_it_by_its_place(lab, pictures, monkeypatch):
    half = replace(pictures, dataset=replace(pictures.dataset, train_fraction=0.5))
    specs = [pictures, half, lab.plain()]
    requests = [Request(spec) for spec in specs]
    runner, ended = lab.runner(sweep="one_by_one"), []
    for _, end in runner.execute_all(requests):
        ended.append(end)
        if len(ended) == 1:
            take_away(lab)
    assert [type(end) for end in ended] == [Outcome, DataError, Outcome]
    assert str(lab.root) in str(ended[1])
    assert lab.run(half).status()["state"] == "failed"
    put_back(lab)
    for end in lab.execute_all(specs):
        assert lab.bits(end.run) == lab.alone(end.run.spec)


def test_a_run_that_resumes_without_its_data_fails_and_keeps_what_it_has(lab, pictures, interrupted):
    checkpoint = interrupted(pictures, epochs=1).last_checkpoint
    content = checkpoint.read_bytes()
    take_away(lab)
    with pytest.raises(DataError, match="needs a directory train/"):
        lab.execute(pictures)
    assert checkpoint.read_bytes() == content
    put_back(lab)
    assert lab.bits(lab.execute(pictures).run) == lab.alone(pictures)


def read_only(patch) -> None:
    """Makes every file system read-only, as far as kdrun writes; whoever runs the tests may be allowed everything."""

    def refuse(path=None, *_, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(options.get("dir", path)))

    opened = os.open

    def opening(path, flags, *arguments, **options):
        return refuse(path) if flags & (os.O_CREAT | os.O_WRONLY) else opened(path, flags, *arguments, **options)

    patch.setattr(os, "mkdir", refuse)
    patch.setattr(os, "open", opening)
    patch.setattr(tempfile, "mkstemp", refuse)
    patch.setattr(tempfile, "TemporaryFile", refuse)


def test_a_read_only_output_root_is_bad_input_and_nothing_is_trained(kdrun, here, monkeypatch, trained):
    words = ("-m", *TINY, "seed=0,1")
    with monkeypatch.context() as patch:
        read_only(patch)
        code, _, err = kdrun(*words)
    assert code == 2
    assert "runtime.output_root=outputs" in err
    assert "Read-only file system" in err
    assert trained == []
    assert list(here.iterdir()) == []
    assert kdrun(*words)[0] == 0


def test_what_is_finished_is_read_from_a_read_only_output_root(kdrun, here, monkeypatch):
    words = (*TINY, "seed=0")
    code, out, _ = kdrun(*words)
    assert code == 0
    with monkeypatch.context() as patch:
        read_only(patch)
        code, again, err = kdrun(*words)
        assert (code, err) == (0, "")
        assert again[-1] == out[-1]
        assert kdrun("ls")[0] == 0


def test_an_output_root_that_becomes_read_only_fails_the_run_and_keeps_its_last_epoch(lab, monkeypatch):
    forward = KD.forward
    expected = lab.alone(lab.taught())
    with monkeypatch.context() as patch:

        def remounting(self, batch, teacher):
            if (batch.epoch, batch.step) == (1, 0):
                lab.wait_for_files(lab.run(lab.taught()), epochs=1)
                read_only(patch)
            return forward(self, batch, teacher)

        patch.setattr(KD, "forward", remounting)
        with pytest.raises(OSError, match="Read-only file system"):
            lab.execute(lab.taught())
    run = lab.run(lab.taught())
    assert len(run.rows()) == 1
    assert run.state == "stale", "its status could not be written, and nobody holds it"
    assert lab.bits(lab.execute(lab.taught()).run) == expected


def test_a_log_that_cannot_be_written_is_told_once_and_fails_no_run(lab, caplog, capsys):
    """The device that is always full."""
    run = lab.run(lab.plain())
    run.open(config=None)
    (run.directory / "kdrun.log").symlink_to("/dev/full")
    caplog.set_level("INFO")
    assert lab.bits(lab.execute(lab.plain()).run) == lab.alone(lab.plain())
    assert caplog.text.count("kdrun.log is not complete: [Errno 28] No space left on device") == 1
    assert "Logging error" not in capsys.readouterr().err


class Clock:
    """A wall clock that jumps by days, forwards and backwards, at every look."""

    def __init__(self) -> None:
        self.rng, self.looks = random.Random(0), 0

    def jump(self) -> float:
        self.looks += 1
        return 86400.0 * self.rng.randint(-400, 400)


def test_no_number_depends_on_the_wall_clock(lab, monkeypatch):
    spec = lab.taught()
    expected = lab.alone(spec)
    clock, now = Clock(), time.time

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=clock.jump())

    monkeypatch.setattr(time, "time", lambda: now() + clock.jump())
    monkeypatch.setattr(run_files, "datetime", Jumping)
    for place in lab.root.glob("outputs/**/*"):
        os.utime(place, (0, 0))
    before = time.perf_counter()
    outcome = lab.execute(spec)
    assert clock.looks > 10
    assert lab.bits(outcome.run) == expected
    assert 0 < outcome.result["train"]["seconds"] < time.perf_counter() - before
    assert outcome.result["train"]["images_per_second"] > 0
    assert outcome.run.state == "finished"
    for line in (outcome.run.directory / "kdrun.log").read_text().splitlines():
        assert not re.search(r"left -|img/s -", line)


@pytest.mark.parametrize(("day", "shown"), [(1, "later than now: the clock was set back"), (-3, "72 h ago")])
def test_a_run_that_is_held_is_running_whatever_its_heartbeat_says(kdrun, here, monkeypatch, day, shown):
    class Shifted(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=day)

    assert kdrun(*TINY, "seed=0")[0] == 0
    (run,) = Store(here / "outputs").runs()
    run.result_path.unlink()
    with monkeypatch.context() as patch, run.lock(lambda status: None):
        patch.setattr(run_files, "datetime", Shifted)
        run.write_status("running", epoch=1)
        (line,) = (line for line in kdrun("ls")[1] if "/ce-" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert (cells[0], cells[4]) == ("running", shown)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_goes_on_when_the_clock_is_set_back(monkeypatch):
    terminal, shift = Terminal(), [0.0]
    now = time.time
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: now() + shift[0])
    progress = TrainingProgress("student", epochs=1, steps_per_epoch=4)
    with progress.begun(0):
        shift[0] = -7200.0
        for _ in range(3):
            time.sleep(0.11)
            progress.step()
        shown = terminal.getvalue()
    assert " 75%" in shown
    assert "-" not in re.sub(r"[^\d:<-]", "", shown), "no time is negative"


def test_a_bar_of_80_columns_shows_the_time_left_for_all_runs(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    train = {"top1": 50.0, **dict.fromkeys(("loss", "ce", "kd", "at"), 1.0)}
    progress = TrainingProgress("[1-2/8] 2 students in lockstep", epochs=2, steps_per_epoch=1, others=3600.0)
    with progress.begun(0):
        progress.line("student", {"epoch": 1, "train": train, "test": {"top1": 40.0}}, 99.6, 2)
        progress._bar.refresh()
    assert re.search(r"\r\[1-2/8\] 2 students in lockstep 2/2   0%.*, all runs 1:00:0\d", terminal.getvalue())


def test_small_terms_have_three_significant_digits():
    train = {"top1": 50.0, "loss": 12.3456, "ce": 0.25, "small": 0.00012345, "round": 0.058, "none": 0.0}
    progress = TrainingProgress("student", epochs=2, steps_per_epoch=1)
    with progress.begun(0):
        line = progress.line("student", {"epoch": 1, "train": train, "test": {"top1": 40.0}}, 99.6, 2)
    assert line.startswith("student epoch 1/2  test 40.0%  train 50.0%  loss 12.346  ce 0.250  small 0.000123  ")
    assert "round 0.0580  none 0.000  img/s 100" in line


def test_reused_results_say_from_which_run_and_when(kdrun, here):
    words = (*TINY[:2], "teacher=mlp", "recipe.epochs=2", "runtime.device=cpu", "method=kd")
    assert kdrun(*words, "method.temperature=2")[0] == 0
    runs = {run.spec.method.name: run for run in Store(here / "outputs").runs()}

    def told(run) -> str:
        return f"{run.directory.relative_to(here)}, finished {run.result()['finished']}"

    again = kdrun(*words, "method.temperature=2")[1]
    assert f"already finished, nothing to do: {told(runs['KD'])}" in again
    sweep = kdrun("-m", *words, "method.temperature=2,8")[1]
    assert f"taught by {told(runs['CE'])}" in sweep
    top1 = f"{runs['KD'].result()['test']['last']['top1']:.2f}"
    assert f"[1/2] method.temperature=2: top-1 {top1} % (finished before: {told(runs['KD'])})" in sweep


def test_a_file_system_that_lacks_calls_changes_no_bit_and_is_named_once(lab, monkeypatch, caplog):
    """Lustre and NFS without locks, cloud mounts without permissions, hard links or a flush of directories."""
    expected = lab.alone(lab.plain())
    fsync = os.fsync

    def lacking(number: int):
        def call(*_arguments, **_options):
            raise OSError(number, os.strerror(number))

        return call

    def fsync_of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(fcntl, "flock", lacking(errno.ENOLCK))
    monkeypatch.setattr(os, "chmod", lacking(errno.EPERM))
    monkeypatch.setattr(os, "link", lacking(errno.ENOTSUP))
    monkeypatch.setattr(os, "fsync", fsync_of_files)
    monkeypatch.setattr(run_files, "CLAIM_SECONDS", 0.01)
    outcomes = [lab.execute(lab.plain(seed=seed)) for seed in (0, 1)]
    assert lab.bits(outcomes[0].run) == expected
    assert caplog.text.count("has no locks") == 1


@pytest.mark.parametrize(("alive", "state"), [(True, "running"), (False, "stale")])
def test_without_locks_a_run_is_running_while_its_process_is_there(lab, monkeypatch, alive, state):
    pid = os.getpid() if alive else 2**22 + 1  # beyond the largest there can be
    run = lab.run(lab.plain())
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "not implemented")))
    monkeypatch.setattr(run_files, "CLAIM_SECONDS", 0.01)
    with run.lock(lambda _: None):
        monkeypatch.setattr(os, "getpid", lambda: pid)
        run.write_status("running")
    assert run.state == state
