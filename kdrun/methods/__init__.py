"""What a student can be taught by: one small class a method, one file a family.

A method sees a batch and what the teacher says about it, and keeps nothing from one batch for another. So the teacher's
FSP matrices are computed at every step, though the teacher does not change: its views do, with every epoch, and what
was computed for an image in another batch equals what is computed now only up to rounding. A run that is resumed, and
so lacks what was kept, would not end with the same bits.
"""

from kdrun.methods.attention import AT
from kdrun.methods.base import (
    Batch,
    Distillation,
    Method,
    Needs,
    Objective,
    Pair,
    StudentOutput,
    TeacherOutput,
)
from kdrun.methods.born_again import BornAgain
from kdrun.methods.dist import DIST
from kdrun.methods.dkd import DKD
from kdrun.methods.dml import DML
from kdrun.methods.fitnet import FitNet
from kdrun.methods.fsp import FSP
from kdrun.methods.hard_labels import CE, LSR
from kdrun.methods.kd import KD, TAKD, KDUniform, TfKDSelf
from kdrun.methods.kd_ensemble import KDEnsemble
from kdrun.methods.logit_matching import LogitMatching
from kdrun.methods.partial_kd import KDPt, KDSim, KDTopK
from kdrun.methods.relations import RKD, SimilarityPreserving
from kdrun.methods.sum import Sum
from kdrun.methods.tfkd_reg import TfKDReg
from kdrun.methods.triplet import Triplet
from kdrun.methods.weight_distillation import WeightDistillation

__all__ = [
    "AT",
    "CE",
    "DIST",
    "DKD",
    "DML",
    "FSP",
    "KD",
    "LSR",
    "RKD",
    "TAKD",
    "Batch",
    "BornAgain",
    "Distillation",
    "FitNet",
    "KDEnsemble",
    "KDPt",
    "KDSim",
    "KDTopK",
    "KDUniform",
    "LogitMatching",
    "Method",
    "Needs",
    "Objective",
    "Pair",
    "SimilarityPreserving",
    "StudentOutput",
    "Sum",
    "TeacherOutput",
    "TfKDReg",
    "TfKDSelf",
    "Triplet",
    "WeightDistillation",
]
