"""FSP: the flow of the solution procedure, from one layer to a later one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, Objective, Pair, StudentOutput, TeacherOutput
from kdrun.methods.pairing import map_taps, stage_ends
from kdrun.methods.stages import STAGE1_OPTIONS, stage1_recipe


class FSP(Distillation):
    """A gift from KD (Yim et al. 2017): `L_FSP = weight * sum over pairs of ||G_t - G_s||_F^2`, the mean over images.

    Two stages, the paper's (algorithm 1): first L_FSP alone, then `hard_weight CE` alone. One stage
    (`stage1_epochs=0`): `hard_weight CE + L_FSP`.

    Args:
        student: the network.
        pair: outlines of student and teacher.
        stage1_epochs: length of the first stage; 0 is the one-stage form.
        stage1_lr: learning rate of the first stage, more than 0.
        stage1_milestones: increasing shares of the first stage, in (0, 1).
        stage1_gamma: factor at each of them, in (0, 1].
        weight: lambda, the same for all pairs, from 0 to 1e9; the paper does not give its value.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        pooling: of the larger map of a pair: `"max"` (the paper) or `"average"` (RepDistiller).
        reduction: `"sum"` of the squares (the paper) or `"mean"`, divided by the size of G (RepDistiller).
        adapt: learns a 1x1 convolution for each of the student's maps that has other channels than the teacher's.
        shuffle_teacher: seed of a fixed permutation of the teacher's channels at each tap; None is none.
        student_taps: feature maps, two by two: first and last layer of a pair, first and last of the next. None is
            from the stem to the first stage's end, from there to the next one's (see `stage_ends`); or the namesakes
            of `teacher_taps`.
        teacher_taps: their counterparts; None likewise.
    """

    name = "fsp"
    label = "FSP"
    knowledge = "feature"
    needs = Needs(logits=True, any_task=True)
    label_kind = "mixed"
    of_two_stages = STAGE1_OPTIONS
    alone = (*Distillation.alone, "stage1_epochs", *of_two_stages)
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        *,
        stage1_epochs: int = 0,
        stage1_lr: float = 1e-3,
        stage1_milestones: tuple[float, ...] = (0.5, 0.75),
        stage1_gamma: float = 0.1,
        weight: float = 1e-3,
        hard_weight: float = 1.0,
        pooling: str = "max",
        reduction: str = "sum",
        adapt: bool = False,
        shuffle_teacher: int | None = None,
        student_taps: tuple[str, ...] | None = None,
        teacher_taps: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        self._stage1_recipe = stage1_recipe(stage1_epochs, stage1_lr, stage1_milestones, stage1_gamma)
        self.stage1_epochs = stage1_epochs
        losses.check_choice("pooling", pooling, losses.POOLINGS)
        losses.check_choice("reduction", reduction, losses.FSP_REDUCTIONS)
        self.pooling = pooling
        self.reduction = reduction
        ours, theirs = map_taps(pair, student_taps, teacher_taps, _flow)
        if len(ours) % 2:
            raise ValueError(f"student_taps={list(ours)}: must be first and last layers, an even number of taps")
        self._ends = list(zip(ours, theirs, strict=True))
        self.taps = tuple(dict.fromkeys(ours))
        self._ask_features(*theirs)
        self.adapters = _adapters(pair, self._ends, adapt)
        self._teacher_taps = list(dict.fromkeys(theirs))
        self.shuffled = shuffle_teacher is not None
        if shuffle_teacher is not None:
            losses.check_range("shuffle_teacher", shuffle_teacher, 0)
            generator = torch.Generator().manual_seed(shuffle_teacher)
            for number, tap in enumerate(self._teacher_taps):
                order = torch.randperm(pair.teacher.shape(tap)[0], generator=generator)
                self.register_buffer(f"order{number}", order, persistent=False)

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        if not self.stage1_epochs:
            return super().objective(student, batch, teacher)
        if self.stage == 0:
            assert teacher is not None, "needs was not met"
            fsp = self.distill(student, batch, teacher)
            return Objective.of(student.logits, {"fsp": fsp}, {"fsp": self.weight})
        ce = batch.cross_entropy(student.logits)
        return Objective.of(student.logits, {"ce": ce}, {"ce": self.hard_weight})

    @property
    def asks(self) -> bool:
        return not (self.stage1_epochs and self.stage == 1)  # the second stage is the labels' alone

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        couples = dict.fromkeys(self._ends)
        adapted = [adapter(student.features[ours]) for (ours, _), adapter in zip(couples, self.adapters, strict=True)]
        maps = dict(zip(couples, adapted, strict=True))
        terms = []
        for first, last in zip(self._ends[::2], self._ends[1::2], strict=True):
            ours = losses.fsp_matrix(maps[first], maps[last], pooling=self.pooling)
            theirs = losses.fsp_matrix(teacher.features[first[1]], teacher.features[last[1]], pooling=self.pooling)
            if self.shuffled:  # of the channels, so of the rows and columns
                theirs = theirs[:, self._order(first[1])][:, :, self._order(last[1])]
            terms.append(losses.fsp_loss(ours, theirs, reduction=self.reduction))
        return torch.stack(terms).sum()

    def _order(self, tap: str) -> Tensor:
        """The permutation of the teacher's channels at a tap."""
        return self.get_buffer(f"order{self._teacher_taps.index(tap)}")

    def stage1_recipe(self) -> Mapping[str, Any]:
        return self._stage1_recipe


def _flow(pair: Pair) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First and last layer of each pair: from the first feature map to the first stage's end, and on from there.

    Where one network's first map ends a stage, the other's is left out, too.

    Raises:
        ValueError: a network without feature maps, or with one alone.
    """
    ends = stage_ends(pair)
    first = (pair.student.first_map, pair.teacher.first_map)
    has_stem = all(tap is not None and tap != taps[0] for tap, taps in zip(first, ends, strict=True))
    chains = [(tap, *taps) if has_stem else taps for tap, taps in zip(first, ends, strict=True)]
    for role, network, chain in zip(("student", "teacher"), (pair.student, pair.teacher), chains, strict=True):
        if len(chain) < 2:
            raise ValueError(f"{role}={network.name}: has one feature map [C, H, W] alone; the flow needs two")
    ours, theirs = (tuple(str(tap) for ends in itertools.pairwise(chain) for tap in ends) for chain in chains)
    return ours, theirs


def _adapters(pair: Pair, ends: Sequence[tuple[str, str]], adapt: bool) -> nn.ModuleList:
    """What the student's maps go through, one for each couple of a student's and a teacher's tap, in order."""
    adapters = nn.ModuleList()
    differing = []
    for ours, theirs in dict.fromkeys(ends):
        here, there = pair.student.shape(ours)[0], pair.teacher.shape(theirs)[0]
        adapters.append(nn.Identity() if here == there else nn.Conv2d(here, there, kernel_size=1))
        if here != there:
            differing.append(f"{ours} has {here}, the teacher's {theirs} {there}")
    if differing and not adapt:
        raise ValueError(
            f"adapt=False: the student's maps must have the teacher's channels ({'; '.join(differing)}); "
            f"adapt=true learns a 1x1 convolution on each that has not"
        )
    return adapters
