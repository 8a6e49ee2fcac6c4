"""One run on its way from being asked for to its result: locked, logged, and with a true status whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdrun.escaping import printable
from kdrun.experiment.build import build_method, offered
from kdrun.experiment.choices import Choices
from kdrun.experiment.datasets import ResidentSplits
from kdrun.experiment.failures import (
    advice_on_divergence,
    first_line,
    is_device_lost,
    is_out_of_memory,
    let_go,
    out_of_memory,
)
from kdrun.experiment.finishing import exported, restored_weights
from kdrun.experiment.initial_weights import initial_student
from kdrun.experiment.notices import equal_runs
from kdrun.experiment.progress import TrainingProgress
from kdrun.experiment.resume import continue_shorter, newest_checkpoint, save_epoch
from kdrun.experiment.shares import hardly_acting, just_measured
from kdrun.experiment.stages import build_stages, optimizer_for, stage_recipes
from kdrun.files import sweep, write_atomically
from kdrun.log import log, log_file
from kdrun.redaction import redacted
from kdrun.seeds import mix, seed_global_generators
from kdrun.spec.components import method_class
from kdrun.spec.own_code import outdated
from kdrun.spec.spec import Spec
from kdrun.stopping import DeviceLost
from kdrun.store.run import Run
from kdrun.store.store import Store
from kdrun.training.cuda_graphs import GraphedStep
from kdrun.training.precision import autocast, on_device
from kdrun.training.step import Step
from kdrun.training.trainer import DivergedError, Member, Training


@dataclass(frozen=True)
class Request:
    """A run that is asked for.

    Attributes:
        spec: what to run.
        config: the composed config as YAML, kept beside the spec.
        label: what tells it from the others of its sweep, for the messages.
        role: `student` or `teacher`, for the messages.
    """

    spec: Spec
    config: str | None = None
    label: str = ""
    role: str = "student"


@dataclass(frozen=True)
class Outcome:
    """A finished run, and whether it was there before."""

    run: Run
    result: dict[str, Any]
    reused: bool


class Attempt:
    """A request on its way.

    Attributes:
        run: its place.
        ended: its outcome, or what went wrong; None while it is on its way.
        choices: how it computes; from its opening on.
        lockstep: how many runs are trained together with it, itself included.
        title: what the messages call it.
    """

    def __init__(self, request: Request, run: Run, device: torch.device) -> None:
        self.run = run
        self.lockstep = 1
        self.ended: Outcome | Exception | None = None
        self._request = request
        self._device = device
        self._context = autocast(device, run.spec.precision)
        words = (request.role, run.spec.student.name, method_class(run.spec.method).name, request.label)
        self.title = printable(" ".join(word for word in words if word))

    def take_finished(self) -> bool:
        """Ends here if the run has been finished before, and its weights are those of its result."""
        if self.run.finished and self.run.weights_problem() is None:
            self.ended = Outcome(self.run, self.run.result(), reused=True)
            if self.run.status().get("state") != "finished":  # killed after its result, before its status was written
                sweep(self.run.directory)
                self.run.write_status("finished")
        return self.ended is not None

    @contextlib.contextmanager
    def opened(self, store: Store, choices: Choices) -> Iterator[None]:
        """Holds the run's lock and log; whatever leaves this context leaves a true status behind.

        Args:
            store: where a run may lie that is the beginning of this one.
            choices: how to compute; kept with the run.
        """
        self.choices = choices
        with self.run.lock(lambda status: _tell_waiting(self.run, status)):
            if self.take_finished() or self._restore_weights():  # finished by whoever held the lock
                yield
                return
            self.run.open(self._request.config)
            with log_file(self.run.directory / "kdrun.log", self.run.spec.run_id):
                try:
                    self._begin(store)
                    self.run.write_status("running", choices=dataclasses.asdict(choices))
                    yield
                except BaseException as error:
                    self.fail(error)
                    raise

    def _begin(self, store: Store) -> None:
        """Reports what a user should know before the first epoch; a run that was never started continues a shorter one.

        A damaged status is reported; the run's choices are then those of its checkpoint.
        """
        if damaged := self.run.status().get("damaged"):
            known = self.run.choices() is not None
            what = "its checkpoint says how the run computes" if known else "nothing was trained, the run begins anew"
            log.warning("%s; %s", damaged, what, extra={"run": self.run.spec.run_id})
        for notice in equal_runs(self.run, store):
            self.tell(f"{self.title}: {notice}")
        shorter = continue_shorter(self.run, store, self.choices)
        if shorter is not None:
            self.tell(f"goes on from epoch {shorter.spec.epochs_trained} of {shorter.origin()}")

    def _restore_weights(self) -> bool:
        """Ends here if weights that a finished run lacks are restored from its checkpoint; else it is trained again."""
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
        """Ends the run with what went wrong, unless it has ended.

        Raises:
            DeviceLost: no other run can go on either.
        """
        if self.ended is not None:
            return
        what = f"{self.run.directory}: {error or type(error).__name__}"
        log.error(what, exc_info=error, extra={"run": self.run.spec.run_id, "file_only": True})
        let_go(error)
        lost = is_device_lost(error)
        if is_out_of_memory(error):
            error = out_of_memory(error, batch_size=self.run.spec.recipe.batch_size, lockstep=self.lockstep)
        state = "failed"
        if isinstance(error, DivergedError):
            state, error = "diverged", DivergedError(f"{error}. {advice_on_divergence(self.run.spec)}")
        if isinstance(error, Exception):
            self.ended = error
        else:
            state = "interrupted"
        self._leave(state, error)
        if lost:
            raise DeviceLost(
                f"the device computes no more ({first_line(error)}): {self.run.directory} failed, the rest is pending"
            ) from None

    def _leave(self, state: str, error: BaseException) -> None:
        """Writes the status of a run that is given up."""
        if not self.run.directory.is_dir():  # it was never opened
            return
        try:
            self.run.write_status(state, error=redacted(f"{type(error).__name__}: {error}"))
        except OSError as status_error:  # what went wrong first is what is told
            log.error("%s: its status cannot be written: %s", self.run.directory, status_error)

    @contextlib.contextmanager
    def isolated_failure(self) -> Iterator[None]:
        """What goes wrong in this context is this run's own failure; the others of its group go on."""
        try:
            yield
        except Exception as error:
            self.fail(error)
            if self.failed and self.lockstep > 1:  # alone it is reported when the run returns, which is now
                told = f"{self.title} is removed from the group: {type(self.ended).__name__}: {self.ended}"
                log.error("%s", told, extra={"run": self.run.spec.run_id})

    @property
    def failed(self) -> bool:
        """Whether it has ended without a result."""
        return isinstance(self.ended, Exception)

    def outcome(self) -> Outcome | Exception:
        """How it has ended; an exception is without its traceback, which would keep the tensors of its group."""
        assert self.ended is not None, "every attempt ends"
        return self.ended.with_traceback(None) if isinstance(self.ended, Exception) else self.ended

    def tell(self, message: str) -> None:
        """A message that belongs to this run's log alone."""
        log.info("%s", message, extra={"run": self.run.spec.run_id})

    def build(
        self,
        data: ResidentSplits,
        steps_per_epoch: int,
        progress: TrainingProgress,
        *,
        weight_files: Mapping[str, Path],
        start: Run | None,
    ) -> Member:
        """Builds the student with its method and optimiser, and restores what is trained of it.

        Args:
            data: that it is trained and evaluated on.
            steps_per_epoch: of the views.
            progress: of the group.
            weight_files: files with weights of the user's own, by their SHA-256.
            start: the finished run that this one starts from, where there is one.

        Raises:
            CheckpointError: all checkpoints are damaged, or weights to begin with are not what they should be.
            RuntimeError: code from outside kdrun, or a file that its options name, is no longer what the spec says.
        """
        spec, device, choices = self.run.spec, self._device, self.choices
        if changed := outdated(spec.sources()):
            raise RuntimeError(f"{', '.join(changed)}: changed since the command started; start it again")
        seed_global_generators(mix(spec.seed, "init"), device)
        student = on_device(initial_student(spec, weight_files, start, data.rest), device)
        method = build_method(spec.method, student, offered(spec, device, data.train.labels)).to(device)
        state = newest_checkpoint(self.run, device)
        if state is not None:
            method.stage = state["stage"]
        # A batch is never larger than the data, and the learning rate is scaled by the batch that there is.
        batch_size = min(spec.recipe.batch_size, max(2, len(data.train)))
        recipes = stage_recipes(dataclasses.replace(spec.recipe, batch_size=batch_size), method)
        training = Training(method, optimizer_for(recipes[method.stage], method.trained()))
        if state is not None:
            training.load_state_dict(state)
        if choices.compile:
            self.tell(f"{self.title}: its first step compiles the student, which takes a minute or so")

        def begin_stage2() -> Step:
            method.begin_stage2()
            training.optimizer = optimizer_for(recipes[-1], method.trained())
            return make_step(training, self._context, choices)

        def on_epoch(images_per_second: float) -> None:
            save_epoch(self.run, training, choices)
            self.tell(progress.line(self.title, training.rows[-1], images_per_second, spec.epochs_trained))
            for measured in just_measured(training.rows, method.doubtful):
                self.tell(f"{self.title}: {measured}")

        return Member(
            training,
            make_step(training, self._context, choices),
            build_stages(recipes, steps_per_epoch),
            begin_stage2,
            self._context,
            owner=self,
            splits=data.evaluated(),
            stop_epoch=spec.epochs_trained,
            on_epoch=on_epoch,
            evaluates=spec.recipe.evaluates,
        )

    def finish(self, training: Training, data: ResidentSplits, teachers: list[dict[str, Any]]) -> None:
        """Writes the student and the result.

        Args:
            training: that has come to its end.
            data: what it was trained and evaluated on.
            teachers: their results.
        """
        result = exported(self.run, training, data, teachers, self._context, self.choices, lockstep=self.lockstep)
        result = self.run.write_result(result, training.rows)
        for idle in hardly_acting(training.rows, training.method.doubtful):
            self.tell(f"{self.title}: {idle}")
        self.run.previous_checkpoint.unlink(missing_ok=True)
        self.run.write_status("finished")
        self.ended = Outcome(self.run, result, reused=False)


def make_step(training: Training, context: AbstractContextManager[None], choices: Choices) -> Step:
    """How a run's steps are computed."""
    kind = GraphedStep if choices.cuda_graphs else Step
    return kind(training.method, training.optimizer, context, compiled=choices.compile, has_shares=training.has_shares)


def _tell_waiting(run: Run, status: Mapping[str, Any]) -> None:
    log.info("waiting for %s, held by process %s on %s", run.directory, status.get("pid"), status.get("host"))
