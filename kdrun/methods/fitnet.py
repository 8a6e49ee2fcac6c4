"""FitNets: a hint from the middle of the teacher for the middle of the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Distillation, Needs, Objective, Pair, StudentOutput, TeacherOutput
from kdrun.methods.pairing import one_tap, pooled_notice, shape_at
from kdrun.methods.stages import STAGE1_OPTIONS, stage1_recipe
from kdrun.taps import Outline


class FitNet(Distillation):
    """FitNets (Romero et al. 2015): the regressed features of the student's middle layer follow the teacher's.

    Two stages, the paper's: first the hint alone, `1/2 ||u - r(v)||^2`, which moves the student up to the tap and the
    regressor; then `hard_weight CE + lambda KL(p_T^t || p_T^s)`, lambda falling linearly. One stage
    (`stage1_epochs=0`), RepDistiller's: `hard_weight CE + weight mean (u - r(v))^2`.

    Args:
        student: the network.
        pair: outlines of student and teacher.
        stage1_epochs: length of the first stage; 0 is the one-stage form.
        stage1_lr: learning rate of the first stage, more than 0.
        stage1_milestones: increasing shares of the first stage, in (0, 1).
        stage1_gamma: factor at each of them, in (0, 1].
        temperature: T of the second stage, from 0.001 to 10,000.
        kd_weight_start: lambda at the beginning of the second stage, from 0 to 1e9.
        kd_weight_end: and at its end.
        weight: of the hint in the one-stage form, from 0 to 1e9.
        hard_weight: of the cross-entropy, from 0 to 1e9.
        regressor_relu: a ReLU behind the regressor's BatchNorm (RepDistiller), of feature maps only.
        student_tap: the guided layer; None is the middle one of its feature maps, or the vector where a network has
            none.
        teacher_tap: the hint layer, of as many dimensions; None likewise. Of one that is named the other is the
            namesake.
    """

    name = "fitnet"
    label = "FitNet"
    knowledge = "feature"
    needs = Needs(logits=True, any_task=True)
    label_kind = "mixed"
    term = "hint"
    of_one_stage = ("weight",)
    of_two_stages = (*STAGE1_OPTIONS, "temperature", "kd_weight_start", "kd_weight_end")
    alone = (*Distillation.alone, "stage1_epochs", *of_two_stages)
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        *,
        stage1_epochs: int = 0,
        stage1_lr: float = 1e-4,
        stage1_milestones: tuple[float, ...] = (0.714,),
        stage1_gamma: float = 0.1,
        temperature: float = 3.0,
        kd_weight_start: float = 4.0,
        kd_weight_end: float = 1.0,
        weight: float = 100.0,
        hard_weight: float = 1.0,
        regressor_relu: bool = False,
        student_tap: str | None = None,
        teacher_tap: str | None = None,
    ) -> None:
        super().__init__(student)
        self.weigh(weight, hard_weight)
        self._stage1_recipe = stage1_recipe(stage1_epochs, stage1_lr, stage1_milestones, stage1_gamma)
        self.stage1_epochs = stage1_epochs
        if stage1_epochs:  # the second stage is KD
            self.needs = Needs(logits=True)
        losses.check_temperature("temperature", temperature)
        losses.check_weight("kd_weight_start", kd_weight_start)
        losses.check_weight("kd_weight_end", kd_weight_end)
        self.temperature = temperature
        self.kd_weight_start = kd_weight_start
        self.kd_weight_end = kd_weight_end
        default = _middle if pair.student.maps and pair.teacher.maps else _vector
        self.student_tap, self.teacher_tap = one_tap(pair, student_tap, teacher_tap, default)
        self.taps = (self.student_tap,)
        self._ask_features(self.teacher_tap)
        guided = shape_at("student_tap", self.student_tap, pair.student)
        hint = shape_at("teacher_tap", self.teacher_tap, pair.teacher)
        if len(guided) != len(hint) or len(hint) not in (1, 3):
            raise ValueError(
                f"student_tap={self.student_tap!r}, teacher_tap={self.teacher_tap!r}: must be two feature maps "
                f"[C, H, W] or two vectors [C], and are {list(guided)} and {list(hint)}"
            )
        self.regressor: nn.Module = nn.Linear(guided[0], hint[0])
        if len(hint) == 3:
            convolution = nn.Conv2d(guided[0], hint[0], kernel_size=1, bias=False)
            activation = [nn.ReLU()] if regressor_relu else []
            self.regressor = nn.Sequential(convolution, nn.BatchNorm2d(hint[0]), *activation)
            self.notices = pooled_notice(pair, self.taps, (self.teacher_tap,))
        elif regressor_relu:
            raise ValueError("regressor_relu=True: is of feature maps, and the hint is a vector; must be false")

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        if not self.stage1_epochs:
            return super().objective(student, batch, teacher)
        assert teacher is not None, "needs was not met"
        if self.stage == 0:
            hint = losses.hint_loss(*self._features(student, teacher), reduction="half_sum")
            return Objective.of(student.logits, {"hint": hint}, {"hint": 1.0})
        ce = batch.cross_entropy(student.logits)
        soft = losses.soft_target_loss(student.logits, teacher.logits, temperature=self.temperature)
        kl = soft / self.temperature**2  # the paper's lambda weighs it without T^2
        kd_weight = self.kd_weight_start + (self.kd_weight_end - self.kd_weight_start) * batch.progress
        return Objective.of(student.logits, {"ce": ce, "kd": kl}, {"ce": self.hard_weight, "kd": kd_weight})

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        return losses.hint_loss(*self._features(student, teacher))

    def _features(self, student: StudentOutput, teacher: TeacherOutput) -> tuple[Tensor, Tensor]:
        """The student's features through the regressor, and the teacher's, of one size."""
        guided, hint = student.features[self.student_tap], teacher.features[self.teacher_tap]
        if hint.ndim == 4:
            guided, hint = losses.same_size(guided, hint)
        regressed: Tensor = self.regressor(guided)
        return regressed, hint

    def stage1_recipe(self) -> Mapping[str, Any]:
        return self._stage1_recipe


def _middle(network: Outline) -> str:
    return network.maps[(len(network.maps) - 1) // 2]


def _vector(network: Outline) -> str:
    return network.vector
