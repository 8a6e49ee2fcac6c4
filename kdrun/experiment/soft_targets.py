"""What a trained teacher's soft targets look like as the temperature grows: numbers for a figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.experiment.datasets import load_resident
from kdrun.experiment.teachers import load_teacher
from kdrun.files import read_record, write_record
from kdrun.store.run import Run
from kdrun.training.evaluation import predict
from kdrun.training.precision import autocast

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 20.0, 40.0, 80.0)
NUM_IMAGES = 1000
"""The first test images; all where there are fewer."""


def kept(run: Run) -> dict[str, Any] | None:
    """What `soft_targets` left beside a run's result; None where it was never asked for, or of other weights.

    Raises:
        DamagedError: it is not what was left there.
    """
    path = _file(run)
    if not path.exists():
        return None
    record = read_record(path)
    weights = record.pop("weights_sha256", None)  # runs of semantics 1 may lack it
    is_own = weights == _weights(run) or (weights is None and run.spec.semantics == 1)
    return record if is_own else None


def _weights(run: Run) -> str:
    digest: str = run.result()["student"]["weights_sha256"]
    return digest


def soft_targets(run: Run, data_root: Path, device: torch.device) -> dict[str, Any]:
    """Describes a finished run's outputs on test images; kept as `soft_targets.json` beside its result.

    Returns:
        `num_classes`; `temperatures`; `kl_to_uniform`, the mean KL(p_T || u) in nats at each; and of the image with
        the median confidence among those it gets right: `index`, `label`, `classes` (the ten likeliest at T=1, or all
        where there are fewer) and `probs`, their probabilities at each temperature.

    Raises:
        kdrun.data.DataError: the data is absent or damaged.
        kdrun.store.checkpoint.CheckpointError: the weights are not those of the result.
    """
    found = kept(run)
    if found is None:
        spec = run.spec
        test = load_resident(spec.dataset, data_root, device).test
        model = load_teacher(run, lambda: test, device, spec.precision)
        logits = predict(model, test, autocast(device, spec.precision), limit=NUM_IMAGES).double()
        found = describe(logits, test.labels[: len(logits)])
        write_record(_file(run), {**found, "weights_sha256": _weights(run)})
    return found


def _file(run: Run) -> Path:
    return run.directory / "soft_targets.json"


def describe(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The numbers of `soft_targets` from logits `[N, K]` and labels `[N]`."""
    confidence = F.softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    right = (logits.argmax(dim=1) == labels).nonzero().squeeze(1)
    order = right[confidence[right].argsort()] if len(right) else confidence.argsort()
    index = int(order[len(order) // 2])
    classes = logits[index].topk(min(10, logits.shape[1])).indices
    softened = {temperature: F.softmax(logits / temperature, dim=1) for temperature in TEMPERATURES}
    return {
        "num_classes": logits.shape[1],
        "temperatures": list(TEMPERATURES),
        "kl_to_uniform": [kl_to_uniform(probs).mean().item() for probs in softened.values()],
        "index": index,
        "label": int(labels[index]),
        "classes": classes.tolist(),
        "probs": [probs[index, classes].tolist() for probs in softened.values()],
    }


def kl_to_uniform(probs: Tensor) -> Tensor:
    """KL(p || u) = log K - H(p), in nats, of distributions `[..., K]`."""
    distance: Tensor = math.log(probs.shape[-1]) - torch.special.entr(probs).sum(dim=-1)
    return distance
