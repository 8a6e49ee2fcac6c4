"""From a recipe to the stages of a training, each with an optimiser and a schedule."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from kdrun.methods import Method
from kdrun.spec.spec import Recipe
from kdrun.training.averaging import average_weights
from kdrun.training.optimisation import (
    CosineSchedule,
    MultiStepSchedule,
    Schedule,
    bound_norms,
    build_optimizer,
    clip_gradients,
)
from kdrun.training.trainer import Stage


def stage_recipes(recipe: Recipe, method: Method) -> list[Recipe]:
    """The recipes of a method's stages, one or two: the last is the run's own.

    Raises:
        ValueError: the first stage does not fit the run's recipe.
    """
    if not method.stage1_epochs:
        return [recipe]
    own = method.stage1_recipe()
    changes: dict[str, Any] = {"warmup_epochs": min(recipe.warmup_epochs, method.stage1_epochs)}
    if "lr" in own:
        changes["min_lr"] = 0.0  # the recipe's belongs to the recipe's lr
    changes |= {**own, "epochs": method.stage1_epochs}
    return [dataclasses.replace(recipe, **changes), recipe]


def build_stages(recipes: Sequence[Recipe], steps_per_epoch: int) -> list[Stage]:
    """The stages of a training, from those of `stage_recipes`."""
    first_epochs = itertools.accumulate((recipe.epochs for recipe in recipes[:-1]), initial=0)
    return [
        Stage(first_epoch, recipe.epochs, schedule_for(recipe, steps_per_epoch), recipe.label_smoothing)
        for first_epoch, recipe in zip(first_epochs, recipes, strict=True)
    ]


def schedule_for(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The learning rate as a function of the step."""
    total, warmup = recipe.epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule == "cosine":
        return CosineSchedule(recipe.scaled_lr, total, warmup, recipe.min_lr)
    return MultiStepSchedule(recipe.scaled_lr, total, warmup, recipe.milestones, recipe.gamma)


def begin_stage(recipe: Recipe, method: Method) -> torch.optim.Optimizer:
    """The optimiser of a method's stage, which also averages its weights where the recipe has it."""
    optimizer = optimizer_for(recipe, method.trained())
    if recipe.ema_decay is not None:
        average_weights(method, optimizer, recipe.ema_decay)
    return optimizer


def optimizer_for(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser over parameters; its learning rate is set at each step."""
    optimizer = build_optimizer(
        recipe.optimizer,
        parameters,
        lr=recipe.scaled_lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        decay_norm_and_bias=recipe.decay_norm_and_bias,
    )
    if recipe.clip_norm is not None:
        clip_gradients(optimizer, recipe.clip_norm)
    if recipe.max_norm is not None:
        bound_norms(optimizer, recipe.max_norm)
    return optimizer
