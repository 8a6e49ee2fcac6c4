"""The first of two stages: options shared by the methods that have one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from kdrun.limits import MOST_EPOCHS
from kdrun.losses import check_range

STAGE1_OPTIONS = ("stage1_lr", "stage1_milestones", "stage1_gamma")
"""A method's options for the schedule of its first stage."""


def stage1_recipe(epochs: int, lr: float, milestones: tuple[float, ...], gamma: float) -> Mapping[str, Any]:
    """The fields of the recipe that a first stage changes, from the method's options `stage1_*`.

    Args:
        epochs: from 0 to `MOST_EPOCHS`.
        lr: more than 0; scaled by the batch size as the recipe's.
        milestones: increasing shares of the stage, in (0, 1).
        gamma: in (0, 1].

    Raises:
        ValueError: a value outside these ranges.
    """
    check_range("stage1_epochs", epochs, 0, MOST_EPOCHS)
    check_range("stage1_lr", lr, 0, open_low=True)
    check_range("stage1_gamma", gamma, 0, 1, open_low=True)
    if not all(low < high for low, high in itertools.pairwise((0.0, *milestones, 1.0))):
        raise ValueError(f"stage1_milestones={list(milestones)}: must be increasing shares of the stage, in (0, 1)")
    return {"lr": lr, "milestones": milestones, "gamma": gamma}
