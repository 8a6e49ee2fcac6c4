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
from torch import nn

from kdrun.escaping import printable
from kdrun.experiment.build import (
    build_method,
    build_optimisation,
    build_schedule,
    build_student,
    offered,
    stage_recipes,
)
from kdrun.experiment.choices import Choices
from kdrun.experiment.failures import (
    advice_on_divergence,
    first_line,
    is_device_lost,
    is_out_of_memory,
    let_go,
    out_of_memory,
)
from kdrun.experiment.finishing import exported, restored_weights
from kdrun.experiment.progress import TrainingProgress
from kdrun.experiment.datasets import ResidentSplits
from kdrun.experiment.shares import hardly_acting, just_measured
from kdrun.experiment.initial_weights import begin_from
from kdrun.experiment.weights import load_weights, own_weights
from kdrun.files import keep_under, sweep, write_atomically
from kdrun.log import log, log_file
from kdrun.redaction import redacted
from kdrun.seeds import mix, seed_global_generators
from kdrun.spec.components import method_class
from kdrun.spec.own_code import changes, outdated
from kdrun.spec.spec import Spec
from kdrun.stopping import DeviceLost
from kdrun.store import checkpoint
from kdrun.store.result import best, describe
from kdrun.store.run import Run
from kdrun.store.store import Store
from kdrun.training.convolution import apply_plan
from kdrun.training.cuda_graphs import GraphedStep
from kdrun.training.precision import autocast, on_device
from kdrun.training.step import Step
from kdrun.training.trainer import DivergedError, Member, Stage, Training


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
                    self._tell_damaged_status()
                    self._tell_older(store)
                    self._tell_other_source(store)
                    self._take_beginning(store)
                    self.run.write_status("running", choices=dataclasses.asdict(choices))
                    yield
                except BaseException as error:
                    self.fail(error)
                    raise

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
    def failing_alone(self) -> Iterator[None]:
        """What goes wrong in this context is this run's own failure."""
        try:
            yield
        except Exception as error:
            self.fail(error)

    def tell(self, message: str) -> None:
        """A message that belongs to this run's log alone."""
        log.info("%s", message, extra={"run": self.run.spec.run_id})

    def build(
        self, data: ResidentSplits, steps_per_epoch: int, weight_files: Mapping[str, Path], start: Run | None
    ) -> Training:
        """Builds the student with its method and optimiser, and restores what is trained of it.

        Args:
            data: that it is trained on.
            steps_per_epoch: of the views.
            weight_files: files with weights of the user's own, by their SHA-256.
            start: the finished run that this one starts from, where there is one.

        Raises:
            CheckpointError: all checkpoints are damaged, or weights to begin with are not what they should be.
            RuntimeError: code from outside kdrun, or a file that its options name, is no longer what the spec says.
        """
        spec, device = self.run.spec, self._device
        if changed := outdated(spec.sources()):
            raise RuntimeError(f"{', '.join(changed)}: changed since the command started; start it again")
        seed_global_generators(mix(spec.seed, "init"), device)
        student = build_student(spec.student, spec.dataset)
        if spec.weights is not None:
            _take_weights(student, spec, weight_files)
        if start is not None:
            begin_from(student, spec.dataset, start, data.rest)
        student = on_device(student, device)
        method = build_method(spec.method, student, offered(spec, device, data.train.labels)).to(device)
        state = self._newest_checkpoint()
        if state is not None:
            method.stage = state["stage"]
        # A batch is never larger than the data, and the learning rate is scaled by the batch that there is.
        batch_size = min(spec.recipe.batch_size, max(2, len(data.train)))
        recipes = stage_recipes(dataclasses.replace(spec.recipe, batch_size=batch_size), method)
        self._stages = [
            Stage(method.stage1_epochs * number, recipe.epochs, build_schedule(recipe, steps_per_epoch))
            for number, recipe in enumerate(recipes)
        ]
        optimizer, _ = build_optimisation(recipes[method.stage], method.trained(), steps_per_epoch)
        training = Training(method, optimizer)
        self._steps_per_epoch = steps_per_epoch
        self._recipe = recipes[-1]
        if state is not None:
            training.load_state_dict(state)
        if self.choices.compile:
            self.tell(f"{self.title}: its first step compiles the student, which takes a minute or so")
        self._step = make_step(training, self._context, self.choices)
        return training

    def member(self, training: Training, data: ResidentSplits, progress: TrainingProgress) -> Member:
        """The student as one of those that are trained in lockstep, or alone."""

        def on_epoch(images_per_second: float) -> None:
            _save_epoch(self.run, training, self.choices)
            self.tell(progress.line(self.title, training.rows[-1], images_per_second, self.run.spec.epochs_trained))
            for measured in just_measured(training.rows, training.method.doubtful):
                self.tell(f"{self.title}: {measured}")

        def begin_stage2() -> Step:
            training.method.begin_stage2()
            method = training.method
            training.optimizer, _ = build_optimisation(self._recipe, method.trained(), self._steps_per_epoch)
            return make_step(training, self._context, self.choices)

        def on_failure(error: Exception) -> None:
            self.fail(error)
            if self.lockstep > 1:  # else it is told when the run returns, which is now
                told = f"{self.title} leaves: {type(self.ended).__name__}: {self.ended}"
                log.error(told, extra={"run": self.run.spec.run_id})

        return Member(
            training,
            self._step,
            self._stages,
            begin_stage2,
            self._context,
            splits=data.evaluated(),
            stop_epoch=self.run.spec.epochs_trained,
            on_epoch=on_epoch,
            on_failure=on_failure,
            evaluates=self.run.spec.recipe.evaluates,
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

    def _newest_checkpoint(self) -> dict[str, Any] | None:
        """What to resume from: the last checkpoint or, where that is damaged, the one before, which is told."""
        damaged = None
        for path in (self.run.last_checkpoint, self.run.previous_checkpoint):
            try:
                return self.run.load_checkpoint(path, self._device)
            except FileNotFoundError:
                continue
            except checkpoint.CheckpointError as error:
                what = str(error).partition(";")[0]
                log.warning("%s; goes on from the epoch before", what, extra={"run": self.run.spec.run_id})
                damaged = damaged or error
        if damaged is not None:
            raise damaged
        return None

    def _tell_other_source(self, store: Store) -> None:
        """A notice, before the first epoch, that an equal run of other code is finished, and what differs."""
        if self.run.last_checkpoint.exists():
            return
        other = store.of_other_source(self.run.spec)
        if other is not None:
            what = ", ".join(changes(other.spec.sources(), self.run.spec.sources()))
            self.tell(f"{self.title}: a new run; {other.directory} is equal except for its code: {what}")

    def _tell_damaged_status(self) -> None:
        status = self.run.status()
        if "damaged" in status:
            known = self.run.choices() is not None
            what = "its checkpoint says how the run computes" if known else "nothing was trained, the run begins anew"
            log.warning("%s; %s", status["damaged"], what, extra={"run": self.run.spec.run_id})

    def _tell_older(self, store: Store) -> None:
        """A notice where this run's fields have a result of an older semantics, with what else its method had."""
        older = None if self.run.last_checkpoint.exists() else store.find_older(self.run.spec)
        if older is None:
            return
        try:
            result = older.result()
        except RuntimeError as error:
            log.warning("%s; it is of an older semantics", error, extra={"run": self.run.spec.run_id})
            return
        method = describe(self.run.spec, [])["method"]
        changes = [
            f"method.{name} was {value}, is {method.get(name)}"
            for name, value in result["method"].items()
            if value != method.get(name)
        ]
        self.tell(
            f"{self.title}: a result of semantics {older.spec.semantics}, {result['test']['last']['top1']:.2f} % "
            f"top-1, is in {older.directory}; trained anew under semantics {self.run.spec.semantics}"
            + (f" ({'; '.join(changes)})" if changes else "")
        )

    def _take_beginning(self, store: Store) -> None:
        """A run that was never started goes on from a shorter one that shares its way (a teacher stopped early)."""
        if self.run.last_checkpoint.exists() or self.run.spec.weights is not None:
            return
        beginning = store.longest_beginning(self.run.spec, dataclasses.asdict(self.choices))
        if beginning is not None:
            try:
                self.run.begin_with(beginning)
            except (checkpoint.CheckpointError, FileNotFoundError) as error:  # another command may have dropped them
                what = str(error).partition(";")[0]
                log.warning("%s; trains from the start instead", what, extra={"run": self.run.spec.run_id})
            else:
                self.tell(f"goes on from epoch {beginning.spec.epochs_trained} of {beginning.origin()}")


def make_step(training: Training, context: AbstractContextManager[None], choices: Choices) -> Step:
    """How a run's steps are computed: the choices applied to its student."""
    apply_plan(training.method.student, choices.conv_plan)
    kind = GraphedStep if choices.cuda_graphs else Step
    return kind(training.method, training.optimizer, context, compiled=choices.compile, has_shares=training.has_shares)


def _take_weights(student: nn.Module, spec: Spec, files: Mapping[str, Path]) -> None:
    """Loads the user's own weights into a student."""
    path = files.get(spec.weights or "")
    if path is None:
        raise FileNotFoundError(f"no file with SHA-256 {spec.weights} was given: name it with teacher.checkpoint=FILE")
    own = own_weights(path, spec.student, spec.dataset)
    if own.digest != spec.weights:
        raise checkpoint.CheckpointError(f"{path} changed while kdrun ran: SHA-256 {own.digest}, not {spec.weights}")
    load_weights(student, {**student.state_dict(), **own.state}, path)


def _save_epoch(run: Run, training: Training, choices: Choices) -> None:
    """What an ended epoch leaves behind; `last.pt` last, since it is what a resumed run trusts."""
    state = {**training.state_dict(), "choices": dataclasses.asdict(choices)}
    if "test" in training.rows[-1] and best(training.rows, "test") is training.rows[-1]:
        run.save_checkpoint(run.best_checkpoint, {"epoch": len(training.rows), "method": state["method"]})
    if run.last_checkpoint.exists():
        keep_under(run.last_checkpoint, run.previous_checkpoint)
    run.save_checkpoint(run.last_checkpoint, state)
    run.write_rows(training.rows)
    run.write_status("running", epoch=len(training.rows))


def _tell_waiting(run: Run, status: Mapping[str, Any]) -> None:
    log.info("waiting for %s, held by process %s on %s", run.directory, status.get("pid"), status.get("host"))
