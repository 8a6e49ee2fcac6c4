"""Steps of a run on several ranks, which are those of one process on the whole batch, up to rounding.

Each rank calls `fit` with its own views, which yield the rank's part of each batch (`kdrun.distributed.Part`), a
teacher that answers them, and members that differ in nothing but what `on_epoch` does: only rank 0's writes files.
`distribute` prepares a method once it is built, before its optimiser and its `DistributedStep` are made. After each
step all ranks have the same weights and buffers, after each epoch the same row.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from kdrun.distributed import Part, computing, drawn_for_all, no_other_draws, num_ranks, rank, summed
from kdrun.methods.base import Batch, Method, Objective, StudentOutput, TeacherOutput
from kdrun.mixed import Mixed
from kdrun.seeds import global_generators
from kdrun.training.batch_norm import OF_THE_WHOLE_BATCH, globalize
from kdrun.training.step import EpochMeans, Meter, Step


def distribute(method: Method, *, per_rank: bool = False) -> None:
    """Prepares a method for batches that are divided over the ranks: in place, its state dict stays what it is.

    A rank's masks of dropout modules become its rows of the whole batch's, the statistics of BatchNorm the whole
    batch's.

    Args:
        method: with all its networks.
        per_rank: leaves BatchNorm as it is: in training with the statistics of a rank's part, in evaluation and in
            checkpoints with rank 0's running ones.

    Raises:
        ValueError: a BatchNorm that is not torch's own, or a method that needs the whole batch and has a `forward` of
            its own.
    """
    if method.whole_batch and type(method).forward is not Method.forward:
        raise ValueError(
            f"method={method.name}: needs the whole batch and has a forward of its own, which several ranks cannot "
            "divide; must have ask and objective instead"
        )
    device = next(method.parameters()).device
    for path, module in method.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            module.forward = functools.partial(drawn_for_all, module.forward)
        if isinstance(module, _BatchNorm) and not per_rank:
            globalize(module, path, device)


class DistributedStep(Step):
    """Steps of one student on several ranks, one operation after the other: none is compiled or captured here.

    The gradients are averaged over the ranks by DistributedDataParallel, except in the first step of an epoch: that
    shows which parameters have no part in the loss. It is made anew then: how it groups gradients decides the last bits
    of sums over three ranks or more, which so are the same in a run that was resumed.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        autocast: AbstractContextManager[None],
        *,
        micro_batch: int | None = None,
        has_shares: bool | None = None,
    ) -> None:
        super().__init__(method, optimizer, autocast, micro_batch=micro_batch, has_shares=has_shares)
        self._meter = _GlobalMeter()
        self._divided = _DividedMethod(method)
        self._averaged: nn.Module = self._divided

    def __call__(self, batch: Batch, teacher: TeacherOutput | None, *, first: bool) -> None:
        """Moves the weights of all ranks by one step of the optimiser; see `Step`."""
        assert self._micro_batch is None or _num_images(batch) <= self._micro_batch, "refused in preflight"
        network = self._divided if first else self._averaged
        self.method.zero_grad()  # the gradients of an earlier stage, too
        with self._autocast, computing(batch.divided):
            loss = network(batch, teacher, is_checked=first)
        objective, seen, answer = self._divided.pop()
        with computing(batch.divided):  # a network may compute again in the backward pass (torch.utils.checkpoint)
            if first:
                weight = 1.0 if seen.divided is None else seen.divided.weight
                self._measure_shares(objective, functools.partial(_averaged, weight=weight))
            loss.backward()
        if first:
            self._average()
        self.optimizer.step()
        self._meter.begin_step(loss.device)
        # A batch that is not divided is the same on all ranks.
        self._meter.add(seen, objective, answer, share=1 if seen.divided is not None or rank() == 0 else 0)

    def _average(self) -> None:
        """Averages the gradients of a step, and prepares that of the steps to come."""
        trained = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        for gradient, mean in zip(gradients, _averaged(gradients), strict=True):
            gradient.copy_(mean)
        with warnings.catch_warnings():  # the option that is to replace broadcast_buffers is not in torch 2.10
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            self._averaged = DistributedDataParallel(
                self._divided,
                broadcast_buffers=False,
                find_unused_parameters=len(gradients) < len(trained),
                gradient_as_bucket_view=True,
                init_sync=False,
            )

    def end_epoch(self) -> EpochMeans:
        """The means of the epoch over all ranks; where BatchNorm's statistics differ, all buffers become rank 0's."""
        self._averaged = self._divided
        norms = [module for module in self.method.modules() if isinstance(module, _BatchNorm)]
        if not all(isinstance(module, OF_THE_WHOLE_BATCH) for module in norms):
            for buffer in self.method.buffers():  # the average of the weights has them, too
                distributed.broadcast(buffer, src=0)
        return super().end_epoch()


def _num_images(batch: Batch) -> int:
    """The number of images of a batch, on all ranks."""
    return len(batch.index) // batch.views if batch.divided is None else batch.divided.total


def _averaged(gradients: list[Tensor], *, weight: float = 1.0) -> list[Tensor]:
    """The means over the ranks."""
    flat = torch.cat([gradient.flatten() for gradient in gradients]) * weight
    means = summed(flat).div_(num_ranks()).split([gradient.numel() for gradient in gradients])
    return [mean.view(gradient.shape) for mean, gradient in zip(means, gradients, strict=True)]


class _DividedMethod(nn.Module):
    """A method's loss on a rank's part of a batch: the mean of its gradients over the ranks is the whole batch's."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self._found: tuple[Objective, Batch, TeacherOutput | None] | None = None

    def forward(self, batch: Batch, teacher: TeacherOutput | None, *, is_checked: bool) -> Tensor:
        """The loss; `pop` has what it is of. With `is_checked` draws that are not the whole batch's are refused."""
        method, part = self.method, batch.divided
        generators = [*global_generators(batch.x.device), batch.generator] if is_checked and part is not None else []
        if part is None or not method.whole_batch:
            with no_other_draws(*generators):
                objective: Objective = method(batch, teacher)
            self._found = objective, batch, teacher
            loss: Tensor = objective.loss
            return loss if part is None else part.weight * loss
        with no_other_draws(*generators):
            student = method.ask(batch, teacher)
        whole = StudentOutput(_gathered(student.logits, part), _all_gathered(student.features, part))
        seen, answer = _WholeBatch.of(batch, part), None if teacher is None else _whole_answer(teacher, part)
        with computing(None):
            objective = method.objective(whole, seen, answer)
        self._found = objective, seen, answer
        return objective.loss

    def pop(self) -> tuple[Objective, Batch, TeacherOutput | None]:
        """The objective of the last loss, and the batch and the teacher's output that it is of."""
        assert self._found is not None
        found, self._found = self._found, None
        return found


class _WholeBatch(Batch):
    """A divided batch with the rows of all ranks. Its x is gathered where it is used, which few objectives do."""

    _own: Tensor
    _part: Part

    @functools.cached_property
    def x(self) -> Tensor:
        return _gathered(self._own, self._part)

    @classmethod
    def of(cls, batch: Batch, part: Part) -> _WholeBatch:
        whole = object.__new__(cls)
        fields = {**vars(batch), "_own": batch.x, "_part": part, "divided": None}
        fields["y"], fields["index"] = _gathered(batch.y, part), _gathered(batch.index, part)
        if batch.mixed is not None:
            fields["mixed"] = Mixed(*(_gathered(tensor, part) for tensor in batch.mixed))
        del fields["x"]
        vars(whole).update(fields)
        return whole


def _whole_answer(teacher: TeacherOutput, part: Part) -> TeacherOutput:
    """The teacher's output for the rows of all ranks."""
    members = teacher.members
    return dataclasses.replace(
        teacher,
        logits=_gathered(teacher.logits, part),
        features=_all_gathered(teacher.features, part),
        members=None if members is None else _gathered(members.transpose(0, 1), part).transpose(0, 1),
    )


def _all_gathered(features: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    return {tap: _gathered(feature, part) for tap, feature in features.items()}


def _gathered(own: Tensor, part: Part) -> Tensor:
    """The rows of all ranks, in the order of the whole batch."""
    whole: Tensor = _Gathered.apply(own, part)
    return whole


class _Gathered(torch.autograd.Function):
    """Gathers rows, for a loss that every rank computes.

    So the gradient of a rank's own rows is whole, and each rank is alone with it: times W, since the mean over the W
    ranks divides by it.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return summed(part.placed(own))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        own: Tensor = ctx.part.cut(gradients[0]) * num_ranks()
        return own, None


class _GlobalMeter(Meter):
    """Sums over all ranks."""

    def _totals(self, counters: Sequence[Tensor]) -> Sequence[Tensor]:
        images, steps, _, *sums = summed(torch.stack(list(counters)).double()).unbind()
        ends = torch.where(counters[2] == 0, torch.inf, counters[2])
        distributed.all_reduce(ends, distributed.ReduceOp.MIN)
        return [images, steps, torch.where(ends.isinf(), 0.0, ends).double(), *sums]
