"""Several finished runs as one: the mean of their probabilities on the test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdrun.data import ResidentImages
from kdrun.experiment.run import Run
from kdrun.experiment.teachers import load_teacher
from kdrun.files import read_record, sha256, write_record
from kdrun.metrics import classification_metrics
from kdrun.training.evaluation import predict
from kdrun.training.precision import autocast


def kept_ensemble(root: Path, runs: Sequence[Run]) -> dict[str, Any] | None:
    """What `ensemble` found of these runs before; None where it was never asked.

    Raises:
        DamagedError: it is not what was left there.
    """
    path = _file(root, runs)
    return read_record(path) if path.exists() else None


def ensemble(root: Path, runs: Sequence[Run], test: ResidentImages, device: torch.device) -> dict[str, Any]:
    """Metrics on the test set of the arithmetic mean of the runs' probabilities; kept under `root/ensembles/`.

    Returns:
        `run_ids`, and `top1`, `top5` (percent), `nll` and `ece` as of a single run.

    Raises:
        kdrun.training.checkpoint.CheckpointError: weights are not those of their result.
    """
    found = kept_ensemble(root, runs)
    if found is None:
        precision = runs[0].spec.precision
        answers = []
        for run in runs:
            model = load_teacher(run, test, device, precision)
            answers.append(predict(model, test, autocast(device, precision)).double().log_softmax(dim=1))
        mean = torch.stack(answers).logsumexp(dim=0) - math.log(len(runs))
        found = {"run_ids": _ids(runs), **classification_metrics(mean, test.labels)}
        _file(root, runs).parent.mkdir(parents=True, exist_ok=True)
        write_record(_file(root, runs), found)
    return found


def _ids(runs: Sequence[Run]) -> list[str]:
    return sorted(run.spec.run_id for run in runs)


def _file(root: Path, runs: Sequence[Run]) -> Path:
    return root / "ensembles" / f"{sha256(' '.join(_ids(runs)).encode())[:10]}.json"
