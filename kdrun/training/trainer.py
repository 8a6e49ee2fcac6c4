"""The one training loop. It knows batches, objectives and epochs; not which method, model or data it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from kdrun.methods.base import Batch, Method, Objective, TeacherOutput
from kdrun.metrics import num_agreeing, num_correct
from kdrun.seeds import mix, seed_global_generators
from kdrun.training.evaluation import EvalImages, evaluate
from kdrun.training.teacher import TeacherSource

Row = dict[str, Any]


class TrainingViews(Protocol):
    """Augmented batches, a pure function of the epoch; its length is the number of steps of an epoch."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields `x [N, C, H, W]`, labels `[N]`, index `[N]`."""
        ...


class Progress(Protocol):
    """What shows a person how far a run is."""

    def step(self) -> None:
        """One batch has been sent to the device."""
        ...

    def epoch(self, row: Row, images_per_second: float) -> None:
        """An epoch has ended with this row of metrics."""
        ...


class DivergedError(RuntimeError):
    """A mean of an epoch, in training or in the evaluation after it, is not a finite number."""


@dataclass
class Training:
    """Everything that changes while a student is trained, and how to save and restore it.

    Attributes:
        method: owns the student and whatever is learned with it.
        optimizer: over the method's parameters.
        rows: one row of metrics per finished epoch; the row of epoch e is `rows[e - 1]`.
        seconds: spent in training steps, over all the processes that worked on the run.
        images: trained on in that time.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "seconds": self.seconds,
            "images": self.images,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows = list(state["rows"])
        self.seconds = state["seconds"]
        self.images = state["images"]


PERCENT = ("top1", "teacher_top1", "agreement")
"""The training metrics that are shares of the images; the others are the loss and its terms."""


class _Meter:
    """Sums over an epoch, on the device, read once at its end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._images = 0

    @torch.no_grad()
    def add(self, batch: Batch, objective: Objective, teacher: TeacherOutput | None) -> None:
        size = len(batch.y)
        self._images += size
        self._add("loss", objective.loss.detach() * size)
        for name, term in objective.terms.items():
            self._add(name, term.detach() * size)
        self._add("top1", num_correct(objective.logits, batch.y))
        if teacher is not None:
            self._add("teacher_top1", num_correct(teacher.logits, batch.y))
            self._add("agreement", num_agreeing(objective.logits, teacher.logits))

    def _add(self, name: str, value: Tensor) -> None:
        total = self._sums.get(name)
        self._sums[name] = value.float() if total is None else total + value

    def means(self) -> dict[str, float]:
        values = torch.stack(list(self._sums.values())).tolist()  # the epoch's only wait for the device
        scale = {name: 100 if name in PERCENT else 1 for name in self._sums}
        return {name: scale[name] * value / self._images for name, value in zip(self._sums, values, strict=True)}

    @property
    def images(self) -> int:
        return self._images


def fit(
    training: Training,
    views: TrainingViews,
    teacher: TeacherSource | None,
    *,
    splits: Mapping[str, EvalImages],
    learning_rate: Callable[[int], float],
    autocast: AbstractContextManager[None],
    epochs: int,
    stop_epoch: int,
    seed: int,
    progress: Progress,
    on_epoch: Callable[[], None],
) -> None:
    """Trains from the epoch after the last finished one up to `stop_epoch`.

    Args:
        training: fresh, or restored from a checkpoint.
        views: the training data.
        teacher: answers the method's needs; None when it has none.
        splits: what to evaluate on after each epoch, by name (`test`, `val`).
        learning_rate: as a function of the step, counted over the whole run.
        autocast: the context models compute in.
        epochs: length of the whole schedule.
        stop_epoch: epochs to train, at most `epochs`.
        seed: of the run; dropout and a method's draws follow from (seed, epoch, step).
        progress: shown to a person.
        on_epoch: called when an epoch's row has been added to `training.rows`, to save.

    Raises:
        DivergedError: a mean of an epoch (training loss, its terms, evaluation) was not finite; that epoch is not
            saved.
    """
    for epoch in range(len(training.rows), stop_epoch):
        started = time.perf_counter()
        meter = _Meter()
        training.method.train()
        for step, (x, y, index) in enumerate(views.epoch(epoch)):
            position = epoch * len(views) + step
            step_seed = mix(seed, "step", epoch, step)
            seed_global_generators(step_seed, x.device)
            batch = Batch(
                x=x,
                y=y,
                index=index,
                epoch=epoch,
                step=step,
                progress=position / (epochs * len(views)),
                generator=torch.Generator(x.device).manual_seed(step_seed),
            )
            _set_learning_rate(training.optimizer, learning_rate(position))
            meter.add(*_step(training, batch, teacher, autocast))
            progress.step()
        means = meter.means()
        seconds = time.perf_counter() - started
        _check_finite(means, epoch, training.optimizer)
        row: Row = {"epoch": epoch + 1, "lr": training.optimizer.param_groups[0]["lr"], "train": means}
        for name, images in splits.items():
            row[name] = evaluate(training.method.student, images, autocast)
            _check_finite(row[name], epoch, training.optimizer)  # the last step's weights
        training.rows.append(row)
        training.seconds += seconds
        training.images += meter.images
        on_epoch()
        progress.epoch(row, meter.images / seconds)


def _step(
    training: Training, batch: Batch, teacher: TeacherSource | None, autocast: AbstractContextManager[None]
) -> tuple[Batch, Objective, TeacherOutput | None]:
    output = teacher(batch) if teacher is not None else None
    with autocast:
        objective: Objective = training.method(batch, output)
    training.optimizer.zero_grad(set_to_none=True)
    objective.loss.backward()
    training.optimizer.step()
    return batch, objective, output


def _set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _check_finite(means: dict[str, float], epoch: int, optimizer: torch.optim.Optimizer) -> None:
    if all(math.isfinite(value) for value in means.values()):
        return
    terms = ", ".join(f"{name} {value:g}" for name, value in means.items())
    raise DivergedError(
        f"training diverged in epoch {epoch + 1} (learning rate {optimizer.param_groups[0]['lr']:g}): {terms}. "
        f"Try a smaller recipe.lr, or a longer recipe.warmup_epochs."
    )
