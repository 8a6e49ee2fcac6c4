"""Checkpoints that are not what was written are noticed, whichever bit it is, and never trained on."""

import random

import pytest
import torch

from kdrun.methods import CE
from kdrun.training import checkpoint

CPU = torch.device("cpu")


def interrupt(lab, spec, epoch: int):
    """Trains so many epochs of a run, then stops it as Ctrl-C does."""
    forward = CE.forward

    def stopping(self, batch, teacher):
        if batch.epoch == epoch:
            raise KeyboardInterrupt
        return forward(self, batch, teacher)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CE, "forward", stopping)
        with pytest.raises(KeyboardInterrupt):
            lab.execute(spec)
    return lab.run(spec)


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(lab, caplog):
    whole = lab.execute(lab.plain("cnn"), "whole").run
    run = interrupt(lab, lab.plain("cnn"), epoch=2)
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


def test_where_all_are_damaged_the_run_fails_and_says_what_to_do(lab):
    run = interrupt(lab, lab.plain("cnn"), epoch=2)
    for path in (run.last_checkpoint, run.previous_checkpoint):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt is damaged.*remove it to train from the start"):
        lab.execute(lab.plain("cnn"))
    assert run.status()["state"] == "failed"


def test_the_one_before_is_kept_whole_while_the_last_is_replaced(lab):
    run = interrupt(lab, lab.plain("cnn"), epoch=2)
    states = [checkpoint.load(path, CPU) for path in (run.last_checkpoint, run.previous_checkpoint)]
    assert [len(state["rows"]) for state in states] == [2, 1]


def test_every_flipped_bit_of_a_checkpoint_is_noticed(lab):
    """400 places at random, the first and the last bit among them."""
    run = interrupt(lab, lab.plain(), epoch=1)
    content = run.last_checkpoint.read_bytes()
    num_bits = 8 * len(content)
    places = [0, num_bits - 1, *random.Random(0).sample(range(num_bits), 398)]
    unnoticed = []
    for bit in places:
        run.last_checkpoint.write_bytes(flip(content, bit))
        try:
            checkpoint.load(run.last_checkpoint, CPU)
        except checkpoint.CheckpointError:
            continue
        unnoticed.append(bit)
    assert unnoticed == []
