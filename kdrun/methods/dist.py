"""DIST: relations between classes and between images, by correlation."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, StudentOutput, TeacherOutput


class DIST(Distillation):
    """DIST (Huang et al., NeurIPS 2022): `hard_weight CE + weight (beta L_inter + gamma L_intra)`.

    The authors' code weighs the term by 2 T^2. Its settings are T = 4 on CIFAR-100, so 32, the default here, and
    T = 1 on ImageNet, so 2.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        temperature: T, from 0.001 to 10,000, on both sides.
        beta: weight of the relation between the classes of an image, from 0 to 1e9.
        gamma: weight of the relation between the images of a batch, from 0 to 1e9.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        weight: of the term, from 0 to 1e9.
    """

    name = "dist"
    label = "DIST"
    label_kind = "mixed"

    def __init__(
        self,
        student: nn.Module,
        *,
        temperature: float = 4.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        hard_weight: float = 1.0,
        weight: float = 32.0,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        losses.check_temperature("temperature", temperature)
        losses.check_weight("beta", beta)
        losses.check_weight("gamma", gamma)
        self.temperature = temperature
        self.beta = beta
        self.gamma = gamma

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        return losses.dist_loss(
            student.logits, teacher.logits, temperature=self.temperature, beta=self.beta, gamma=self.gamma
        )
