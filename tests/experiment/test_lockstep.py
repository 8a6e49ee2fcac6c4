"""Runs that are trained together: who may be, and that each is what it is alone."""

from dataclasses import replace

import pytest
import torch

from kdrun.data import Augmentation
from kdrun.experiment import lockstep
from kdrun.experiment.attempt import Outcome, Request
from kdrun.experiment.choices import Choices
from kdrun.experiment.lockstep import check_lockstep, lockstep_groups
from kdrun.files import write_record
from kdrun.methods import CE, KD
from kdrun.training.trainer import DivergedError

CPU = torch.device("cpu")


ONE_THREAD = Choices(1, small_maps_nchw=True)


def groups(specs, choices=lambda spec: ONE_THREAD):
    return [[spec.run_id for spec in group] for group in lockstep_groups(specs, choices, CPU)]


def ids(*specs):
    return [spec.run_id for spec in specs]


def sweep(lab):
    """Students of one teacher that differ in all that members of a group may differ in."""
    return [
        lab.taught(temperature=1.0),
        lab.taught(temperature=8.0, alpha=0.3),
        lab.taught("resnet8"),
        replace(lab.taught(), recipe=replace(lab.recipe, lr=0.1, weight_decay=0.0, optimizer="adam")),
        replace(lab.taught(), stop_epoch=2),
        lab.plain("cnn", method=lab.by("TfKDSelf"), teachers=(lab.teacher,)),
        lab.plain(),
        lab.plain("resnet8", method=lab.by("LSR")),
    ]


def test_each_member_is_bit_for_bit_itself_alone(lab, trained):
    """Weights, metrics and result of every method, architecture and recipe in the group."""
    specs = sweep(lab)
    ended = lab.execute_all(specs, "together")
    assert trained[0] == "ce", "the teacher"
    for spec, outcome in zip(specs, ended, strict=True):
        alone = lab.execute(spec, "alone", replay_gb=0.0)
        assert lab.bits(outcome.run) == lab.bits(alone.run)
        assert (outcome.result["train"]["lockstep"], alone.result["train"]["lockstep"]) == (len(specs), 1)
        assert without_times(outcome.result) == without_times(alone.result)


def without_times(result):
    return {name: value for name, value in result.items() if name not in ("train", "finished")}


def test_lockstep_trains_in_one_go_and_one_by_one_in_many(lab, monkeypatch):
    from kdrun.experiment import runner

    sizes = []
    fit = runner.fit
    monkeypatch.setattr(
        runner, "fit", lambda members, *args, **kw: (sizes.append(len(members)), fit(members, *args, **kw))
    )
    specs = [lab.taught(temperature=t) for t in (1.0, 2.0, 4.0)]
    lab.execute_all(specs, "together")
    lab.execute_all(specs, "apart", sweep="one_by_one")
    assert sizes == [1, 3, 1, 1, 1, 1]


def test_one_that_diverges_or_fails_does_not_disturb_the_others(lab, monkeypatch):
    forward = KD.forward

    def failing(self, batch, teacher):
        if self.temperature == 5.0 and batch.epoch == 1:
            raise MemoryError("no room")
        return forward(self, batch, teacher)

    monkeypatch.setattr(KD, "forward", failing)
    specs = [
        lab.taught(temperature=2.0),
        lab.taught(temperature=5.0),
        replace(lab.taught(), recipe=replace(lab.recipe, lr=1e20)),
    ]
    good, failed, diverged = lab.execute_all(specs)
    assert isinstance(failed, MemoryError)
    assert isinstance(diverged, DivergedError)
    states = [lab.run(spec).status()["state"] for spec in specs]
    assert states == ["finished", "failed", "diverged"]
    assert "MemoryError" in (lab.run(specs[1]).directory / "kdrun.log").read_text()
    assert "MemoryError" not in (lab.run(specs[0]).directory / "kdrun.log").read_text(), "each log is of its own run"
    assert lab.bits(good.run) == lab.alone(specs[0])
    monkeypatch.undo()
    resumed = lab.execute(specs[1])
    assert lab.bits(resumed.run) == lab.alone(specs[1])


def test_an_interrupted_group_resumes_to_the_same_bits(lab, monkeypatch):
    """The first had got one epoch further than the second when the process was stopped."""
    specs = [lab.taught(temperature=1.0), lab.taught(temperature=8.0)]
    forward = KD.forward

    def stopping(self, batch, teacher):
        if (batch.epoch, batch.step, self.temperature) == (2, 3, 8.0):
            raise KeyboardInterrupt
        return forward(self, batch, teacher)

    lab.execute(replace(specs[0], stop_epoch=1))
    with monkeypatch.context() as patch:
        patch.setattr(KD, "forward", stopping)
        with pytest.raises(KeyboardInterrupt):
            lab.execute_all(specs)
    assert [lab.run(spec).status()["state"] for spec in specs] == ["interrupted", "interrupted"]
    for outcome in lab.execute_all(specs):
        assert lab.bits(outcome.run) == lab.alone(outcome.run.spec)


def test_a_failing_teacher_fails_its_students_and_no_other(lab, monkeypatch):
    forward = CE.forward

    def failing(self, batch, teacher):
        if self.scale == 0.5:
            raise RuntimeError("broken teacher")
        return forward(self, batch, teacher)

    monkeypatch.setattr(CE, "forward", failing)
    broken = lab.plain("cnn", method=lab.by("CE", scale=0.5))
    specs = [lab.taught(), lab.taught(teacher=broken), lab.taught(teacher=broken, temperature=2.0), lab.plain()]
    assert groups(specs)[-1] == ids(*specs[1:])
    assert [type(end) for end in lab.execute_all(specs)] == [Outcome, RuntimeError, RuntimeError, Outcome]
    assert not lab.run(specs[1]).directory.exists(), "nothing is left of what was never begun"


def test_groups_share_views_and_teacher(lab):
    """Everything else a run has may differ."""
    specs = sweep(lab)
    assert groups(specs) == [ids(*specs)]
    apart = [
        replace(lab.taught(), seed=1),
        lab.taught(teacher=lab.plain("resnet20")),
        replace(lab.taught(), precision="bf16"),
        replace(lab.taught(), recipe=replace(lab.recipe, batch_size=8)),
        replace(lab.taught(), recipe=replace(lab.recipe, epochs=4)),
        replace(lab.taught(), recipe=replace(lab.recipe, augmentation=Augmentation(flip=True))),
        replace(lab.taught(), dataset=replace(lab.dataset, train_fraction=0.5)),
    ]
    assert groups([specs[0], *apart]) == [[run_id] for run_id in ids(specs[0], *apart)]
    assert groups(specs[:2], choices=lambda spec: Choices(1 if spec is specs[0] else 2)) == [
        [run_id] for run_id in ids(*specs[:2])
    ]


def test_a_run_without_a_teacher_joins_the_last_group_of_its_views(lab):
    """So a baseline that is also a teacher, to be trained in steps, comes after those that stop it early."""
    first, last = lab.taught(teacher=replace(lab.teacher, stop_epoch=1)), lab.taught()
    assert groups([lab.plain(), first, last]) == [ids(first), ids(last, lab.plain())]
    assert groups([lab.plain(), lab.plain(seed=1), lab.plain("cnn")]) == [
        ids(lab.plain(), lab.plain("cnn")),
        ids(lab.plain(seed=1)),
    ]


def test_groups_are_split_where_they_would_not_fit(lab, monkeypatch):
    specs = [lab.taught(temperature=float(t)) for t in range(1, 6)]
    each = lockstep.member_bytes(specs[0], CPU)
    parameters = 64 * 32 + 32 + 32 * 4 + 4
    assert each == (16 + 12) * parameters, "weight, gradient, two moments; and what is saved of them"
    monkeypatch.setattr(lockstep, "_memory_bytes", lambda device: 2 * (2 * each + 1))
    assert groups(specs) == [ids(*specs[:2]), ids(*specs[2:4]), ids(specs[4])]
    monkeypatch.setattr(lockstep, "_memory_bytes", lambda device: 0)
    assert groups(specs) == [[run_id] for run_id in ids(*specs)]


def test_lockstep_refuses_what_it_is_not_exact_for_by_name(lab):
    one, other = (
        lab.taught(),
        replace(lab.taught(teacher=lab.plain("resnet20")), seed=1, recipe=replace(lab.recipe, batch_size=8)),
    )
    with pytest.raises(ValueError, match=r"these differ in seed, recipe\.batch_size, threads, teacher$"):
        check_lockstep([(one, ONE_THREAD), (other, replace(ONE_THREAD, threads=2))])
    with pytest.raises(ValueError, match=r"these differ in small_maps_nchw$"):
        check_lockstep([(one, ONE_THREAD), (one, replace(ONE_THREAD, small_maps_nchw=False))])
    with pytest.raises(ValueError, match="these differ in seed, recipe"):
        lab.runner().execute_together([Request(one), Request(other)])
    check_lockstep([(spec, ONE_THREAD) for spec in (one, lab.taught(temperature=9.0), lab.plain())])


def test_a_teacher_that_is_refused_fails_its_students_and_no_other(lab):
    """It is not as good as its result says."""
    teacher = lab.execute(lab.teacher).run
    result = teacher.result()
    result["student"]["probe_top1"] -= 50
    write_record(teacher.result_path, result)
    specs = [lab.taught(), lab.plain()]
    refused, alone = lab.execute_all(specs)
    assert "refused, more than 1 point apart" in str(refused)
    assert lab.run(specs[0]).status()["state"] == "failed"
    assert lab.bits(alone.run) == lab.alone(lab.plain())


def test_one_that_cannot_be_opened_fails_alone(lab):
    specs = [lab.taught(), lab.taught(temperature=9.0)]
    place = lab.run(specs[0]).directory
    place.parent.mkdir(parents=True)
    place.write_text("a file where a directory should be")
    refused, other = lab.execute_all(specs)
    assert isinstance(refused, OSError)
    assert isinstance(other, Outcome)
