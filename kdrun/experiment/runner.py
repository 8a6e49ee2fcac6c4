"""From a spec to its result: the teachers first, by the same road, then the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdrun.data import TrainingViews
from kdrun.experiment.build import build_method, build_optimisation, build_student, load_weights
from kdrun.experiment.cost import macs_per_image, threads_for
from kdrun.experiment.environment import environment, peak_memory_bytes, reset_peak_memory, versions
from kdrun.experiment.reporting import EpochProgress, log, log_file
from kdrun.experiment.resident import ResidentSplits, load_resident
from kdrun.experiment.result import accuracies, best, describe
from kdrun.experiment.spec import DatasetSpec, Spec
from kdrun.experiment.store import Run, Store
from kdrun.experiment.teachers import load_teacher, probe_top1
from kdrun.files import write_json
from kdrun.models.cost import num_parameters
from kdrun.seeds import mix, seed_global_generators
from kdrun.training import checkpoint
from kdrun.training.evaluation import evaluate
from kdrun.training.precision import autocast, forbid_tf32, on_device
from kdrun.training.teacher import LiveTeacher
from kdrun.training.trainer import DivergedError, Training, fit


@dataclass(frozen=True)
class Outcome:
    """A finished run, and whether it was there before."""

    run: Run
    result: dict[str, Any]
    reused: bool


class Runner:
    """Executes specs on one device, sharing the data that consecutive runs have in common.

    Args:
        store: where runs lie.
        device: where to compute.
        data_root: where datasets lie or are downloaded to.
        threads: CPU threads to compute with; None chooses by the size of a step.
        weight_files: files with weights of the user's own, by their SHA-256.
    """

    def __init__(
        self,
        store: Store,
        *,
        device: torch.device,
        data_root: Path,
        threads: int | None = None,
        weight_files: Mapping[str, Path] | None = None,
    ) -> None:
        self.store = store
        self._device = device
        self._data_root = data_root
        self._weight_files = weight_files or {}
        self._threads = threads
        self._all_threads = torch.get_num_threads()
        self._data: tuple[DatasetSpec, ResidentSplits] | None = None
        forbid_tf32()

    def execute(self, spec: Spec, *, role: str = "student", config: str | None = None) -> Outcome:
        """Returns the run's result, training first whatever is missing of it and of its teachers.

        Args:
            spec: what to run.
            role: `student` or `teacher`, for the messages.
            config: the composed config as YAML, kept beside the spec.
        """
        run = self.store.run(spec)
        if run.finished:
            return Outcome(run, run.result(), reused=True)
        teachers = [self.execute(teacher, role="teacher") for teacher in spec.teachers]
        with run.lock(lambda status: _tell_waiting(run, status)):
            if run.finished:  # by whoever held the lock
                return Outcome(run, run.result(), reused=True)
            run.open(config)
            with log_file(run.directory / "kdrun.log"):
                self._take_beginning(run)
                return Outcome(run, self._guarded(run, teachers, role), reused=False)

    def teachers(self, spec: Spec) -> tuple[Run, ...]:
        """The places of a run's teachers."""
        return tuple(self.store.run(teacher) for teacher in spec.teachers)

    def plan(self, specs: Sequence[Spec]) -> str:
        """What a set of runs costs: how many there are, with their teachers, and how many are finished."""
        runs = {spec.run_id: spec for spec in specs}
        teachers = {teacher.run_id: teacher for spec in specs for teacher in spec.teachers}
        finished = [sum(self.store.run(spec).finished for spec in group.values()) for group in (runs, teachers)]
        return (
            f"{len(runs)} runs ({finished[0]} finished), "
            f"taught by {len(teachers)} teacher{'s' if len(teachers) != 1 else ''} ({finished[1]} finished)"
        )

    def _guarded(self, run: Run, teachers: list[Outcome], role: str) -> dict[str, Any]:
        """Trains, and leaves a true status behind whatever happens."""
        try:
            result = self._train(run, teachers, role)
            write_json(run.result_path, result)
            run.write_status("finished")
            return result
        except BaseException as error:
            interrupted = not isinstance(error, Exception)
            state = "interrupted" if interrupted else "diverged" if isinstance(error, DivergedError) else "failed"
            log.error("%s: %s", run.directory, error or type(error).__name__, exc_info=True, extra={"file_only": True})
            run.write_status(state, error=f"{type(error).__name__}: {error}")
            raise

    def _train(self, run: Run, teachers: list[Outcome], role: str) -> dict[str, Any]:
        """Trains what is left of a run, writes its files, and returns its result."""
        spec, device = run.spec, self._device
        data = self._resident(spec.dataset)
        self._set_threads(run)
        seed_global_generators(mix(spec.seed, "init"), device)
        student = build_student(spec.student, spec.dataset)
        if spec.weights is not None:
            self._take_weights(student, spec.weights)
        student = on_device(student, device)
        method = build_method(spec.method, student).to(device)
        context = autocast(device, spec.precision)
        views = TrainingViews(data.train, spec.recipe.augmentation, batch_size=spec.recipe.batch_size, seed=spec.seed)
        optimizer, learning_rate = build_optimisation(spec.recipe, method, len(views))
        training = Training(method, optimizer)
        if run.last_checkpoint.exists():
            training.load_state_dict(checkpoint.load(run.last_checkpoint, device))
        source = None
        if teachers:
            source = LiveTeacher(load_teacher(teachers[0].run, data.test, device, spec.precision), context)
        reset_peak_memory(device)
        title = f"{role} {spec.student.name} {type(method).name}"
        with EpochProgress(
            title, epochs=spec.epochs_trained, done=len(training.rows), steps_per_epoch=len(views)
        ) as progress:
            log.info("%s: %s", title, _plan(run, len(training.rows)))
            fit(
                training,
                views,
                source,
                splits=data.evaluated(),
                learning_rate=learning_rate,
                autocast=context,
                epochs=spec.recipe.epochs,
                stop_epoch=spec.epochs_trained,
                seed=spec.seed,
                progress=progress,
                on_epoch=lambda: _save_epoch(run, training),
            )
        run.write_rows(training.rows)
        return self._result(run, training, data, teachers)

    def _result(self, run: Run, training: Training, data: ResidentSplits, teachers: list[Outcome]) -> dict[str, Any]:
        """Exports the student and puts the result together."""
        spec, student = run.spec, training.method.student
        context = autocast(self._device, spec.precision)
        # Without an epoch (weights from elsewhere, stop_epoch=0) nothing has been evaluated yet.
        untrained = {} if training.rows else data.evaluated()
        return {
            **describe(spec, [teacher.result for teacher in teachers]),
            "student": {
                "name": spec.student.name,
                "params": num_parameters(student),
                "macs": macs_per_image(spec),
                "weights_sha256": checkpoint.export_weights(run.weights, student),
                "probe_top1": probe_top1(student, data.test, context),
            },
            **accuracies(
                training.rows, {name: evaluate(student, images, context) for name, images in untrained.items()}
            ),
            "train": {
                "seconds": training.seconds,
                "images_per_second": training.images / training.seconds if training.seconds else None,
                "peak_memory_bytes": peak_memory_bytes(self._device),
            },
            "environment": environment(self._device),
            "versions": versions(),
        }

    def _take_beginning(self, run: Run) -> None:
        """A run that was never started goes on from a shorter one that shares its way (a teacher stopped early)."""
        if run.last_checkpoint.exists() or run.spec.weights is not None:
            return
        beginning = self.store.longest_beginning(run.spec)
        if beginning is not None:
            log.info("goes on from epoch %d of %s", beginning.spec.epochs_trained, beginning.directory)
            run.begin_with(beginning)

    def _set_threads(self, run: Run) -> None:
        """Sets and records the number of CPU threads; a resumed run keeps what it began with, to keep its bits."""
        torch.set_num_threads(self._all_threads)
        threads = run.status().get("threads") or self._threads or threads_for(run.spec, self._device)
        torch.set_num_threads(threads)
        run.write_status("running", threads=threads)

    def _resident(self, dataset: DatasetSpec) -> ResidentSplits:
        """A dataset on the device; the last one is kept, since the runs of a sweep share it."""
        if self._data is None or self._data[0] != dataset:
            self._data = None  # free the old one first
            self._data = (dataset, load_resident(dataset, self._data_root, self._device))
        return self._data[1]

    def _take_weights(self, student: nn.Module, digest: str) -> None:
        """Loads the user's own weights into a student."""
        path = self._weight_files.get(digest)
        if path is None:
            raise FileNotFoundError(f"no file with SHA-256 {digest} was given: name it with teacher.checkpoint=FILE")
        state, found = checkpoint.read_weights(path)
        if found != digest:
            raise checkpoint.CheckpointError(f"{path} changed while kdrun ran: SHA-256 {found}, not {digest}")
        load_weights(student, state, path)


def _save_epoch(run: Run, training: Training) -> None:
    """What an ended epoch leaves behind; `last.pt` last, since it is what a resumed run trusts."""
    state = training.state_dict()
    if best(training.rows, "test") is training.rows[-1]:
        checkpoint.save(run.best_checkpoint, {"epoch": len(training.rows), "method": state["method"]})
    checkpoint.save(run.last_checkpoint, state)
    run.write_rows(training.rows)
    run.write_status("running", epoch=len(training.rows))


def _plan(run: Run, done: int) -> str:
    resumed = f", resumed after epoch {done}" if done else ""
    return f"{run.spec.epochs_trained} epochs in {run.directory}{resumed}"


def _tell_waiting(run: Run, status: dict[str, Any]) -> None:
    log.info("waiting for %s, held by process %s on %s", run.directory, status.get("pid"), status.get("host"))
