"""Attention transfer: spatial attention maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, Pair, StudentOutput, TeacherOutput
from kdrun.methods.pairing import Taps, map_taps, pooled_notice, stage_ends


class AT(Distillation):
    """Attention transfer (Zagoruyko, Komodakis 2017): `hard_weight CE + weight sum over taps of D(Q_s, Q_t)`.

    Q is the map of the mean squared activations, of unit length; D is the mean over the images of
    `||Q_s - Q_t||^2 / HW` as released by the authors, or of `||Q_s - Q_t|| / (2 HW)`, which has the paper's norm.

    Args:
        student: the network.
        pair: outlines of student and teacher.
        weight: of the attention maps, from 0 to 1e9.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        variant: `"released"` (the authors' code and RepDistiller's, squared) or `"paper"` (equation 2, not squared).
        student_taps: its feature maps, of two positions at least; None is where its stages end (see `stage_ends`), or
            the namesakes of `teacher_taps`.
        teacher_taps: their counterparts; None likewise.
    """

    name = "at"
    label = "AT"
    knowledge = "feature"
    needs = Needs(logits=True, any_task=True)
    label_kind = "mixed"
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        *,
        weight: float = 1000.0,
        hard_weight: float = 1.0,
        variant: str = "released",
        student_taps: tuple[str, ...] | None = None,
        teacher_taps: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        losses.check_choice("variant", variant, losses.AT_VARIANTS)
        self.variant = variant
        self.taps, self.teacher_taps = map_taps(pair, student_taps, teacher_taps, lambda pair: stage_ends(pair, 2))
        _check_positions(pair, self.taps, self.teacher_taps)
        self.notices = pooled_notice(pair, self.taps, self.teacher_taps)
        self._ask_features(*self.teacher_taps)

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        terms = [
            losses.attention_transfer_loss(student.features[ours], teacher.features[theirs], variant=self.variant)
            for ours, theirs in zip(self.taps, self.teacher_taps, strict=True)
        ]
        return torch.stack(terms).sum()


def _check_positions(pair: Pair, student_taps: Taps, teacher_taps: Taps) -> None:
    """Raises `ValueError` for maps that are compared at one position: there any attention is 1."""
    for ours, theirs in zip(student_taps, teacher_taps, strict=True):
        sizes = zip(pair.student.shape(ours)[1:], pair.teacher.shape(theirs)[1:], strict=True)
        if all(min(size) == 1 for size in sizes):
            raise ValueError(
                f"student_taps={list(student_taps)}: {ours!r} and the teacher's {theirs!r} are compared at 1 x 1 "
                "positions, where all attention maps are equal: the loss is constant; must be larger maps"
            )
