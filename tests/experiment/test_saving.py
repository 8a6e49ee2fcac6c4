"""Epochs are written while the next one trains: exactly what they ended with, in order, and before anything ends."""

import io
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

from kdrun import stopping
from kdrun.experiment import saving
from kdrun.experiment.saving import snapshot, writing_thread
from kdrun.methods import CE
from kdrun.store import checkpoint
from kdrun.training.trainer import Training

CPU = torch.device("cpu")


def saved(state) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_snapshot_is_saved_with_the_same_bytes_and_stays_as_it_was(kind):
    """Of channels_last weights and tied ones, which the file has once; with torch's metadata."""
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "norm": nn.BatchNorm2d(8)}).to(memory_format=torch.channels_last)
    model["tied"] = model["conv"]
    optimizer = kind(model.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))

    def step() -> None:
        model["norm"](model["conv"](torch.randn(2, 3, 4, 4))).sum().backward()
        optimizer.step()

    step()
    states = [model.state_dict(), optimizer.state_dict()]
    before, copies = [saved(state) for state in states], [snapshot(state) for state in states]
    step()
    assert [saved(copied) for copied in copies] == before
    assert all(saved(state) != old for state, old in zip(states, before, strict=True))


def test_tensors_of_other_devices_are_moved(monkeypatch):
    """With the CPU in the part of the other device."""
    moved = []
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda tensor: tensor.dtype != torch.float64))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(tensor) or tensor.clone())
    state = {"state": {0: {"moment": torch.ones(2).double()}}, "groups": [{"lr": torch.tensor(0.1).double()}], "n": 3}
    copied = snapshot(state)
    assert len(moved) == 2
    state["state"][0]["moment"].zero_()
    assert copied["state"][0]["moment"].tolist() == [1.0, 1.0]


def parts(state) -> list[bytes]:
    return [saved(state[name]) for name in ("method", "optimizer", "rows")]


class Slow:
    """Writes of `last.pt`, each of which takes until the next epoch trains, and a tenth of a second.

    Attributes:
        events: what happened, in order.
        written: what the files have, as `parts` of it.
    """

    def __init__(self, monkeypatch) -> None:
        begun, self.events = {epoch: threading.Event() for epoch in range(1, 5)}, []
        self.written = []
        write, save, forward = checkpoint.save, saving.EpochWriter.save, CE.forward

        def writing(path, state):
            if path.name == "last.pt":
                begun[len(state["rows"]) + 1].wait(0.3)
                time.sleep(0.1)  # longer than the rest of the epoch
                self.written.append(parts(state))
                self.events.append(f"written {len(state['rows'])}")
            write(path, state)

        def training(method, batch, teacher):
            if batch.step == 1:
                self.events.append(f"trains {batch.epoch + 1}")
                begun[batch.epoch + 1].set()
            return forward(method, batch, teacher)

        def saving_epoch(writer, training, choices):
            save(writer, training, choices)
            self.events.append(f"ended {len(training.rows)}")

        monkeypatch.setattr(checkpoint, "save", writing)
        monkeypatch.setattr(saving.EpochWriter, "save", saving_epoch)
        monkeypatch.setattr(CE, "forward", training)


def test_an_epoch_is_written_while_the_next_trains_as_it_ended(lab, monkeypatch):
    ended, state_dict = [], Training.state_dict

    def recording(training):
        state = state_dict(training)
        ended.append(parts(state))
        return state

    monkeypatch.setattr(Training, "state_dict", recording)
    slow = Slow(monkeypatch)
    run = lab.execute(lab.plain("cnn")).run
    expected = [f"{what} {epoch}" for epoch in (1, 2, 3) for what in ("trains", "written", "ended")]
    assert sorted(slow.events) == sorted(expected)
    for epoch in (1, 2):
        events = f"trains {epoch + 1}", f"written {epoch}", f"ended {epoch + 1}"
        order = [slow.events.index(event) for event in events]
        assert order == sorted(order), "written while the next epoch trains, and before that one is saved"
    assert slow.written == ended
    assert parts(checkpoint.load(run.last_checkpoint, CPU)) == ended[-1]
    assert run.result_path.stat().st_mtime_ns >= run.last_checkpoint.stat().st_mtime_ns


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a step failed")])
def test_what_ends_a_run_waits_for_the_write_under_way(lab, monkeypatch, error):
    """So its status is the last file, and nothing is written without the lock."""
    Slow(monkeypatch)
    forward = CE.forward

    def ending(method, batch, teacher):
        if (batch.epoch, batch.step) == (1, 0):
            raise error
        return forward(method, batch, teacher)

    monkeypatch.setattr(CE, "forward", ending)
    with pytest.raises(type(error)):
        lab.execute(lab.plain())
    run = lab.run(lab.plain())
    state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    assert (run.status()["state"], run.status()["epoch"]) == (state, 1)
    assert len(checkpoint.load(run.last_checkpoint, CPU)["rows"]) == len(run.rows()) == 1


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_failed_write_is_the_runs_error_also_after_the_last_epoch_and_before_another_error(lab, monkeypatch, epoch):
    save, forward = checkpoint.save, CE.forward

    def full(path, state):
        if path.name == "last.pt" and len(state["rows"]) == epoch:
            raise OSError(28, "No space left on device", str(path))
        save(path, state)

    def failing(method, batch, teacher):
        assert batch.epoch != epoch, "an error after that of the write"
        return forward(method, batch, teacher)

    monkeypatch.setattr(checkpoint, "save", full)
    monkeypatch.setattr(CE, "forward", failing)
    with pytest.raises(OSError, match=r"No space left on device: .*last\.pt"):
        lab.execute(lab.plain())
    run = lab.run(lab.plain())
    assert run.status()["state"] == "failed"
    assert "No space left" in run.status()["error"]
    assert not run.finished


def test_a_further_signal_does_not_end_the_thread_earlier():
    before = {number: signal.getsignal(number) for number in (*stopping.SIGNALS, signal.SIGALRM)}
    stopping.listen()
    written = []

    def write() -> None:
        time.sleep(0.1)  # then the context is at its end
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        written.append(True)

    try:
        with pytest.raises(stopping.Stopped), writing_thread() as thread:
            thread.submit(write)
        assert written == [True]
    finally:
        stopping.listen()  # forgets the signal
        for number, handler in before.items():
            signal.signal(number, handler)
