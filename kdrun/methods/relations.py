"""Relations between the images of a batch: distances and angles (RKD), similarities (SP)."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, Pair, StudentOutput, TeacherOutput
from kdrun.methods.pairing import one_tap
from kdrun.taps import Outline


class RKD(Distillation):
    """Relational KD (Park et al. 2019): `hard_weight CE + weight (distance_weight L_D + angle_weight L_A)`.

    Args:
        student: the network.
        pair: outlines of student and teacher.
        distance_weight: of the distances in pairs of images, from 0 to 1e9.
        angle_weight: of the angles in triplets of images, from 0 to 1e9.
        weight: of both, from 0 to 1e9.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        student_tap: of any shape; None is the vector that the last layer takes.
        teacher_tap: its counterpart; None likewise. Of one that is named the other is the namesake.
    """

    name = "rkd"
    label = "RKD"
    knowledge = "relation"
    needs = Needs(logits=True, any_task=True)
    label_kind = "mixed"

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        weight: float = 1.0,
        hard_weight: float = 1.0,
        student_tap: str | None = None,
        teacher_tap: str | None = None,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        losses.check_weight("distance_weight", distance_weight)
        losses.check_weight("angle_weight", angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.student_tap, self.teacher_tap = one_tap(pair, student_tap, teacher_tap, lambda network: network.vector)
        self.taps = (self.student_tap,)
        self._ask_features(self.teacher_tap)

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        ours, theirs = student.features[self.student_tap], teacher.features[self.teacher_tap]
        distance = losses.rkd_distance_loss(ours, theirs)
        angle = losses.rkd_angle_loss(ours, theirs)
        return self.distance_weight * distance + self.angle_weight * angle


class SimilarityPreserving(Distillation):
    """Similarity-preserving KD (Tung, Mori 2019): `hard_weight CE + weight ||G_s - G_t||_F^2 / N^2`.

    Args:
        student: the network.
        pair: outlines of student and teacher.
        weight: of the similarities, from 0 to 1e9.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        student_tap: of any shape; None is the last feature map, else the vector that the last layer takes.
        teacher_tap: its counterpart; None likewise. Of one that is named the other is the namesake.
    """

    name = "sp"
    label = "SP"
    knowledge = "relation"
    needs = Needs(logits=True, any_task=True)
    label_kind = "mixed"

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        *,
        weight: float = 3000.0,
        hard_weight: float = 1.0,
        student_tap: str | None = None,
        teacher_tap: str | None = None,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        self.student_tap, self.teacher_tap = one_tap(pair, student_tap, teacher_tap, _last)
        self.taps = (self.student_tap,)
        self._ask_features(self.teacher_tap)

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        return losses.similarity_loss(student.features[self.student_tap], teacher.features[self.teacher_tap])


def _last(network: Outline) -> str:
    return network.maps[-1] if network.maps else network.vector
