"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_norm_and_bias: bool = True,
) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW.

    Args:
        name: `sgd`, `adam` or `adamw`; the last two take `momentum` as their beta1, beta2 is 0.999.
        parameters: what to train.
        lr: learning rate of the first step.
        momentum: in [0, 1).
        nesterov: SGD only.
        weight_decay: L2 penalty that is added to the gradient, in Adam too; in AdamW `lr * weight_decay * weight` is
            taken from the weight instead (Loshchilov and Hutter 2019).
        decay_norm_and_bias: whether parameters of one dimension, biases and those of BatchNorm and LayerNorm, decay
            like the others, as in the Tf-KD code; or not at all (timm's rule).
    """
    trained = list(parameters)
    groups: list[dict[str, Any]] = [{"params": trained}]
    if not decay_norm_and_bias:
        matrices, vectors = ([each for each in trained if (each.ndim > 1) is is_matrix] for is_matrix in (True, False))
        both = ({"params": matrices}, {"params": vectors, "weight_decay": 0.0})
        groups = [group for group in both if group["params"]]
    fused = trained[0].device.type in ("cpu", "cuda")
    common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "fused": fused}
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, **common)
    kind: type[torch.optim.Adam] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(groups, betas=(momentum, 0.999), **common)


def bound_norms(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """After each step of the optimiser, scales down the units whose incoming weights are longer than `max_norm` (L2).

    Of a matrix those are its rows, of a convolution its filters; the output layer's too, biases and BatchNorm not
    (Hinton et al. 2012, Srivastava et al. 2014: the max-norm constraint that goes with dropout).
    """

    @torch.no_grad()
    def bound(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.ndim >= 2:
                    norms = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
                    weight.mul_((max_norm / norms).clamp(max=1.0))  # of a norm of 0 that is 1

    optimizer.register_step_post_hook(bound)


def clip_gradients(optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    """Before each step of the optimiser, scales the gradients down to a norm (L2, over all of them) of `clip_norm`."""

    def clip(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip_norm)

    optimizer.register_step_pre_hook(clip)


Schedule = Callable[[int], float]
"""The learning rate as a function of the step, from 0."""


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up, then half a cosine down to `min_lr` at the end (Loshchilov and Hutter 2017, without restarts).

    Attributes:
        lr: the highest learning rate, at the end of the warm-up.
        total_steps: steps of the whole schedule, whether or not a run stops earlier.
        warmup_steps: step i of the warm-up (from 0) has `lr * (i + 1) / warmup_steps`.
        min_lr: the lowest learning rate after the warm-up, at the end.
    """

    lr: float
    total_steps: int
    warmup_steps: int = 0
    min_lr: float = 0.0

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        passed = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * passed))


@dataclass(frozen=True)
class MultiStepSchedule:
    """Learning rate as a function of the step: linear warm-up, then a factor `gamma` at each milestone.

    Attributes:
        lr: learning rate between warm-up and the first milestone.
        total_steps: steps of the whole schedule, whether or not a run stops earlier.
        warmup_steps: step i of the warm-up (from 0) has `lr * (i + 1) / warmup_steps`.
        milestones: increasing shares of `total_steps`, in (0, 1).
        gamma: factor at each milestone.
    """

    lr: float
    total_steps: int
    warmup_steps: int = 0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.2

    def __call__(self, step: int) -> float:
        passed = sum(step >= round(share * self.total_steps) for share in self.milestones)
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.lr * self.gamma**passed * warmup
