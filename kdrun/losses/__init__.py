"""The losses of knowledge distillation: pure tensor functions in closed form, without state.

Conventions. Logits are `[N, K]` (N images, K classes), labels are integer class indices `[N]`; every loss is a
scalar, the mean over the N images. `alpha` weighs the distillation term and `1 - alpha` the hard label.
Everything is computed in log space, outside autocast: float64 stays float64, anything narrower is computed in
float32. Gradients reach the student only.
"""

from kdrun.losses.base import KL_REDUCTIONS, check_choice, check_range, check_temperature, check_weight, cross_entropy
from kdrun.losses.born_again import confidence_weighted_loss, permuted_target_loss
from kdrun.losses.contrastive import contrastive_loss, contrastive_scores, log_normalizer
from kdrun.losses.correlation import dist_loss
from kdrun.losses.decoupled import dkd_loss, other_classes_loss, target_class_loss
from kdrun.losses.ensemble import ENSEMBLE_MEANS, ensemble_loss
from kdrun.losses.features import (
    AT_VARIANTS,
    FSP_REDUCTIONS,
    HINT_REDUCTIONS,
    POOLINGS,
    attention_map,
    attention_transfer_loss,
    embedding,
    fsp_loss,
    fsp_matrix,
    hint_loss,
    same_size,
)
from kdrun.losses.label_smoothing import (
    SPREADS,
    TFKD_REG_VARIANTS,
    label_smoothing_loss,
    tfkd_reg_loss,
    virtual_teacher_loss,
    virtual_teacher_probs,
    virtual_teacher_target,
)
from kdrun.losses.logit_matching import CLASS_REDUCTIONS, logit_matching_loss
from kdrun.losses.partial_targets import check_k, class_similarity_loss, topk_loss, true_class_loss
from kdrun.losses.relations import rkd_angle_loss, rkd_distance_loss, similarity_loss
from kdrun.losses.soft_targets import blend, kd_loss, soft_target_loss, standardized
from kdrun.losses.triplet import draw_negatives, triplet_loss

__all__ = [
    "AT_VARIANTS",
    "CLASS_REDUCTIONS",
    "ENSEMBLE_MEANS",
    "FSP_REDUCTIONS",
    "HINT_REDUCTIONS",
    "KL_REDUCTIONS",
    "POOLINGS",
    "SPREADS",
    "TFKD_REG_VARIANTS",
    "attention_map",
    "attention_transfer_loss",
    "blend",
    "check_choice",
    "check_k",
    "check_range",
    "check_temperature",
    "check_weight",
    "class_similarity_loss",
    "confidence_weighted_loss",
    "contrastive_loss",
    "contrastive_scores",
    "cross_entropy",
    "dist_loss",
    "dkd_loss",
    "draw_negatives",
    "embedding",
    "ensemble_loss",
    "fsp_loss",
    "fsp_matrix",
    "hint_loss",
    "kd_loss",
    "label_smoothing_loss",
    "log_normalizer",
    "logit_matching_loss",
    "other_classes_loss",
    "permuted_target_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "same_size",
    "similarity_loss",
    "soft_target_loss",
    "standardized",
    "target_class_loss",
    "tfkd_reg_loss",
    "topk_loss",
    "triplet_loss",
    "true_class_loss",
    "virtual_teacher_loss",
    "virtual_teacher_probs",
    "virtual_teacher_target",
]
