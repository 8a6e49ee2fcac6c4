"""A teacher is a run: trained once, verified before it teaches, never changed by teaching."""

import contextlib
import hashlib
import json

import pytest

from kdrun.experiment.build import build_student
from kdrun.files import write_record
from kdrun.store import checkpoint
from kdrun.store.checkpoint import CheckpointError


def files(directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_teacher_is_trained_once_and_never_changes(lab, trained):
    shared = lab.runner()
    shared.execute(lab.taught(temperature=1.0))
    assert trained == ["ce", "kd"]
    teacher = lab.run(lab.teacher)
    before = files(teacher.directory)
    shared.execute(lab.taught(temperature=4.0))
    lab.execute(lab.taught("cnn", temperature=8.0))
    assert trained == ["ce", "kd", "kd", "kd"]
    assert files(teacher.directory) == before
    assert lab.bits(teacher) == lab.alone(lab.teacher)


def test_student_names_its_teacher_as_the_teachers_own_result_does(finished):
    own = json.loads(next(finished.run.directory.parents[1].glob("cnn/*/result.json")).read_text())
    assert finished.result["teachers"] == [
        {
            **{"run_id": own["run_id"], "name": "cnn", "dataset": "synthetic", "epochs": 3, "seed": 0},
            **{name: own["test"]["last"][name] for name in ("top1", "confidence")},
        }
    ]
    top1 = {row["train"]["teacher_top1"] for row in finished.run.rows()}
    assert max(top1) > 50, "it answers about the views of the training images"


@pytest.mark.parametrize(("off_by", "refused"), [(0.9, False), (-0.9, False), (1.1, True), (-1.1, True)])
def test_teacher_that_is_not_as_good_as_recorded_is_refused(lab, off_by, refused):
    teacher = lab.execute(lab.teacher).run
    result = teacher.result()
    result["student"]["probe_top1"] += off_by
    write_record(teacher.result_path, result)
    expected = pytest.raises(RuntimeError, match="refused, more than 1 point apart")
    with expected if refused else contextlib.nullcontext():
        lab.execute(lab.taught())
    assert lab.run(lab.taught()).finished is not refused


def test_accuracy_is_checked_once_for_each_precision(lab):
    teacher = lab.execute(lab.teacher).run
    lab.execute(lab.taught(temperature=1.0))
    result = teacher.result()
    result["student"]["probe_top1"] += 50
    write_record(teacher.result_path, result)
    lab.execute(lab.taught(temperature=2.0))  # not looked at again
    other_precision = lab.plain(precision="bf16", method=lab.by("KD"), teachers=(lab.teacher,))
    with pytest.raises(RuntimeError, match="refused"):
        lab.execute(other_precision)


def test_own_weights_are_a_run_without_training_that_teaches(lab, trained):
    original = lab.execute(lab.teacher, "there")
    digest = hashlib.sha256(original.run.weights.read_bytes()).hexdigest()
    own = lab.plain("cnn", weights=digest)
    options = {"weight_files": {digest: original.run.weights}}
    result = lab.execute(own, **options).result
    assert (result["epochs"], result["student"]["weights_sha256"]) == (0, digest)
    assert result["test"]["last"] == {**original.result["test"]["last"], "epoch": 0}
    assert lab.run(own).rows() == []
    # It teaches what the original teaches, and stands for it by its hash.
    copy, student = lab.execute(lab.taught(teacher=own), **options), lab.execute(lab.taught(), "there")
    assert lab.bits(copy.run)[0] == lab.bits(student.run)[0]
    assert copy.run.rows() == student.run.rows()
    assert copy.run.spec.run_id != student.run.spec.run_id
    assert copy.result["teachers"][0]["run_id"] == own.run_id


def test_own_weights_must_be_there_and_unchanged(lab):
    path = lab.root / "teacher.safetensors"
    digest = checkpoint.export_weights(path, build_student(lab.teacher.student, lab.dataset))
    own = lab.plain("cnn", weights=digest)
    with pytest.raises(FileNotFoundError, match=digest):
        lab.execute(own)
    checkpoint.export_weights(path, build_student(lab.teacher.student, lab.dataset))
    with pytest.raises(CheckpointError, match="changed while kdrun ran"):
        lab.execute(own, weight_files={digest: path})


def test_own_weights_whose_outputs_overflow_are_refused(lab):
    path, network = lab.root / "teacher.safetensors", build_student(lab.teacher.student, lab.dataset)
    for parameter in network.parameters():
        parameter.data.fill_(1e30)  # finite, as its products are not
    digest = checkpoint.export_weights(path, network)
    with pytest.raises(RuntimeError, match=f"SHA-256 {digest}: outputs that are not finite on the test set"):
        lab.execute(lab.plain("cnn", weights=digest), weight_files={digest: path})


def test_the_test_set_chooses_nothing_that_teaches_or_is_handed_on(lab, monkeypatch):
    """Also where an earlier epoch was better: the last one is what a poor teacher is asked for, and what is kept."""
    poor = lab.plain("cnn", stop_epoch=2)
    honest = lab.execute(lab.taught(teacher=poor), "honest").run
    said = iter([90.0, 10.0, 80.0, 30.0, 20.0])  # of two epochs of the teacher, three of the student
    found = {"nll": 1.0, "confidence": 0.5}
    monkeypatch.setattr("kdrun.training.trainer.evaluate", lambda *_, **__: {"top1": next(said), **found})
    student = lab.execute(lab.taught(teacher=poor))
    assert student.result["test"]["best"]["epoch"] == 1
    assert (student.result["test"]["last"]["epoch"], student.result["test"]["last"]["top1"]) == (3, 20.0)
    assert student.result["teachers"][0]["top1"] == 10.0
    assert student.run.weights.read_bytes() == honest.weights.read_bytes()
    assert lab.run(poor).weights.read_bytes() == lab.run(poor, "honest").weights.read_bytes()


def test_a_poor_teacher_leaves_the_runs_of_the_good_one_alone(lab):
    """KD and De-KD of one pair."""
    good = lab.execute(lab.taught()).run
    before = {run: files(run.directory) for run in (good, lab.run(lab.teacher))}
    poor = lab.execute(lab.taught(teacher=lab.plain("cnn", stop_epoch=1)))
    assert not poor.reused
    assert lab.bits(poor.run) != lab.bits(good)
    assert {run: files(run.directory) for run in before} == before
    again = lab.execute(lab.taught())
    assert (again.reused, again.run.directory) == (True, good.directory)


def test_what_a_killed_check_left_is_swept(lab):
    teacher = lab.execute(lab.teacher).run
    leftover = teacher.directory / ".verified-cpu-fp32.json.1.tmp"
    leftover.write_text("{")
    lab.execute(lab.taught())
    assert not leftover.exists()


def test_what_was_left_of_a_status_is_swept_with_the_next_command(lab):
    run = lab.execute(lab.plain()).run
    run.write_status("running")
    leftover = run.directory / ".status.json.1.tmp"
    leftover.write_text("{")
    assert lab.execute(lab.plain()).reused
    assert (run.status()["state"], leftover.exists()) == ("finished", False)
