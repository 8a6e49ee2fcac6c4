"""From a spec to its result: the teachers first, by the same road, then the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdrun.data import ImageSet, ResidentImages, TrainingViews, select
from kdrun.experiment.build import build_method, build_optimisation, build_student, load_splits, load_weights
from kdrun.experiment.environment import environment, peak_memory_bytes, versions
from kdrun.experiment.reporting import EpochProgress, log, log_file
from kdrun.experiment.result import accuracies, best, describe
from kdrun.experiment.spec import DatasetSpec, Spec
from kdrun.experiment.store import Run, Store
from kdrun.files import write_json
from kdrun.metrics import num_correct
from kdrun.models.cost import num_macs, num_parameters
from kdrun.seeds import mix, seed_global_generators
from kdrun.training import checkpoint
from kdrun.training.evaluation import evaluate, predict
from kdrun.training.precision import autocast, forbid_tf32, on_device, resolve_threads
from kdrun.training.teacher import LiveTeacher
from kdrun.training.trainer import DivergedError, Training, fit

PROBE_IMAGES = 1000
"""A teacher is checked on so many fixed test images before it teaches."""


@dataclass(frozen=True)
class ResidentSplits:
    """The splits of one dataset on the device; `val` is None where none is held out."""

    train: ResidentImages
    val: ResidentImages | None
    test: ResidentImages

    def evaluated(self) -> dict[str, ResidentImages]:
        """What is evaluated after each epoch, by name."""
        return {"test": self.test} if self.val is None else {"val": self.val, "test": self.test}


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
            log.debug("run %s %s", run.spec.run_id, state)
            log.error("%s: %s", run.directory, error or type(error).__name__, exc_info=True, extra={"file_only": True})
            run.write_status(state, error=f"{type(error).__name__}: {error}")
            raise

    def _train(self, run: Run, teachers: list[Outcome], role: str) -> dict[str, Any]:
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
        title = f"{role} {spec.student.name} {type(method).name}"
        _tell_start(run, title, len(training.rows))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

        progress = EpochProgress(title, epochs=spec.epochs_trained, done=len(training.rows), steps_per_epoch=len(views))
        try:
            fit(
                training,
                views,
                LiveTeacher(self._teacher(teachers[0], spec), context) if teachers else None,
                splits=dict(data.evaluated()),
                learning_rate=learning_rate,
                autocast=context,
                epochs=spec.recipe.epochs,
                stop_epoch=spec.epochs_trained,
                seed=spec.seed,
                progress=progress,
                on_epoch=lambda: _save_epoch(run, training),
            )
        finally:
            progress.close()
        run.write_rows(training.rows)
        digest = checkpoint.export_weights(run.weights, student)
        untrained = (
            None
            if training.rows
            else {name: evaluate(student, images, context) for name, images in data.evaluated().items()}
        )
        return {
            **describe(spec, [teacher.result for teacher in teachers]),
            "student": {
                "name": spec.student.name,
                "params": num_parameters(student),
                "macs": _macs(spec),
                "weights_sha256": digest,
                "probe_top1": _probe_top1(student, data.test, context),
            },
            **accuracies(training.rows, untrained),
            "train": {
                "seconds": training.seconds,
                "images_per_second": training.images / training.seconds if training.seconds else None,
                "peak_memory_bytes": peak_memory_bytes(device),
            },
            "environment": environment(device),
            "versions": versions(),
        }

    def _set_threads(self, run: Run) -> None:
        """Sets and records the number of CPU threads; a resumed run keeps what it began with, to keep its bits."""
        torch.set_num_threads(self._all_threads)
        macs = sum(_macs(spec) for spec in (run.spec, *run.spec.teachers)) * run.spec.recipe.batch_size
        threads = run.status().get("threads") or self._threads or resolve_threads(macs, self._device)
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

    def _teacher(self, outcome: Outcome, spec: Spec) -> nn.Module:
        """The trained teacher, verified: its weights by SHA-256, its accuracy once per precision."""
        run, recorded = outcome.run, outcome.result["student"]
        state, digest = checkpoint.read_weights(run.weights)
        if digest != recorded["weights_sha256"]:
            raise checkpoint.CheckpointError(
                f"{run.weights} does not have the SHA-256 its result records; "
                f"move {run.directory} away to train it again"
            )
        model = build_student(run.spec.student, run.spec.dataset)
        load_weights(model, state, run.weights)
        model = on_device(model, self._device)
        verified_path = run.directory / f"verified-{self._device.type}-{spec.precision}.json"
        if not verified_path.exists():
            test = self._resident(spec.dataset).test
            top1 = _probe_top1(model, test, autocast(self._device, spec.precision))
            if abs(top1 - recorded["probe_top1"]) > 1:
                raise RuntimeError(
                    f"teacher {run.directory} has {top1:.2f} % top-1 on {min(PROBE_IMAGES, len(test))} test images "
                    f"here, its result records {recorded['probe_top1']:.2f} %: refused, more than a point apart"
                )
            write_json(verified_path, {"probe_top1": top1, "weights_sha256": recorded["weights_sha256"]})
        return model


def load_resident(dataset: DatasetSpec, root: Path, device: torch.device) -> ResidentSplits:
    """Loads, verifies and selects a dataset, and puts it on the device.

    Raises:
        kdrun.data.DataError: absent and unreachable, damaged, or not what the spec says.
    """
    splits = load_splits(dataset, root)
    selected = select(
        splits,
        train_fraction=dataset.train_fraction,
        val_fraction=dataset.val_fraction,
        classes=dataset.classes,
    )

    def resident(part: ImageSet) -> ResidentImages:
        return ResidentImages(part, mean=dataset.mean, std=dataset.std, device=device)

    val = resident(selected.val) if selected.val is not None else None
    return ResidentSplits(resident(selected.train), val, resident(selected.test))


def _macs(spec: Spec) -> int:
    """Multiply-accumulates of a spec's student for one image."""
    size = spec.dataset.image_size
    with torch.device("meta"):
        return num_macs(build_student(spec.student, spec.dataset), (spec.dataset.in_channels, size, size))


def _probe_top1(model: nn.Module, test: ResidentImages, context: Any) -> float:
    """Top-1 in percent on the first 1,000 test images, or on all where there are fewer."""
    logits = predict(model, test, context, limit=PROBE_IMAGES)
    return 100 * num_correct(logits, test.labels[: len(logits)]).item() / len(logits)


def _save_epoch(run: Run, training: Training) -> None:
    """What an ended epoch leaves behind; `last.pt` last, since it is what a resumed run trusts."""
    state = training.state_dict()
    if best(training.rows, "test") is training.rows[-1]:
        checkpoint.save(run.best_checkpoint, {"epoch": len(training.rows), "method": state["method"]})
    checkpoint.save(run.last_checkpoint, state)
    run.write_rows(training.rows)
    run.write_status("running", epoch=len(training.rows))


def _tell_start(run: Run, title: str, done: int) -> None:
    resumed = f", resumed after epoch {done}" if done else ""
    log.info("%s: %d epochs in %s%s", title, run.spec.epochs_trained, run.directory, resumed)


def _tell_waiting(run: Run, status: dict[str, Any]) -> None:
    log.info("waiting for %s, held by process %s on %s", run.directory, status.get("pid"), status.get("host"))
