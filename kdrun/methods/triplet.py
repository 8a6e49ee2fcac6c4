"""A triplet loss between the teacher's and the student's outputs."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, StudentOutput, TeacherOutput


class Triplet(Distillation):
    """Triplet loss for distillation (Oki et al. 2020): `hard_weight CE + weight (KL + triplet_weight * triplet)`.

    The KL is at T=1; anchor, positive and negative of the triplet are in `kdrun.losses.triplet_loss`. The negative is
    drawn anew in each batch.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        triplet_weight: of the triplet loss beside the KL, from 0 to 1e9.
        margin: required difference of the negative's and the positive's distance, from 0 to 1e9.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        weight: of KL and triplet loss together, from 0 to 1e9.
    """

    name = "triplet"

    def __init__(
        self,
        student: nn.Module,
        *,
        triplet_weight: float = 2.0,
        margin: float = 5.0,
        hard_weight: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        losses.check_weight("triplet_weight", triplet_weight)
        losses.check_weight("margin", margin)
        self.triplet_weight = triplet_weight
        self.margin = margin

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        negatives, exists = losses.draw_negatives(batch.y, batch.generator)
        triplet = losses.triplet_loss(student.logits, teacher.logits, negatives, exists, margin=self.margin)
        soft = losses.soft_target_loss(student.logits, teacher.logits, temperature=1.0)
        return soft + self.triplet_weight * triplet
