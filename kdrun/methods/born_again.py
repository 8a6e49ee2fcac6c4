"""Born-again networks: a student distilled from an earlier generation of its own architecture."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, StudentOutput, TeacherOutput

VARIANTS = ("kd", "cwtm", "dkpp")


class BornAgain(Distillation):
    """Born-again networks (Furlanello et al., ICML 2018): `hard_weight CE + weight * term`, without a temperature.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        generation: how many times the network is born again, from 1 to 100: the teacher is generation - 1, and
            generation 0 an ordinary training.
        variant: the term. `"kd"`: the teacher's output. `"cwtm"`: cross-entropy with the labels, each image
            weighed by the teacher's confidence. `"dkpp"`: the teacher's output with all probabilities but the
            largest permuted.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        weight: of the term, from 0 to 1e9.
    """

    name = "born_again"
    label = "born again"
    scheme = "self"
    needs = Needs(logits=True, own_architecture=True, generations=True)
    of_teachers = ("generation",)

    def __init__(
        self,
        student: nn.Module,
        *,
        generation: int = 1,
        variant: str = "kd",
        hard_weight: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        losses.check_range("generation", generation, 1, 100)
        losses.check_choice("variant", variant, VARIANTS)
        self.generation = generation
        self.variant = variant
        self.label_kind = "smoothed" if variant == "cwtm" else "mixed"
        self.whole_batch = variant != "kd"  # cwtm divides by a sum over the images, dkpp draws

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        if self.variant == "cwtm":
            return losses.confidence_weighted_loss(student.logits, teacher.logits, batch.y)
        if self.variant == "dkpp":
            return losses.permuted_target_loss(student.logits, teacher.logits, generator=batch.generator)
        return losses.soft_target_loss(student.logits, teacher.logits, temperature=1.0)
