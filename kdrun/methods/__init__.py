"""What a student can be taught by: one small class a method, one file a family."""

from kdrun.methods.attention import AT
from kdrun.methods.base import Batch, Method, Needs, Objective, TeacherOutput
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
    "SimilarityPreserving",
    "Sum",
    "TeacherOutput",
    "TfKDReg",
    "TfKDSelf",
    "Triplet",
    "WeightDistillation",
]
