"""The end of a training: the exported student, and the content of the result."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch

from kdrun.experiment.build import build_student
from kdrun.experiment.choices import Choices
from kdrun.experiment.datasets import PreparedSplits
from kdrun.experiment.environment import environment, peak_memory_bytes, versions
from kdrun.experiment.shares import recorded_shares
from kdrun.experiment.sizes import size_of
from kdrun.experiment.teachers import probe_top1
from kdrun.files import sha256
from kdrun.methods import Method
from kdrun.models.cost import num_parameters
from kdrun.store import checkpoint
from kdrun.store.result import accuracies, describe
from kdrun.store.run import Run
from kdrun.training.averaging import ATTRIBUTE, averaged_name
from kdrun.training.evaluation import evaluate
from kdrun.training.trainer import Training

CPU = torch.device("cpu")


def exported(
    run: Run,
    training: Training,
    data: PreparedSplits,
    teachers: list[dict[str, Any]],
    context: AbstractContextManager[None],
    choices: Choices,
    *,
    lockstep: int,
) -> dict[str, Any]:
    """Exports the student as it stands, and returns the result.

    Raises:
        RuntimeError: a network that was not trained here has outputs that are not finite.
    """
    spec, student, device = run.spec, training.method.delivered(), data.test.labels.device
    # Without an epoch (weights from elsewhere, stop_epoch=0) nothing has been evaluated yet.
    untrained = {} if training.rows else data.evaluated()
    metrics = {name: evaluate(student, images, context) for name, images in untrained.items()}
    for name, values in metrics.items():
        if not all(map(math.isfinite, values.values())):
            whose = f"the weights with SHA-256 {spec.weights}" if spec.weights else "the untrained network"
            shown = ", ".join(f"{each} {value:g}" for each, value in values.items())
            raise RuntimeError(f"{whose}: outputs that are not finite on the {name} set ({shown})")
    return {
        **describe(spec, teachers),
        "student": {
            "name": spec.student.name,
            "params": num_parameters(student),
            "macs": size_of(spec.student, spec.dataset).macs,
            "weights_sha256": checkpoint.export_weights(run.weights, student),
            "probe_top1": probe_top1(student, data.test, context),
        },
        **accuracies(training.rows, metrics),
        "shares": recorded_shares(training.rows),
        **({} if data.left_out is None else {"left_out": dict(zip(("train", "test"), data.left_out, strict=True))}),
        **_features(training.method),
        "train": {
            "seconds": training.seconds,
            "extra_params": num_parameters(training.method) - num_parameters(student),
            "images_per_second": training.images / training.seconds if training.seconds else None,
            "peak_memory_bytes": peak_memory_bytes(device),
            "lockstep": lockstep,
        },
        "environment": {
            **environment(device),
            "compile": choices.compile,
            "cuda_graphs": choices.cuda_graphs,
            "small_maps_nchw": choices.small_maps_nchw,
            "ranks": choices.ranks,
        },
        "versions": versions(),
    }


def restored_weights(run: Run) -> bytes | None:
    """The content of a finished run's weights file, from its last checkpoint; None where they are not in it."""
    spec, recorded = run.spec, run.result()["student"]["weights_sha256"]
    try:
        state = run.load_checkpoint(run.last_checkpoint, CPU)
    except (FileNotFoundError, checkpoint.CheckpointError):
        return None
    student = build_student(spec.student, spec.dataset)
    prefix = "student."
    tensors = state["method"]
    own = {name: tensors.get(f"{ATTRIBUTE}.{averaged_name(name)}", tensors[name]) for name in tensors}
    student.load_state_dict({name.removeprefix(prefix): own[name] for name in own if name.startswith(prefix)})
    content = checkpoint.as_safetensors(student)
    return content if sha256(content) == recorded else None


def _features(method: Method) -> dict[str, Any]:
    """The taps that a method used, default ones included; empty for a method without."""
    taps = {"student": list(method.taps), "teacher": list(method.needs.features)}
    return {"taps": taps} if any(taps.values()) else {}
