"""Distilling an ensemble: several teachers, one mean of their soft targets."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Needs, StudentOutput, TeacherOutput
from kdrun.methods.kd import SoftTargets, maybe_standardized


class KDEnsemble(SoftTargets):
    """KD from several teachers (Hinton, Vinyals, Dean 2015): `(1 - alpha) CE + alpha * multiplier * T^2 KL`.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        temperature: T, from 0.001 to 10,000, for every teacher and the student.
        alpha: weight of the soft targets, in [0, 1].
        multiplier: further weight of the soft-target term, from 0 to 1e9.
        mean: of the teachers' softened outputs, `"arithmetic"` or `"geometric"`.
        num_teachers: how many teachers are trained, from 1 to 100, where the config does not name them.
        standardize: all networks' logits are standardised first, see `kdrun.losses.standardized`.
    """

    name = "kd_ensemble"
    label = "KD, ensemble"
    needs = Needs(logits=True, several=True)
    label_kind = "mixed"
    of_teachers = ("num_teachers",)
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        *,
        temperature: float = 4.0,
        alpha: float = 0.9,
        multiplier: float = 1.0,
        mean: str = "arithmetic",
        num_teachers: int = 3,
        standardize: bool = False,
    ) -> None:
        super().__init__(student, temperature=temperature, alpha=alpha, multiplier=multiplier)
        losses.check_choice("mean", mean, losses.ENSEMBLE_MEANS)
        losses.check_range("num_teachers", num_teachers, 1, 100)
        self.mean = mean
        self.num_teachers = num_teachers
        self.standardize = standardize

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        members = teacher.logits[None] if teacher.members is None else teacher.members
        logits, flat = maybe_standardized(self.standardize, student.logits, members.flatten(0, 1))
        targets = flat.view_as(members)
        return losses.ensemble_loss(logits, targets, temperature=self.temperature, mean=self.mean)
