"""The one training loop. It knows batches, objectives and epochs; not which method, model or data it runs.

It trains any number of students in lockstep: each batch of views is made once, the teacher answers it once, and every
student takes its step on it in turn. What a student computes does not depend on who else is there, so one alone and
one of many end with the same bits.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdrun import stopping
from kdrun.distributed import Part
from kdrun.methods.base import Batch, Method, TeacherOutput
from kdrun.mixed import Mixed
from kdrun.seeds import mix, seed_global_generators
from kdrun.training.averaging import averaged
from kdrun.training.evaluation import EvalImages, evaluate
from kdrun.training.guarded import GuardedStep
from kdrun.training.precision import synchronize
from kdrun.training.step import Step
from kdrun.training.teacher import TeacherSource

Row = dict[str, Any]

Metrics = dict[str, dict[str, float]]
"""Values by split and name."""

Timing = tuple[float, int]
"""Seconds, and the images (or tokens) that were computed in them."""


class TrainingViews(Protocol):
    """Augmented batches, a pure function of the epoch; its length is the number of steps of an epoch.

    Attributes:
        num_views: of each image in a batch.
    """

    num_views: int

    def __len__(self) -> int: ...

    def part(self, step: int) -> Part | None:
        """The part of the batch of a step (from 0) that this rank computes; None where it computes all of it."""
        ...

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Mixed | None]]:
        """Yields `x [N, C, H, W]`, labels `[N]`, index `[N]`, and the second labels where images are mixed.

        Of a batch that is divided over the ranks they are the rows of this rank's part.
        """
        ...


class DivergedError(RuntimeError):
    """A mean of an epoch, in training or in the evaluation after it, is not a finite number."""


@dataclass
class Timings:
    """What was measured in this process, epoch by epoch.

    Attributes:
        steps: the student's training steps, without views and teacher; nothing where they cannot be separated.
        evaluations: of the student, on examples.
    """

    steps: list[Timing] = field(default_factory=list)
    evaluations: list[Timing] = field(default_factory=list)


@dataclass
class Training:
    """The state of a training, which can be saved and restored.

    Attributes:
        method: owns the student and whatever is learned with it.
        optimizer: over the parameters that the method's stage trains.
        rows: one row of metrics per finished epoch; the row of epoch e is `rows[e - 1]`.
        seconds: spent in training steps, over all the processes that worked on the run.
        images: trained on in that time.
        timings: of this process alone; not saved.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0
    timings: Timings = field(default_factory=Timings)

    @property
    def has_shares(self) -> bool | None:
        """Whether shares of the gradient are measured in the stage under way; None before its first epoch has ended."""
        rows = [row for row in self.rows if row.get("stage", 1) == self.method.stage + 1]
        return "shares" in rows[-1] if rows else None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "method": self.method.state_dict(),
            "stage": self.method.stage,
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "seconds": self.seconds,
            "images": self.images,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` returned; the optimiser is to be that of the state's stage."""
        assert state["stage"] == self.method.stage, "stage and optimiser come first"
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows = list(state["rows"])
        self.seconds = state["seconds"]
        self.images = state["images"]


@dataclass(frozen=True)
class Stage:
    """A part of a run with its optimiser and schedule. Most methods have one, some have two.

    Attributes:
        first_epoch: of the run, from 0.
        epochs: length of its schedule.
        learning_rate: as a function of the step, counted from the stage's beginning.
        label_smoothing: of the hard term.
    """

    first_epoch: int
    epochs: int
    learning_rate: Callable[[int], float]
    label_smoothing: float = 0.0


class Owner(Protocol):
    """Records a member's failure, which ends this member alone."""

    @property
    def failed(self) -> bool: ...

    def isolated_failure(self) -> AbstractContextManager[None]:
        """A context whose exceptions fail the member instead of being raised."""
        ...


@dataclass
class Member:
    """One of the students that are trained in lockstep.

    Attributes:
        training: fresh, or restored from a checkpoint.
        step: computes one training step of its stage.
        stages: of its method, one or two.
        begin_stage2: prepares `training` for the second stage, and returns what computes its steps.
        autocast: the context in which it is evaluated.
        owner: records its failure.
        splits: what to evaluate on after each epoch, by name (`test`, `val`).
        stop_epoch: epochs to train, at most those of all stages.
        on_epoch: called with images per second when an epoch's row has been added to `training.rows`, to save.
        evaluates: whether an epoch (from 1) that is not the last one is evaluated.
        busy_seconds: spent in its own steps of the epoch.
    """

    training: Training
    step: Step | GuardedStep
    stages: Sequence[Stage]
    begin_stage2: Callable[[], Step | GuardedStep]
    autocast: AbstractContextManager[None]
    owner: Owner
    splits: Mapping[str, EvalImages]
    stop_epoch: int
    on_epoch: Callable[[float], None]
    evaluates: Callable[[int], bool] = lambda epoch: True
    busy_seconds: float = 0.0

    def is_due(self, epoch: int) -> bool:
        """Whether this epoch (from 0) is the next one to train."""
        return not self.owner.failed and len(self.training.rows) == epoch < self.stop_epoch

    @property
    def stage(self) -> Stage:
        """The stage that is under way."""
        return self.stages[self.training.method.stage]

    def begin_epoch(self, epoch: int) -> None:
        """Gets ready for an epoch (from 0); the second stage begins with its first one."""
        if epoch == self.stages[-1].first_epoch and self.training.method.stage < len(self.stages) - 1:
            self.step = self.begin_stage2()
        self.training.method.train()
        self.busy_seconds = 0.0

    def take_step(self, batch: Batch, teacher: TeacherOutput | None, *, seed: int, steps: int) -> None:
        """One step of `steps` in an epoch; `seed` is that of the global generators and of the batch's."""
        begun = time.perf_counter()
        seed_global_generators(seed, batch.x.device)
        batch.generator.manual_seed(seed)
        position = (batch.epoch - self.stage.first_epoch) * steps + batch.step
        own = dataclasses.replace(
            batch, progress=position / (self.stage.epochs * steps), label_smoothing=self.stage.label_smoothing
        )
        self.step.set_lr(self.stage.learning_rate(position))
        self.step(own, teacher if self.training.method.asks else None, first=batch.step == 0)
        self.busy_seconds += time.perf_counter() - begun

    def end_epoch(self, epoch: int, steps: int, seconds: float, own_seconds: float | None) -> None:
        """Adds the epoch's row, with the evaluation if it is due, and calls `on_epoch`.

        Args:
            epoch: that has ended, from 0.
            steps: it had.
            seconds: it took.
            own_seconds: those of its own steps, where they were measured.

        Raises:
            DivergedError: a mean (training loss, its terms, evaluation) is not finite; nothing is added or saved.
        """
        method = self.training.method
        lr = self.stage.learning_rate((epoch + 1 - self.stage.first_epoch) * steps - 1)
        trained = self.step.end_epoch()
        bad_step = trained.first_bad_step
        _check_finite(trained.means, lr, f"epoch {epoch + 1}" + (f", step {bad_step}" if bad_step else ""))
        due = epoch + 1 == self.stop_epoch or self.evaluates(epoch + 1)
        evaluated, peers = self._evaluate_all() if due else ({}, {})
        method.delivered()  # a generated student is saved as the weights themselves make it
        _check_finite(trained.shares, lr, f"the gradient of epoch {epoch + 1}, step 1")
        row: Row = {"epoch": epoch + 1, "lr": lr, "train": trained.means, **evaluated}
        if trained.shares:
            row["shares"] = trained.shares
        if len(self.stages) > 1:
            row["stage"] = method.stage + 1
        if peers:
            row["peers"] = peers
        for metrics in (evaluated, *peers.values()):
            for values in metrics.values():  # the last step's weights are the first that are evaluated
                _check_finite(values, lr, f"the last step of epoch {epoch + 1}")
        self.training.rows.append(row)
        self.training.seconds += seconds
        self.training.images += trained.images
        if own_seconds is not None:
            self.training.timings.steps.append((own_seconds, trained.images))
        self.on_epoch(trained.images / seconds)

    def _evaluate_all(self) -> tuple[Metrics, dict[str, Metrics]]:
        """The metrics of the student, and of its peers by name; all with averaged weights where an average is kept."""
        method = self.training.method
        with averaged(method):
            started = time.perf_counter()
            evaluated = self._evaluated(method.delivered())
            examples = sum(len(split) for split in self.splits.values())
            self.training.timings.evaluations.append((time.perf_counter() - started, examples))
            return evaluated, {name: self._evaluated(peer) for name, peer in method.peers().items()}

    def _evaluated(self, network: nn.Module) -> Metrics:
        """A network's metrics by split."""
        return {name: evaluate(network, split, self.autocast, divided=True) for name, split in self.splits.items()}


def fit(
    members: Sequence[Member],
    views: TrainingViews,
    teacher: TeacherSource | None,
    *,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Trains each member from the epoch after its last finished one up to its `stop_epoch`.

    A member that fails is removed, and the others continue. A failure of the views or the teacher is raised.

    Args:
        members: the students. A member's time is that of its steps and an even share of the rest: views, teacher, and
            waiting for the device.
        views: the training data.
        teacher: answers the methods' needs; None when they have none.
        seed: of the runs; dropout and a method's draws follow from (seed, epoch, step).
        on_step: called when the members have taken a step, to show progress.
    """
    with stopping.deferred():
        for epoch in range(max((member.stop_epoch for member in members), default=0)):
            due = [member for member in members if member.is_due(epoch)]
            if not due:
                continue
            started = time.perf_counter()
            for member in due:
                with member.owner.isolated_failure():
                    member.begin_epoch(epoch)
            source = teacher if any(member.training.method.asks for member in due) else None
            for step, (x, y, index, mixed) in enumerate(views.epoch(epoch)):
                generator = torch.Generator(x.device)
                batch = Batch(
                    *(x, y, index, epoch, step),
                    progress=0.0,
                    generator=generator,
                    views=views.num_views,
                    mixed=mixed,
                    divided=views.part(step),
                )
                output = source(batch) if source is not None else None
                step_seed = mix(seed, "step", epoch, step)
                for member in due:
                    if not member.owner.failed:
                        with member.owner.isolated_failure():
                            member.take_step(batch, output, seed=step_seed, steps=len(views))
                on_step()
                stopping.check()
            if source is not None:
                source.end_epoch()
            synchronize(x.device)
            shared = (time.perf_counter() - started - sum(member.busy_seconds for member in due)) / len(due)
            is_alone = len(due) == 1 and source is None
            for member in due:
                if not member.owner.failed:
                    whole = member.busy_seconds + shared
                    # Devices other than the CPU compute on: there only the whole epoch's time is known.
                    own = member.busy_seconds if x.device.type == "cpu" else whole if is_alone else None
                    with member.owner.isolated_failure():
                        member.end_epoch(epoch, len(views), whole, own)


def _check_finite(means: dict[str, float], lr: float, where: str) -> None:
    if all(math.isfinite(value) for value in means.values()):
        return
    terms = ", ".join(f"{name} {value:g}" for name, value in means.items())
    raise DivergedError(f"training diverged in {where} (learning rate {lr:g}): {terms}")
