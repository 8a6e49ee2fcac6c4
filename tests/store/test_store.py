"""Where runs lie, what their files hold, and who may work on one."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from kdrun.files import DamagedError, read_json, write_record
from kdrun.methods import CE
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec
from kdrun.store.run import Run
from kdrun.store.store import Store

DATASET = ImageDatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 64, 40, (0.5,), (0.25,))
SPEC = Spec(DATASET, Component("kdrun.models.cnn"), Component("kdrun.methods.CE"))


@pytest.fixture
def run(tmp_path) -> Run:
    run = Store(tmp_path).run(SPEC)
    run.open(config=None)
    return run


def test_a_run_has_its_place_by_dataset_student_method_and_id(tmp_path):
    store = Store(tmp_path)
    assert store.run(SPEC).directory == tmp_path / "runs" / "synthetic" / "cnn" / f"ce-{SPEC.run_id}"
    other = store.run(dataclasses.replace(SPEC, seed=1))
    assert other.directory.parent == store.run(SPEC).directory.parent
    assert other.directory != store.run(SPEC).directory
    own_weights = store.run(dataclasses.replace(SPEC, weights="ab" * 32))
    assert own_weights.directory.name.startswith("weights-")
    assert not any(tmp_path.iterdir()), "asking for a place makes none"


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        dataclasses.replace(SPEC, seed=3, stop_epoch=2),
        dataclasses.replace(SPEC, teachers=(dataclasses.replace(SPEC, stop_epoch=1),), start=SPEC, precision="bf16"),
    ],
)
def test_run_ids_of_every_stop_are_those_of_their_specs(spec):
    expected = [dataclasses.replace(spec, stop_epoch=epoch).run_id for epoch in range(12)]
    assert list(spec.run_ids_stopped_at(range(12))) == expected


def test_of_many_runs_only_the_possible_beginnings_are_read(tmp_path, monkeypatch):
    """The longest of them that was evaluated, computed alike, and has both checkpoints is found.

    An older run records no memory layout: it is channels_last.
    """
    whole = dataclasses.replace(SPEC, recipe=Recipe(epochs=9, evaluate_every=2))
    store, choices, read = Store(tmp_path), {"threads": 1, "small_maps_nchw": False, "ranks": 1}, []
    beginnings = [dataclasses.replace(whole, stop_epoch=epoch) for epoch in (2, 4, 5, 6, 8)]
    others = [dataclasses.replace(spec, seed=1) for spec in beginnings]
    for spec in [*beginnings, *others, SPEC, dataclasses.replace(whole, stop_epoch=0)]:
        run = store.run(spec)
        run.open(config=None)
        run.write_status("finished", choices={"threads": 2 if spec.stop_epoch == 8 else 1})
        run.write_result({"schema": 1}, [])
        for path in (run.last_checkpoint, run.best_checkpoint):
            path.touch()
    store.run(beginnings[3]).best_checkpoint.unlink()
    monkeypatch.setattr("kdrun.store.store.read_json", lambda path: read.append(path.parent) or read_json(path))
    found = store.longest_beginning(whole, choices)
    assert found is not None
    assert found.spec.stop_epoch == 4
    assert sorted(read) == sorted(store.run(spec).directory for spec in beginnings)


def test_published_runs_are_found_where_the_own_root_has_none(tmp_path):
    store = Store(tmp_path / "outputs", tmp_path / "published")
    assert store.find(SPEC) is None
    published = tmp_path / "published" / "synthetic" / "cnn" / f"ce-{SPEC.run_id}"
    published.mkdir(parents=True)
    write_record(published / "result.json", {"schema": 1, "run_id": "0123456789"})
    with pytest.raises(RuntimeError, match="is of another run: its run_id is 0123456789"):
        store.find(SPEC)
    (published / "result.json").write_text(json.dumps({"schema": 1, "run_id": SPEC.run_id, "of": "nobody"}, indent=2))
    with pytest.raises(DamagedError, match=r"published/.*result\.json is not whole: "):
        store.find(SPEC)
    write_record(published / "result.json", {"schema": 1, **SPEC.identity, "of": "published"})
    assert store.find(SPEC).result()["of"] == "published"
    assert store.find(dataclasses.replace(SPEC, seed=1)) is None
    own = store.run(SPEC)
    own.open(config=None)
    assert store.find(SPEC).directory == published, "an own run that is not finished is no result"
    write_record(own.result_path, {"schema": 1, **SPEC.identity, "of": "own"})
    assert store.find(SPEC).result()["of"] == "own"
    assert Store(tmp_path / "outputs").find(dataclasses.replace(SPEC, seed=1)) is None


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "a/../../../b", "..\\..\\x", "x\ny", "x\0y", "", " ", "é", "-rf", "~", "$HOME"]
)
def test_no_name_leaves_the_output_root(tmp_path, monkeypatch, name):
    monkeypatch.setattr(CE, "name", name)
    root = tmp_path / "outputs"
    dataset = dataclasses.replace(DATASET, target=f"kdrun.data.{name}")
    directory = Store(root).run(Spec(dataset, Component(f"kdrun.models.{name}"), SPEC.method)).directory
    directory.mkdir(parents=True)
    assert (root / "runs").resolve() in directory.resolve().parents
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert directory.name.endswith(Spec(dataset, Component(f"kdrun.models.{name}"), SPEC.method).run_id)


@pytest.mark.parametrize("content", [{"schema": 2}, {}])
def test_result_of_another_schema_is_refused(run, content):
    write_record(run.result_path, content)
    with pytest.raises(RuntimeError, match=r"result\.json has schema (2|None), this kdrun reads 1"):
        run.result()


@pytest.mark.parametrize("content", ["", '{"schema": 1', "\x00\x00"])
def test_unreadable_result_says_which_file_and_what_to_do(run, content):
    run.result_path.write_text(content)
    with pytest.raises(RuntimeError, match=r"result\.json is not readable JSON .* move it away, and the command"):
        run.result()


def test_opening_sweeps_what_a_crash_left_and_keeps_the_rest(run):
    kept = [run.directory / "metrics.jsonl", run.last_checkpoint, run.directory / ".lock", run.directory / "note.tmp"]
    leftovers = [run.directory / ".result.json.abc123.tmp", run.last_checkpoint.parent / ".last.pt.x_y.tmp"]
    for path in kept + leftovers:
        path.write_text("content")
    run.open(config=None)
    assert [path.exists() for path in kept] == [True] * 4
    assert [path.exists() for path in leftovers] == [False] * 2


def test_spec_and_config_are_written_at_the_start(run):
    assert Spec.from_canonical(json.loads((run.directory / "spec.json").read_text())) == SPEC
    assert not (run.directory / "config.yaml").exists()
    run.open(config="seed: 0\n")
    run.open(config=None)
    assert (run.directory / "config.yaml").read_text() == "seed: 0\n"


def test_status_keeps_when_it_began_and_how_it_computes(run):
    assert run.status() == {}
    run.write_status("running", choices={"threads": 2})
    status_path = run.directory / "status.json"
    began = {**run.status(), "started": "2020-01-01T00:00:00+00:00"}
    write_record(status_path, began)
    run.write_status("failed", error="RuntimeError: no")
    assert run.status()["error"] == "RuntimeError: no"
    run.write_status("running", epoch=3)
    status = run.status()
    assert (status["started"], status["choices"]) == (began["started"], {"threads": 2})
    assert (status["state"], status["epoch"], status["pid"]) == ("running", 3, os.getpid())
    assert "error" not in status
    assert status["heartbeat"] > status["started"]


def test_rows_are_rewritten_whole_and_never_with_a_nan(run):
    rows = [{"epoch": 1, "train": {"loss": 1.5}}, {"epoch": 2, "train": {"loss": 0.1 + 0.2}}]
    run.write_rows(rows)
    run.write_rows(rows)
    assert run.rows() == rows
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_rows([*rows, {"epoch": 3, "train": {"loss": float("nan")}}])
    assert run.rows() == rows
    run.write_rows([])
    assert run.rows() == []


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(run):
    """Another process that holds the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.directory / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_is_one_process_at_a_time_and_a_dead_holder_frees_it(run, holder):
    run.write_status("running", epoch=7)
    told = []

    def waiting(status: dict) -> None:
        told.append(status)
        holder.send_signal(signal.SIGKILL)

    with run.lock(waiting):
        assert len(told) == 1, "it had to wait, and was free as soon as its holder was dead"
        assert told[0]["epoch"] == 7
        assert holder.wait(timeout=5) == -signal.SIGKILL


def test_a_run_removed_while_another_process_waits_for_it_is_made_again(run, holder):
    """A lock on a removed file excludes nobody: the waiting process makes and locks a new one."""

    def waiting(status: dict) -> None:
        shutil.rmtree(run.directory)  # as `kdrun rm` does under the lock
        holder.send_signal(signal.SIGKILL)

    with run.lock(waiting):
        assert run.directory.is_dir()
        assert run.remove() is False, "the new file is the one that is locked"
    assert run.remove() is True
    assert not run.directory.exists()


def test_lock_excludes_within_and_after_it_is_free(run, tmp_path):
    """While it is held another process does not get it; afterwards it does, also after an exception."""
    attempt = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_SH | fcntl.LOCK_NB)"

    def can_be_had() -> bool:
        command = [sys.executable, "-c", attempt, str(run.directory / ".lock")]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    with run.lock(lambda status: None):
        assert not can_be_had()
    assert can_be_had()
    with pytest.raises(KeyError), run.lock(lambda status: None):
        raise KeyError
    assert can_be_had()
