"""The files of an epoch: its state is copied, and written by a thread while the next epoch trains."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from kdrun.experiment.choices import Choices
from kdrun.files import keep_under
from kdrun.store.result import best
from kdrun.store.run import Run
from kdrun.training.trainer import Training


@contextlib.contextmanager
def writing_thread() -> Iterator[Executor]:
    """A thread that writes the epochs of a group's runs; the context ends when all of them are written.

    No further signal ends it earlier: nothing may be written after the runs' locks are released.
    """
    thread = ThreadPoolExecutor(1, "kdrun-writing")
    try:
        yield thread
    finally:
        stopped: BaseException | None = None
        last = thread.submit(int)  # done after all writes; a join that a signal interrupts cannot be repeated
        while not last.done():
            try:
                last.result()
            except BaseException as error:  # only a signal's: the task cannot fail
                stopped = error
        thread.shutdown()
        if stopped is not None:
            raise stopped


class EpochWriter:
    """Writes the epochs of one run in a thread, one at a time.

    Args:
        run: held by this process until the thread has ended.
        thread: executes the writes in their order.
    """

    def __init__(self, run: Run, thread: Executor) -> None:
        self._run = run
        self._thread = thread
        self._pending: Future[None] | None = None

    def save(self, training: Training, choices: Choices) -> None:
        """Copies the state at the end of an epoch, to be written; waits for the write of the epoch before.

        Raises:
            Exception: what that write has raised.
        """
        self.wait()
        state = training.state_dict()
        copied = {name: snapshot(state[name]) for name in ("method", "optimizer")}
        # Finished rows do not change, only their list does.
        state = {**state, **copied, "rows": list(state["rows"]), "choices": dataclasses.asdict(choices)}
        self._pending = self._thread.submit(write_epoch, self._run, state)

    def wait(self) -> None:
        """Waits for the write under way; raises, once, what it raised."""
        if self._pending is not None:
            error = self._pending.exception()
            self._pending = None
            if error is not None:
                raise error


def snapshot(state: Mapping[str, Any]) -> Any:
    """A copy of a state dict which no later step changes, with its tensors on the CPU.

    CPU tensors that share memory share it in the copy, so that the copy is saved with the same bytes.
    """
    moved: dict[int, Any] = {}  # deepcopy takes these for copies that it has made
    _move_to_cpu(state, moved)
    return copy.deepcopy(state, moved)


def _move_to_cpu(value: Any, moved: dict[int, Any]) -> None:
    """Adds the tensors of other devices, by `id`; when it returns, their values have arrived."""
    if isinstance(value, Tensor):
        if not value.is_cpu:
            moved[id(value)] = value.cpu()
    elif isinstance(value, Mapping):
        for each in value.values():
            _move_to_cpu(each, moved)
    elif isinstance(value, list | tuple):
        for each in value:
            _move_to_cpu(each, moved)


def write_epoch(run: Run, state: dict[str, Any]) -> None:
    """Writes the files of an epoch; `last.pt` after `best.pt`, since a resumed run trusts it."""
    rows = state["rows"]
    if "test" in rows[-1] and best(rows, "test") is rows[-1]:
        run.save_checkpoint(run.best_checkpoint, {"epoch": len(rows), "method": state["method"]})
    if run.last_checkpoint.exists():
        keep_under(run.last_checkpoint, run.previous_checkpoint)
    run.save_checkpoint(run.last_checkpoint, state)
    run.write_rows(rows)
    run.write_status("running", epoch=len(rows))
