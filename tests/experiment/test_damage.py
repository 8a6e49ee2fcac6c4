"""Checkpoints that are not what was written are noticed, whichever bit it is, and never trained on."""

import errno
import shutil

import pytest
import torch

from kdrun.methods import CE, KD
from kdrun.store import checkpoint

CPU = torch.device("cpu")


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(lab, interrupted, caplog):
    whole = lab.execute(lab.plain("cnn"), "whole").run
    run = interrupted(lab.plain("cnn"))
    content = run.last_checkpoint.read_bytes()
    run.last_checkpoint.write_bytes(flip(content, 8 * (len(content) // 2)))
    epochs = []
    forward = CE.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CE, "forward", lambda self, batch, _: epochs.append(batch.epoch) or forward(self, batch, _))
        resumed = lab.execute(lab.plain("cnn")).run
    assert set(epochs) == {1, 2}, "the second epoch was lost, the first was not"
    assert f"{run.last_checkpoint} is damaged" in caplog.text
    assert lab.bits(resumed) == lab.bits(whole)
    assert not resumed.previous_checkpoint.exists(), "a finished run needs none"


def test_where_all_are_damaged_the_run_fails_and_says_what_to_do(lab, interrupted):
    run = interrupted(lab.plain("cnn"))
    for path in (run.last_checkpoint, run.previous_checkpoint):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt is damaged.*remove it to train from the start"):
        lab.execute(lab.plain("cnn"))
    assert run.status()["state"] == "failed"


def test_the_one_before_is_kept_whole_while_the_last_is_replaced(lab, interrupted):
    run = interrupted(lab.plain("cnn"))
    states = [checkpoint.load(path, CPU) for path in (run.last_checkpoint, run.previous_checkpoint)]
    assert [len(state["rows"]) for state in states] == [2, 1]


def test_a_full_disk_fails_the_run_that_met_it_and_leaves_its_files_intact(lab, monkeypatch):
    specs = [lab.taught(temperature=2.0), lab.taught(temperature=8.0)]
    victim, save = lab.run(specs[0]), checkpoint.save

    def full(path, state):
        if path == victim.last_checkpoint and len(state["rows"]) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        failed, other = lab.execute_all(specs)
    assert "No space left on device" in str(failed)
    assert victim.status()["state"] == "failed"
    assert len(checkpoint.load(victim.last_checkpoint, CPU)["rows"]) == 1, "the epoch before is there"
    for spec, ended in zip(specs, lab.execute_all(specs), strict=True):
        assert lab.bits(ended.run) == lab.alone(spec)
    assert other.result["run_id"] == specs[1].run_id


def test_a_deleted_run_directory_fails_that_run_and_no_other(lab, monkeypatch):
    specs = [lab.taught(temperature=2.0), lab.taught(temperature=8.0)]
    victim, forward = lab.run(specs[0]), KD.forward

    def deleting(self, batch, teacher):
        if (batch.epoch, batch.step, self.temperature) == (1, 0, 8.0):
            lab.wait_for_files(victim, epochs=1)
            shutil.rmtree(victim.directory)
        return forward(self, batch, teacher)

    with monkeypatch.context() as patch:
        patch.setattr(KD, "forward", deleting)
        failed, other = lab.execute_all(specs)
    assert isinstance(failed, FileNotFoundError)
    assert str(victim.directory) in str(failed)
    assert lab.bits(other.run) == lab.alone(specs[1])
    (again, _) = lab.execute_all(specs)
    assert lab.bits(again.run) == lab.alone(specs[0])
