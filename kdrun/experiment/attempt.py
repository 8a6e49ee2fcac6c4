"""One run from its request to its result: locked, logged, and with a true status whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdrun import stopping, torchrun
from kdrun.distributed import broadcast
from kdrun.escaping import printable
from kdrun.experiment.choices import Choices
from kdrun.experiment.datasets import PreparedSplits
from kdrun.experiment.failures import (
    advice_on_divergence,
    first_line,
    is_device_lost,
    is_out_of_memory,
    out_of_memory,
    release_tensors,
)
from kdrun.experiment.finishing import exported, restored_weights
from kdrun.experiment.member import build_member
from kdrun.experiment.notices import equal_runs
from kdrun.experiment.progress import TrainingProgress
from kdrun.experiment.proof import Proof, keep
from kdrun.experiment.resume import continue_shorter, newest_checkpoint
from kdrun.experiment.saving import EpochWriter
from kdrun.experiment.shares import first_shares, negligible_terms
from kdrun.files import sweep, write_atomically
from kdrun.log import counted, log, log_file
from kdrun.redaction import redacted
from kdrun.spec.components import method_class
from kdrun.spec.spec import Spec
from kdrun.stopping import DeviceLost, Stopped
from kdrun.store.run import Run
from kdrun.store.store import Store
from kdrun.training.averaging import averaged
from kdrun.training.precision import autocast
from kdrun.training.trainer import DivergedError, Member, Row, Training


class Pruned(Exception):  # noqa: N818 (not an error)
    """A search ends a run after an epoch; the run stays `interrupted` and can be resumed."""


@dataclass(frozen=True)
class Request:
    """A request for a run.

    Attributes:
        spec: what to run.
        config: the composed config as YAML, kept beside the spec.
        label: its overrides in the sweep, for the messages.
        role: `student` or `teacher`, for the messages.
        number: its place, from 1, among the runs of a sweep or table, for the messages.
        total: the number of these runs; 0 where the command is for one.
        on_epoch: called with the run's rows after each epoch that it trains; ends the run if it raises `Pruned`.
    """

    spec: Spec
    config: str | None = None
    label: str = ""
    role: str = "student"
    number: int = 0
    total: int = 0
    on_epoch: Callable[[Sequence[Row]], None] | None = None

    @property
    def place(self) -> str:
        """`[3/8]`, or nothing."""
        return f"[{self.number}/{self.total}]" if self.total else ""


@dataclass(frozen=True)
class Outcome:
    """A finished run, and whether it had been finished before."""

    run: Run
    result: dict[str, Any]
    reused: bool


class Attempt:
    """The execution of a request.

    Attributes:
        request: what is executed.
        run: its directory.
        ended: the outcome or the failure; None before either.
        choices: how the run computes; set when it is opened.
        lockstep: number of runs in its group.
        title: its name in messages.
    """

    def __init__(self, request: Request, run: Run, device: torch.device) -> None:
        self.run = run
        self.lockstep = 1
        self.ended: Outcome | Exception | None = None
        self._writer: EpochWriter | None = None
        self.request = request
        self._device = device
        self._context = autocast(device, run.spec.precision)
        words = (request.place, request.role, run.spec.student.name, method_class(run.spec.method).name, request.label)
        self.title = printable(" ".join(word for word in words if word))

    def take_finished(self) -> bool:
        """Ends the attempt if the run is finished and its weights are those of its result."""
        if self.run.finished and self.run.weights_problem() is None:
            self.ended = Outcome(self.run, self.run.result(), reused=True)
            if self.run.status().get("state") != "finished":  # killed after its result, before its status was written
                sweep(self.run.directory)
                self.run.write_status("finished")
        return self.ended is not None

    @contextlib.contextmanager
    def opened(self, store: Store, choices: Choices) -> Iterator[None]:
        """Holds the run's lock and log; writes its status when the context ends, with or without an exception."""
        self.choices = choices
        with self.run.lock(lambda status: _tell_waiting(self.run, status)):
            if self.take_finished() or self._restore_weights():  # finished by whoever held the lock
                yield
                return
            self.run.open(self.request.config)
            with log_file(self.run.directory / "kdrun.log", self.run.spec.run_id):
                try:
                    self._begin(store)
                    self.run.write_status("running", choices=dataclasses.asdict(choices))
                    yield
                except BaseException as error:
                    self.fail(error)
                    raise

    def _begin(self, store: Store) -> None:
        """Prints the notices that precede the first epoch; a run that was never started continues a shorter one.

        With a damaged status the run's choices are those of its checkpoint.
        """
        if damaged := self.run.status().get("damaged"):
            known = self.run.choices() is not None
            what = "its checkpoint says how the run computes" if known else "nothing was trained, the run begins anew"
            log.warning("%s; %s", damaged, what, extra={"run": self.run.spec.run_id})
        for notice in equal_runs(self.run, store):
            self.report(f"{self.title}: {notice}")
        shorter = continue_shorter(self.run, store, self.choices)
        if shorter is not None:
            began = (shorter.choices() or {}).get("ranks", 1)
            other = "" if began == self.choices.ranks else f", on {counted(began, 'rank')}: equal up to rounding"
            self.report(f"continues from epoch {shorter.spec.epochs_trained} of {shorter.origin()}{other}")

    def _restore_weights(self) -> bool:
        """Restores missing weights of a finished run from its checkpoint; without one the run is trained again."""
        if not self.run.finished:
            return False
        problem, seconds = self.run.weights_problem(), self.run.result()["train"]["seconds"]
        content = restored_weights(self.run)
        if content is None:
            log.warning(
                "%s, and no checkpoint has them: the run is trained again, which took %.0f s before", problem, seconds
            )
            self.run.result_path.replace(self.run.result_path.with_name("result.replaced.json"))
            return False
        write_atomically(self.run.weights, content)
        log.warning("%s: restored from %s", problem, self.run.last_checkpoint)
        return self.take_finished()

    def fail(self, error: BaseException) -> None:
        """Ends the run with an error, or with that of the write under way, unless it has ended.

        Raises:
            DeviceLost: no other run can continue either.
            Stopped: the error follows from a signal that has stopped another rank.
        """
        if self.ended is not None:
            return
        try:
            self._finish_writing()
        except Exception as earlier:
            error = earlier
        ended = torchrun.cause(error)
        if isinstance(ended, Stopped) and not isinstance(error, Stopped):
            raise ended
        error = ended
        what = f"{self.run.directory}: {error or type(error).__name__}"
        details = {"run": self.run.spec.run_id, "file_only": True}
        if isinstance(error, Pruned):
            log.info("%s: pruned %s", self.title, error, extra=details)
        else:
            log.error(what, exc_info=error, extra=details)
        release_tensors(error)
        lost = is_device_lost(error)
        if is_out_of_memory(error):
            error = out_of_memory(error, recipe=self.run.spec.recipe, lockstep=self.lockstep)
        state = "failed"
        if isinstance(error, DivergedError):
            state, error = "diverged", DivergedError(f"{error}. {advice_on_divergence(self.run.spec)}")
        if isinstance(error, Exception):
            self.ended = error
        if isinstance(error, Pruned) or not isinstance(error, Exception):
            state = "interrupted"
        self._write_failure(state, error)
        if lost:
            raise DeviceLost(
                f"the device computes no more ({first_line(error)}): {self.run.directory} failed, the rest is pending"
            ) from None

    def _finish_writing(self) -> None:
        """Waits for the files of the last epoch; raises the error of their write."""
        if self._writer is not None:
            self._writer.wait()

    def _write_failure(self, state: str, error: BaseException) -> None:
        if not self.run.directory.is_dir():  # it was never opened
            return
        try:
            with stopping.shielded():
                self.run.write_status(state, error=redacted(f"{type(error).__name__}: {error}"))
        except OSError as status_error:  # the first error is the one that is raised
            log.error("%s: its status cannot be written: %s", self.run.directory, status_error)

    @contextlib.contextmanager
    def isolated_failure(self) -> Iterator[None]:
        """A context whose exceptions fail this run alone; the others of its group continue."""
        try:
            yield
        except Exception as error:
            self.fail(error)
            if self.failed and self.lockstep > 1:  # of a single run the caller reports it
                message = f"{self.title} is removed from the group: {type(self.ended).__name__}: {self.ended}"
                log.error("%s", message, extra={"run": self.run.spec.run_id})

    @property
    def failed(self) -> bool:
        """Whether it has ended without a result."""
        return isinstance(self.ended, Exception)

    def outcome(self) -> Outcome | Exception:
        """The outcome or the failure, without its traceback, which would keep the group's tensors."""
        assert self.ended is not None, "every attempt ends"
        return self.ended.with_traceback(None) if isinstance(self.ended, Exception) else self.ended

    def report(self, message: str) -> None:
        """Prints a message, and writes it to this run's log alone."""
        log.info("%s", message, extra={"run": self.run.spec.run_id})

    def build(
        self,
        data: PreparedSplits,
        steps_per_epoch: int,
        progress: TrainingProgress,
        thread: Executor,
        *,
        weight_files: Mapping[str, Path],
        start: Run | None,
    ) -> Member:
        """Builds the student with its method and optimiser, and restores what is trained of it.

        `thread` writes the files of its epochs.

        Raises:
            CheckpointError: all checkpoints are damaged, or the initial weights are not the recorded ones.
            RuntimeError: code from outside kdrun, or a file that its options name, has changed since the spec was made.
        """
        one = self.choices.ranks == 1  # others get it in the CPU's memory: they have other devices
        state = broadcast(newest_checkpoint(self.run, self._device if one else "cpu"))
        if self.choices.compile:
            self.report(f"{self.title}: its first step compiles the student, which takes a minute or so")
        writer = self._writer = EpochWriter(self.run, thread)

        def on_epoch(training: Training, images_per_second: float) -> None:
            writer.save(training, self.choices)
            line = progress.line(self.title, training.rows[-1], images_per_second, self.run.spec.epochs_trained)
            self.report(line)
            for share in first_shares(training.rows, training.method.doubtful):
                self.report(f"{self.title}: {share}")
            if self.request.on_epoch is not None:
                self.request.on_epoch(training.rows)

        return build_member(
            self.run.spec,
            data,
            steps_per_epoch,
            state,
            self,
            choices=lambda: self.choices,
            weight_files=weight_files,
            start=start,
            on_failure=self._take_ordinary_steps,
            on_epoch=on_epoch,
        )

    def _take_ordinary_steps(self, error: Exception) -> None:
        """Notes that a fast way has failed: this run, also when it is resumed, and later ones go without it."""
        reason = f"{type(error).__name__}: {first_line(error)}"
        keep(Proof(False, reason), self.run.spec, self.choices, self._device)
        self.report(f"{self.title}: {self.choices.words} failed ({reason}); its steps are ordinary ones")
        self.choices = self.choices.ordinary
        self._finish_writing()  # the thread writes the status, too
        self.run.write_status("running", choices=dataclasses.asdict(self.choices))

    def finish(self, training: Training, data: PreparedSplits, teachers: list[dict[str, Any]]) -> None:
        """Writes the student and the result, after the files of the last epoch."""
        self._finish_writing()
        with averaged(training.method):
            result = exported(self.run, training, data, teachers, self._context, self.choices, lockstep=self.lockstep)
        result = self.run.write_result(result, training.rows)
        for term in negligible_terms(training.rows, training.method.doubtful):
            self.report(f"{self.title}: {term}")
        self.run.previous_checkpoint.unlink(missing_ok=True)
        self.run.write_status("finished")
        self.ended = Outcome(self.run, result, reused=False)


def _tell_waiting(run: Run, status: Mapping[str, Any]) -> None:
    log.info("waiting for %s, held by process %s on %s", run.directory, status.get("pid"), status.get("host"))
