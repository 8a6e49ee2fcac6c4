"""Checkpoints to resume from: those of a run's epochs, or of a shorter run with the same first epochs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from kdrun.experiment.choices import Choices
from kdrun.log import log
from kdrun.store.checkpoint import CheckpointError
from kdrun.store.run import Run
from kdrun.store.store import Store


def newest_checkpoint(run: Run, device: torch.device | str) -> dict[str, Any] | None:
    """The last checkpoint or, where that is damaged, which is a warning, the one before; None where there is none.

    Raises:
        CheckpointError: all are damaged.
    """
    damaged = None
    for path in (run.last_checkpoint, run.previous_checkpoint):
        try:
            return run.load_checkpoint(path, device)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            what = str(error).partition(";")[0]
            log.warning("%s; continues from the epoch before", what, extra={"run": run.spec.run_id})
            damaged = damaged or error
    if damaged is not None:
        raise damaged
    return None


def continue_shorter(run: Run, store: Store, choices: Choices) -> Run | None:
    """Gives a run that was never started the checkpoints of a run that is its first epochs; returns the latter."""
    if run.last_checkpoint.exists() or run.spec.weights is not None:
        return None
    shorter = store.longest_beginning(run.spec, dataclasses.asdict(choices))
    if shorter is not None:
        try:
            run.begin_with(shorter)
        except (CheckpointError, FileNotFoundError) as error:  # another command may have dropped them
            what = str(error).partition(";")[0]
            log.warning("%s; trains from the start instead", what, extra={"run": run.spec.run_id})
            return None
    return shorter
