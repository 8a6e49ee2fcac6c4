"""The losses of knowledge distillation: pure tensor functions in closed form, without state.

Conventions. Logits are `[N, K]` (N images, K classes), labels are integer class indices `[N]`; every loss is a
scalar, the mean over the N images. `alpha` weighs the distillation term and `1 - alpha` the hard label.
Everything is computed in log space, outside autocast: float64 stays float64, anything narrower is computed in
float32. Gradients reach the student only.
"""

from kdrun.losses.base import KL_REDUCTIONS, check_choice, check_range, cross_entropy
from kdrun.losses.label_smoothing import (
    SPREADS,
    TFKD_REG_VARIANTS,
    label_smoothing_loss,
    tfkd_reg_loss,
    virtual_teacher_loss,
    virtual_teacher_probs,
)
from kdrun.losses.soft_targets import blend, kd_loss, soft_target_loss

__all__ = [
    "KL_REDUCTIONS",
    "SPREADS",
    "TFKD_REG_VARIANTS",
    "blend",
    "check_choice",
    "check_range",
    "cross_entropy",
    "kd_loss",
    "label_smoothing_loss",
    "soft_target_loss",
    "tfkd_reg_loss",
    "virtual_teacher_loss",
    "virtual_teacher_probs",
]
