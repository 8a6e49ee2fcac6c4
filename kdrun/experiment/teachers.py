"""A finished run as a teacher: its weights, verified before they teach, and the source of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.data import StreamedImages
from kdrun.experiment.build import build_student, check_tasks, conversion
from kdrun.experiment.choices import Choices
from kdrun.experiment.datasets import Prepared, PreparedSplits, prepare, settled_splits
from kdrun.experiment.logit_cache import LogitCache, replay_key
from kdrun.experiment.runtime import Runtime
from kdrun.experiment.weights import load_weights
from kdrun.files import DamagedError, read_record, sweep, write_record
from kdrun.log import counted, log
from kdrun.methods import Needs
from kdrun.methods.base import together
from kdrun.metrics import num_correct
from kdrun.place import place
from kdrun.spec.spec import Spec
from kdrun.store.checkpoint import CheckpointError, read_weights
from kdrun.store.run import Run
from kdrun.training.cuda_graphs import GraphedTeacher
from kdrun.training.evaluation import predict
from kdrun.training.precision import autocast, on_device, use_nchw_on_small_maps
from kdrun.training.replay import ReplayTeacher, replays
from kdrun.training.teacher import LiveTeacher, SeveralTeachers, TeacherSource

PROBE_EXAMPLES = 1000
"""The number of test examples, the first ones, on which a teacher is checked."""

TOLERANCE = 1.0
"""Points of top-1 by which it may differ there from its result."""


def probe_top1(model: nn.Module, test: Prepared, context: Any) -> float:
    """Top-1 in percent on the first 1,000 test examples, or on all where there are fewer."""
    logits = predict(model, test, context, limit=PROBE_EXAMPLES)
    return 100 * num_correct(logits, test.labels[: len(logits)]).item() / len(logits)


def recorded_weights(run: Run) -> dict[str, Tensor]:
    """The weights that a finished run exported.

    Raises:
        CheckpointError: they are not those its result records.
    """
    state, digest = read_weights(run.weights)
    if digest != run.result()["student"]["weights_sha256"]:
        raise CheckpointError(
            f"{run.weights} does not have the SHA-256 its result records; move {run.directory} away to train it again"
        )
    return state


def load_teacher(
    run: Run, test: Callable[[], Prepared], device: torch.device, precision: str, *, small_maps_nchw: bool
) -> nn.Module:
    """The network a finished run trained, on the device.

    Its weights are checked by SHA-256 every time, its accuracy on the `test` examples of its dataset once per kind of
    device and precision, by rank 0.

    Raises:
        CheckpointError: the weights are not those the result records.
        RuntimeError: its accuracy here is more than a point off the recorded one.
    """
    recorded = run.result()["student"]
    state, digest = recorded_weights(run), recorded["weights_sha256"]
    model = build_student(run.spec.student, run.spec.dataset)
    load_weights(model, state, run.weights)
    model = on_device(model, device)
    if small_maps_nchw:
        use_nchw_on_small_maps(model)
    verified = run.directory / f"verified-{device.type}-{precision}.json"
    if place().rank == 0 and not _is_verified(verified, digest):
        sweep(run.directory)  # temporary files of a process that was killed while it wrote the record
        examples = test()
        top1 = probe_top1(model, examples, autocast(device, precision))
        if abs(top1 - recorded["probe_top1"]) > TOLERANCE:
            raise RuntimeError(
                f"teacher {run.directory} has {top1:.2f} % top-1 on {min(PROBE_EXAMPLES, len(examples))} test "
                f"{run.spec.dataset.example}s here, its result records {recorded['probe_top1']:.2f} %: refused, more "
                f"than {TOLERANCE:g} point apart"
            )
        write_record(verified, {"probe_top1": top1, "weights_sha256": digest})
    return model


def _is_verified(path: Path, digest: str) -> bool:
    """Whether weights with this SHA-256 have been checked before; a damaged record is a warning, and made again."""
    try:
        return bool(read_record(path)["weights_sha256"] == digest)
    except FileNotFoundError:
        return False
    except (DamagedError, OSError) as error:
        log.warning("%s; the teacher's accuracy is checked again", error)
        return False


def teacher_source(
    teachers: Sequence[Run],
    students: Sequence[Spec],
    needs: Sequence[Needs],
    data: PreparedSplits,
    runtime: Runtime,
    choices: Choices,
) -> TeacherSource:
    """The teacher, or the teachers, that the students of a group share, computed as `choices` say.

    Raises:
        ValueError: a teacher of another task than a student's method can use.
        CheckpointError: a teacher's weights are not those of its result.
        RuntimeError: a teacher's accuracy here is not the recorded one.
    """
    for student, asked in zip(students, needs, strict=True):
        check_tasks(student, asked)
    epochs = max(student.epochs_trained for student in students)
    group = (students[0], together(needs), data, runtime, choices)
    sources = [_source(teacher, *group, epochs=epochs) for teacher in teachers]
    return sources[0] if len(sources) == 1 else SeveralTeachers(sources)


def _source(
    teacher: Run,
    student: Spec,
    needs: Needs,
    data: PreparedSplits,
    runtime: Runtime,
    choices: Choices,
    *,
    epochs: int,
) -> TeacherSource:
    """One teacher; cached logits are replayed where a method uses nothing else of it."""
    device = runtime.device
    seen, known = student.dataset, teacher.spec.dataset
    same_task, same_views = seen.same_task(known), seen.same_views(known)

    def test() -> Prepared:
        if same_task and same_views:
            return data.test
        return prepare(settled_splits(known, runtime).test, known, runtime)

    model = load_teacher(teacher, test, device, student.precision, small_maps_nchw=choices.small_maps_nchw)
    kind = GraphedTeacher if choices.cuda_graphs else LiveTeacher
    live = kind(
        model,
        autocast(device, student.precision),
        student.precision,
        needs,
        conversion=None if same_views else conversion(seen, known).to(device),
        same_task=same_task,
    )
    if runtime.replay_gb == 0 or not same_task:
        return live
    if seen.labels_each > 1:
        log.info("teacher %s is not cached: its outputs are one row for each token", teacher.directory)
        return live
    if choices.ranks > 1:
        log.info("teacher %s is not cached: it is computed on %d ranks", teacher.directory, choices.ranks)
        return live
    if not replays(needs):
        log.info("teacher %s is not cached: the method uses its features or weights", teacher.directory)
        return live
    num_rows = needs.views * len(data.train)
    kept_epochs = epochs if isinstance(data.train, StreamedImages) else 1
    size = kept_epochs * num_rows * len(seen.outputs) * (2 if student.precision == "bf16" else 4)
    if size > 1e9 * runtime.replay_gb:
        log.info(
            "teacher %s is not cached: its logits of %s take %.1f GB, runtime.replay_gb=%g is the limit",
            *(teacher.directory, counted(kept_epochs, "epoch"), size / 1e9, runtime.replay_gb),
        )
        return live
    cache = LogitCache(runtime.output_root, 1e9 * runtime.replay_gb)
    cached = cache.recording(replay_key(student, needs, teacher, device, choices))
    if count := cached.num_kept(epochs):
        log.info("teacher %s: logits of %d/%d epochs found in the cache", teacher.directory, count, epochs)
    return ReplayTeacher(live, cached, num_rows=num_rows)
