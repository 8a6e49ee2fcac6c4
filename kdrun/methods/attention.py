"""Attention transfer: where a network looks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, Pair, StudentOutput, TeacherOutput
from kdrun.methods.pairing import map_taps


class AT(Distillation):
    """Attention transfer (Zagoruyko, Komodakis 2017): `hard_weight CE + weight sum over taps of mean (Q_s - Q_t)^2`.

    Q is the map of the mean squared activations, of unit length; in the form of RepDistiller.

    Args:
        student: the network.
        pair: outlines of student and teacher.
        weight: of the attention maps, at least 0.
        hard_weight: of the cross-entropy, at least 0.
        student_taps: its feature maps; None is where its stages end, counted from the end,
            or the namesakes of `teacher_taps`.
        teacher_taps: their counterparts; None likewise.
    """

    name = "at"
    knowledge = "feature"
    needs = Needs(logits=True, any_task=True)

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        *,
        weight: float = 1000.0,
        hard_weight: float = 1.0,
        student_taps: tuple[str, ...] | None = None,
        teacher_taps: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(student)
        losses.check_range("weight", weight, 0)
        losses.check_range("hard_weight", hard_weight, 0)
        self.weight = weight
        self.hard_weight = hard_weight
        self.taps, self.teacher_taps = map_taps(pair, student_taps, teacher_taps)
        self._ask_features(*self.teacher_taps)

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Tensor:
        assert teacher is not None, "needs was not met"
        terms = [
            losses.attention_transfer_loss(student.features[ours], teacher.features[theirs])
            for ours, theirs in zip(self.taps, self.teacher_taps, strict=True)
        ]
        return torch.stack(terms).sum()
