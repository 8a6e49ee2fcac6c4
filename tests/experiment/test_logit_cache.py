"""Kept logits: used by every later run of the same views, never where they would not be the same, within a limit."""

import errno
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kdrun.data import Augmentation
from kdrun.experiment import logit_cache
from kdrun.experiment.build import needs_of
from kdrun.experiment.choices import Choices
from kdrun.experiment.logit_cache import LogitCache, replay_key
from kdrun.methods import Needs
from kdrun.store import checkpoint
from kdrun.training.teacher import LiveTeacher

CPU = torch.device("cpu")


@pytest.fixture
def answered(monkeypatch) -> list[int]:
    """The epochs of the batches that a teacher computed."""
    epochs = []
    call = LiveTeacher.__call__
    monkeypatch.setattr(LiveTeacher, "__call__", lambda self, batch: epochs.append(batch.epoch) or call(self, batch))
    return epochs


def test_later_runs_of_the_same_views_compute_no_teacher_and_end_with_the_same_bits(lab, answered):
    lab.execute(lab.taught(temperature=1.0))
    assert answered == [epoch for epoch in range(3) for _ in range(5)]
    answered.clear()
    for spec in (lab.taught(temperature=8.0), replace(lab.taught("resnet8"), stop_epoch=2)):
        replayed = lab.execute(spec).run
        assert answered == []
        assert lab.bits(replayed) == lab.alone(spec)
        answered.clear()
    kept = sorted(path.name for path in lab.root.glob("outputs/replay/*/*"))
    assert kept == ["0001.pt", "0002.pt", "0003.pt", "key.json"]
    assert not (lab.root / "alone" / "replay").exists()


def test_an_epoch_costs_its_logits_and_positions(lab):
    lab.execute(lab.taught())
    for path in lab.root.glob("outputs/replay/*/0*.pt"):
        assert path.stat().st_size < 66 * (4 * 4 + 8) + 3000, "66 images, 4 classes in float32, an int64"


def test_what_could_differ_in_a_bit_is_another_recording(lab):
    teacher = lab.execute(lab.teacher).run
    keys = [
        replay_key(spec, needs_of(spec), teacher, CPU, choices)
        for spec, choices in [
            (lab.taught(), Choices(1)),
            (lab.taught(), Choices(2)),
            (lab.taught(), Choices(1, small_maps_nchw=True)),
            (replace(lab.taught(), seed=1), Choices(1)),
            (replace(lab.taught(), precision="bf16"), Choices(1)),
            (replace(lab.taught(), dataset=replace(lab.dataset, train_fraction=0.5)), Choices(1)),
            (replace(lab.taught(), recipe=replace(lab.recipe, batch_size=8)), Choices(1)),
            (replace(lab.taught(), recipe=replace(lab.recipe, augmentation=Augmentation(flip=True))), Choices(1)),
        ]
    ]
    other = lab.execute(replace(lab.teacher, seed=1)).run
    asked = [Needs(logits=True), Needs(logits=True, views=2), Needs(logits=True, per_class=2)]
    keys += [
        replay_key(lab.taught(), needs, *which, CPU, Choices(1))
        for needs, *which in zip(asked, (other, teacher, teacher), strict=True)
    ]
    store = LogitCache(lab.root, 1e9)
    assert len({store.recording(key)._directory for key in keys}) == len(keys)
    spec = replace(lab.taught("resnet20", temperature=9.0), recipe=replace(lab.recipe, lr=0.1))
    same = replay_key(spec, needs_of(spec), teacher, CPU, Choices(1))
    assert same == keys[0], "what a student does with the views is nothing to the teacher"


def tensors(size: int) -> dict[str, torch.Tensor]:
    return {"logits": torch.zeros(size // 12, 1), "index": torch.zeros(size // 12, dtype=torch.int64)}


def test_what_was_unused_for_the_longest_time_makes_room(tmp_path):
    store = LogitCache(tmp_path, 65_000)
    recordings = {name: store.recording({"teacher": name}) for name in "abc"}
    for age, (name, recording) in enumerate(recordings.items()):
        recording.write(0, tensors(12_000))
        os.utime(recording._directory / "key.json", (age, age))
        assert recordings[name].read(0) is not None
    for age, name in enumerate("bca"):
        os.utime(recordings[name]._directory / "key.json", (age, age))
    recordings["c"].write(1, tensors(24_000))
    assert [name for name in "abc" if recordings[name].read(0) is not None] == ["a", "c"]
    assert recordings["c"].read(1) is not None


def test_the_limit_is_kept_and_told_once(tmp_path, caplog):
    caplog.set_level("INFO")
    store = LogitCache(tmp_path, 50_000)
    recording = store.recording({"teacher": "a"})
    for epoch in range(6):
        recording.write(epoch, tensors(20_000))
    assert [epoch for epoch in range(6) if recording.read(epoch) is not None] == [0, 1]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 50_000
    assert caplog.text.count("runtime.replay_gb=5e-05 is the limit") == 1


def altered(path, change) -> None:
    """Changes what a file holds; its SHA-256 is right afterwards."""
    state = checkpoint.load(path, CPU)
    change(state)
    checkpoint.save(path, state)


DAMAGES = {
    "is damaged": [
        lambda path: path.write_bytes(path.read_bytes()[:-100] + b"x" + path.read_bytes()[-99:]),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
    ],
    "is not what was kept under this name": [
        lambda path: path.write_bytes(path.with_name("0001.pt").read_bytes()),
        lambda path: altered(path, lambda state: state.update(key="another teacher's")),
    ],
    "does not hold the logits of an epoch": [
        lambda path: altered(path, lambda state: state.pop("logits")),
        lambda path: altered(path, lambda state: state.update(index=None)),
        lambda path: altered(path, lambda state: state.update(logits=state["logits"].to_sparse())),
        lambda path: altered(path, lambda state: state.update(logits=state["logits"][:20])),
    ],
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_file_that_is_not_what_was_recorded_is_reported_and_computed_again(lab, answered, caplog, fault):
    lab.execute(lab.taught())
    (path,) = lab.root.glob("outputs/replay/*/0002.pt")
    content = path.read_bytes()
    for number, damage in enumerate(DAMAGES[fault]):
        spec = lab.taught(temperature=5.0 + number)
        damage(path)
        caplog.clear()
        answered.clear()
        run = lab.execute(spec).run
        assert answered == [1] * 5, "the second epoch"
        assert f"{path} {fault}" in caplog.text
        assert path.read_bytes() == content, "it is recorded anew"
    assert lab.bits(run) == lab.alone(spec)


@pytest.mark.parametrize("obstacle", ["file", "full"])
def test_what_cannot_be_kept_harms_no_run(lab, caplog, monkeypatch, obstacle):
    """A file where the directory should be; a disk that is full."""
    expected = lab.alone(lab.taught())
    (lab.root / "outputs").mkdir()
    if obstacle == "file":
        (lab.root / "outputs" / "replay").write_text("")
    else:

        def full(path, state):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(logit_cache, "checkpoint", SimpleNamespace(save=full, load=checkpoint.load))
    assert lab.bits(lab.execute(lab.taught()).run) == expected
    assert caplog.text.count("no more of the teacher's logits is kept for later runs (these do not need it)") == 1


def test_views_of_another_law_are_answered_anew(lab, answered):
    """The order of the images is the same, so what was kept would fit, and be wrong."""
    lab.execute(lab.taught())
    for law in (Augmentation(), Augmentation(crop_padding=2, flip=True, rotation=15.0)):
        spec = replace(lab.taught(), recipe=replace(lab.recipe, augmentation=law))
        answered.clear()
        run = lab.execute(spec).run
        assert len(answered) == 3 * 5
        assert lab.bits(run) == lab.alone(spec)
