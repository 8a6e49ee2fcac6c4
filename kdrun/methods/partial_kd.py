"""Distilling a part of the teacher's knowledge: its most probable classes, its confidence, class similarity."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Needs, Pair, StudentOutput, TeacherOutput
from kdrun.methods.kd import SoftTargets, maybe_standardized
from kdrun.taps import Outline


class KDTopK(SoftTargets):
    """KD-topk (Tang et al. 2020): KD from the teacher's k most probable classes of each image.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        pair: the networks.
        temperature: T, from 0.001 to 10,000, on both sides.
        alpha: weight of the soft targets, in [0, 1].
        multiplier: further weight of the soft-target term, from 0 to 1e9.
        k: a number of classes (an integer) from 1 to K, or a fraction of them in (0, 1].
        renormalize: the kept probabilities are divided by their sum, see `kdrun.losses.topk_loss`.
        standardize: both networks' logits are standardised first, see `kdrun.losses.standardized`.
    """

    name = "kd_topk"
    label = "KD-topk"
    label_kind = "mixed"
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        *,
        temperature: float = 4.0,
        alpha: float = 0.9,
        multiplier: float = 1.0,
        k: int | float = 0.25,
        renormalize: bool = True,
        standardize: bool = False,
    ) -> None:
        super().__init__(student, temperature=temperature, alpha=alpha, multiplier=multiplier)
        losses.check_k(k, pair.student.num_classes)
        self.k = k
        self.renormalize = renormalize
        self.standardize = standardize

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        logits, targets = maybe_standardized(self.standardize, student.logits, teacher.logits)
        return losses.topk_loss(logits, targets, temperature=self.temperature, k=self.k, renormalize=self.renormalize)


class KDPt(SoftTargets):
    """KD-pt (Tang et al. 2020): KD from the teacher's confidence in the true class alone, the rest spread evenly.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        temperature: T, from 0.001 to 10,000, on both sides.
        alpha: weight of the soft targets, in [0, 1].
        multiplier: further weight of the soft-target term, from 0 to 1e9.
    """

    name = "kd_pt"
    label = "KD-pt"
    whole_batch = False

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        return losses.true_class_loss(student.logits, teacher.logits, batch.y, temperature=self.temperature)


class KDSim(SoftTargets):
    """KD-sim (Tang et al. 2020): KD from the teacher's similarity of the classes, one target a class.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        pair: the networks. The teacher's classifier is its last parameter of two dimensions with K rows.
        temperature: T, from 0.001 to 10,000, of the student's side.
        alpha: weight of the soft targets, in [0, 1].
        multiplier: further weight of the soft-target term, from 0 to 1e9.
        similarity_temperature: what the similarities are divided by before their softmax, from 0.001 to 10,000.
        normalize: similarities are cosines; without it dot products.
    """

    name = "kd_sim"
    label = "KD-sim"
    needs = Needs(logits=True, weights=True)
    whole_batch = False

    def __init__(
        self,
        student: nn.Module,
        pair: Pair,
        *,
        temperature: float = 4.0,
        alpha: float = 0.9,
        multiplier: float = 1.0,
        similarity_temperature: float = 0.2,
        normalize: bool = True,
    ) -> None:
        super().__init__(student, temperature=temperature, alpha=alpha, multiplier=multiplier)
        losses.check_temperature("similarity_temperature", similarity_temperature)
        self.classifier = classifier(pair.teacher, pair.student.num_classes)
        self.similarity_temperature = similarity_temperature
        self.normalize = normalize

    def distill(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput) -> Tensor:
        return losses.class_similarity_loss(
            student.logits,
            teacher.weights[self.classifier],
            batch.y,
            temperature=self.temperature,
            similarity_temperature=self.similarity_temperature,
            normalize=self.normalize,
        )


def classifier(network: Outline, num_rows: int) -> str:
    """The path of a network's last linear layer's weights, one row for each class.

    Raises:
        ValueError: none of its parameters has two dimensions and that many rows.
    """
    found = [path for path, shape in network.parameters.items() if len(shape) == 2 and shape[0] == num_rows]
    if not found:
        raise ValueError(
            f"teacher={network.name}: has no linear classifier: no parameter [{num_rows}, D], a row for each class"
        )
    return found[-1]
