"""A finished run as a teacher: its weights, verified before they teach, and how its accuracy compares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.data import Resident
from kdrun.experiment.build import build_student
from kdrun.experiment.weights import load_weights
from kdrun.files import DamagedError, read_record, sweep, write_record
from kdrun.log import log
from kdrun.metrics import num_correct
from kdrun.spec.spec import Spec
from kdrun.store.checkpoint import CheckpointError, read_weights
from kdrun.store.run import Run
from kdrun.store.store import Store
from kdrun.training.evaluation import predict
from kdrun.training.precision import autocast, on_device

PROBE_EXAMPLES = 1000
"""A teacher is checked on so many fixed test examples: the first ones."""

TOLERANCE = 1.0
"""Points of top-1 by which it may differ there from what its result records."""


def probe_top1(model: nn.Module, test: Resident, context: Any) -> float:
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


def load_teacher(run: Run, test: Callable[[], Resident], device: torch.device, precision: str) -> nn.Module:
    """The network a finished run trained, on the device.

    Its weights are checked by SHA-256 every time, its accuracy once per kind of device and precision.

    Args:
        run: that has finished.
        test: gives the test examples of its own dataset; called only where the accuracy is checked.
        device: where it computes.
        precision: `fp32` or `bf16`.

    Raises:
        CheckpointError: the weights are not those the result records.
        RuntimeError: its accuracy here is more than a point off the recorded one.
    """
    recorded = run.result()["student"]
    state, digest = recorded_weights(run), recorded["weights_sha256"]
    model = build_student(run.spec.student, run.spec.dataset)
    load_weights(model, state, run.weights)
    model = on_device(model, device)
    verified = run.directory / f"verified-{device.type}-{precision}.json"
    if not _is_verified(verified, digest):
        sweep(run.directory)  # of whom was killed while it wrote the check
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
    """Whether weights with this SHA-256 have been checked before; a record that is damaged is told and made again."""
    try:
        return bool(read_record(path)["weights_sha256"] == digest)
    except FileNotFoundError:
        return False
    except (DamagedError, OSError) as error:
        log.warning("%s; the teacher's accuracy is checked again", error)
        return False


CHANCE_ERRORS = 3
"""Standard errors above chance, on the test set, that a teacher's accuracy must have to be told from guessing."""


def weakness(teacher: Run, students: Sequence[Spec], store: Store) -> str | None:
    """Why the accuracy of a teacher lets little be expected of it, in words; None where it does not.

    It is not clear of chance, `1/K + 3 sqrt((1/K) (1 - 1/K) / n)` on n test labels, or not above the last known
    accuracy that a student has by cross-entropy. A student whose own training the teacher repeats is not compared.

    Args:
        teacher: finished.
        students: the runs it teaches; those of another task than the teacher's are left out.
        store: where runs by cross-entropy are looked for.
    """
    students = [student for student in students if student.dataset.same_task(teacher.spec.dataset)]
    if not students:
        return None
    top1 = teacher.result()["test"]["last"]["top1"]
    chance = 1 / len(teacher.spec.dataset.outputs)
    error = math.sqrt(chance * (1 - chance) / teacher.spec.dataset.num_test_labels)
    if top1 <= 100 * (chance + CHANCE_ERRORS * error):
        return f"its test top-1, {top1:.2f} %, is not clear of chance ({100 * chance:.2f} ± {100 * error:.2f} %)"
    for student in students:
        alone = store.last_by_labels(student)
        if alone is None or dataclasses.replace(teacher.spec, seed=alone.spec.seed) == alone.spec:
            continue
        its = alone.result()["test"]["last"]["top1"]
        if top1 <= its:
            return (
                f"its test top-1, {top1:.2f} %, is not above that of its student {student.student.name} by "
                f"cross-entropy, {its:.2f} % ({alone.directory})"
            )
    return None
